"""What differs between model families: who takes the shared-prefix forward, how logits are made, ids that are banned."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.models.branch_attention import NAME, register

# Tested against one row per completion, log-probs and gradients: tests/models/test_shared_prefix_families.py
SHARED_PREFIX = (
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "qwen3_vl_moe",
    "qwen3_5",
    "qwen3_5_moe",
    "glm4v",
    "glm46v",
    "gemma3",
    "gemma4",
    "aya_vision",
    "llava",
    "llava_next",
    "llava_onevision",
    "deepseek_vl",
    "lfm2_vl",
    "mistral3",
    "internvl",
    "idefics3",
    "smolvlm",
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "llama",
    "smollm3",
    "lfm2",
    "mistral",
    "cohere",
    "cohere2",
    "granite",
    "phi3",
    "mixtral",
    "olmo2",
    "glm4",
    "gemma",
    "ernie4_5",
)
# Types of layers that go on from a prompt: attention over all of it, and those with a state (`models/recurrence.py`).
SHARED_LAYERS = {"full_attention", "sliding_attention", "linear_attention", "conv"}
# Ids of a config that are of text; all others belong to pictures, sound or video.
_TEXT_IDS = (
    "bos",
    "eos",
    "pad",
    "sep",
    "unk",
    "cls",
    "mask",
    "decoder_start",
    "forced",
    "think",
    "tool",
    "end_of_turn",
)
# What special tokens of pictures, sound and video are called: those that no config and no processor names.
_MEDIA = re.compile(
    r"ima?ge?|vision|video|audio|speech|sound|media|frame|tile|slice|thumbnail|row_\d|col_\d", re.IGNORECASE
)


def obstacle(model: Any) -> str | None:
    """Why this model runs one row per completion instead of sharing the prompt; None where it shares.

    A family that is only unknown may share after all: `probe.check_policy` tries when it is loaded.
    """
    if unknown := unknown_family(model):
        return structural_obstacle(model) or f"the family {unknown} is not among those it is tested for"
    return structural_obstacle(model)


def unknown_family(model: Any) -> str | None:
    """The model's type where the shared prefix is not tested for it."""
    families = {config.model_type.removesuffix("_text") for config in (model.config, model.config.get_text_config())}
    return min(families - set(SHARED_PREFIX), default=None)


def structural_obstacle(model: Any) -> str | None:
    """What in a model's attention keeps completions from sharing their prompt, whatever its family."""
    text = model.config.get_text_config()
    if other := sorted(set(getattr(text, "layer_types", None) or ()) - SHARED_LAYERS):
        return f"it has layers of {', '.join(other)}"
    if getattr(text, "attn_logit_softcapping", None) is not None:
        return "its attention has a soft cap"
    return None


@dataclass(frozen=True)
class LogitRule:
    """What a model does to the output of its head: logits = cap * tanh(scale * output / cap)."""

    scale: float = 1.0
    cap: float | None = None

    def __call__(self, output: Tensor) -> Tensor:
        scaled = output if self.scale == 1 else output * self.scale
        return scaled if self.cap is None else self.cap * torch.tanh(scaled / self.cap)


UNCHANGED = LogitRule()
_SMALL, _LARGE = 2.0**-9, 2.0**10  # outputs far below and far above any cap


@torch.no_grad()
def logit_rule(model: Any, ids: Tensor) -> LogitRule:
    """The rule by which a model makes logits of hidden states, measured: known ones are put in place of its own.

    ids [1, L]: any text. UserError where it is neither a scale nor a soft cap: the trainer would learn another distribution.
    """
    head, base = model.get_output_embeddings(), getattr(model, "model", None)
    name = model.config.model_type
    if head is None or base is None:
        raise UserError(
            f"model: {name} has no inner model and output layer that the trainer could run; choose another one"
        )
    weight = head.weight
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, ids.shape[1], weight.shape[1], generator=generator).to(weight.device, weight.dtype)
    hidden /= head(hidden).float().std()

    def outputs(size: float) -> tuple[Tensor, Tensor]:
        """The model's own logits and its head's output, of hidden states of this size."""
        scaled = hidden * size
        with first_layers(model), _hidden_states(base, scaled):
            own = model(input_ids=ids.to(weight.device), use_cache=False).logits
        return own.double(), head(scaled).double()

    own, output = outputs(_SMALL)
    large = output.abs() > output.abs().mean()  # some rows of a head may be 0
    scale = _written(model, float((own / output)[large].median()), weight.dtype)
    rule, gap = UNCHANGED, math.inf
    if scale and math.isfinite(scale):
        own, output = outputs(_LARGE / abs(scale))
        peak = float(own.abs().max())
        cap = None if peak > 0.9 * float((scale * output).abs().max()) else _written(model, peak, weight.dtype)
        rule = LogitRule(scale, cap)
        own, output = outputs((cap or 1.0) / abs(scale))
        gap = float((own - rule(output)).abs().max() / own.abs().max())
    if not gap <= 64 * torch.finfo(weight.dtype).eps:
        raise UserError(
            f"model: {name} changes its logits in a way that is neither a scale nor a soft cap (they differ by {gap:.1g} of the "
            "largest), which is not supported"
        )
    return rule


def _written(model: Any, measured: float, dtype: torch.dtype) -> float:
    """The number of the model's config, or one over it, that was measured; the measured one where none is near."""
    numbers = [1.0, *(float(v) for v in model.config.get_text_config().to_dict().values() if type(v) in (int, float))]
    candidates = [number for v in numbers if v for number in (v, 1 / v)]
    nearest = min(candidates, key=lambda number: abs(number - measured))
    return nearest if abs(nearest - measured) <= 8 * torch.finfo(dtype).eps * abs(measured) else measured


@contextmanager
def _hidden_states(base: nn.Module, hidden: Tensor) -> Iterator[None]:
    """Inside, the base model ends in these hidden states, whatever it computes."""

    def put(module: nn.Module, args: Any, out: Any) -> Any:
        out.last_hidden_state = hidden
        return out

    hook = base.register_forward_hook(put)
    try:
        yield
    finally:
        hook.remove()


def first_layer_count(model: Any) -> int:
    """How many of a language model's first layers have one of each kind among them; two at least.

    A kind is a type of attention and the modules that a layer is made of. Layers that share the keys of others all count.
    """
    decoder = model.get_decoder()
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, nn.ModuleList) or getattr(decoder.config, "num_kv_shared_layers", None):
        return int(model.config.get_text_config().num_hidden_layers)
    types = getattr(decoder.config, "layer_types", None) or [None] * len(layers)
    kinds = [(kind, *map(type, layer.modules())) for kind, layer in zip(types, layers, strict=False)]
    return max(2, *(kinds.index(kind) + 1 for kind in set(kinds)))


@contextmanager
def first_layers(model: Any) -> Iterator[None]:
    """Inside, the language model has only its first layers: enough to compare forwards."""
    decoder = model.get_decoder()
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        yield
        return
    decoder.layers = layers[: first_layer_count(model)]
    try:
        yield
    finally:
        decoder.layers = layers


@contextmanager
def narrow_windows(model: Any, tokens: int) -> Iterator[None]:
    """Inside, sliding windows are at most this long: texts of any length then show whether they are kept to."""
    text = model.config.get_text_config()
    holders = [text, *(m for m in model.get_decoder().modules() if type(getattr(m, "sliding_window", None)) is int)]
    before = [getattr(holder, "sliding_window", None) for holder in holders]
    for holder, window in zip(holders, before, strict=True):
        if window is not None:
            holder.sliding_window = min(window, tokens)
    try:
        yield
    finally:
        for holder, window in zip(holders, before, strict=True):
            if window is not None:
                holder.sliding_window = window


def use_branch_attention(model: Any) -> None:
    """Switch the language model (not the vision tower) to branch attention."""
    register()
    model.set_attn_implementation({"text_config": NAME} if hasattr(model.config, "text_config") else NAME)


def use_exact_attention(model: Any) -> None:
    """Switch to the plain attention where a soft cap on its scores (Gemma 2) would be left out by fused kernels."""
    if getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None:
        model.set_attn_implementation("eager")


def banned_ids(model: Any, processor: Any) -> list[int]:
    """Ids that must never be sampled: those of pictures, sound and video (the next forward would look for what they stand
    for), and padding of the head. Found in config and processor, and among the tokenizer's special tokens."""
    tokenizer = getattr(processor, "tokenizer", processor)
    rows = model.get_output_embeddings().weight.shape[0]
    special = {str(t): i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    named = {value for name, value in vars(processor).items() if name.endswith("_token") and _MEDIA.search(name)}
    ids = {i for token, i in special.items() if token in named or _MEDIA.search(token)}
    for name, value in model.config.to_dict().items():
        if name.endswith(("_token_id", "_token_index")) and not name.startswith(_TEXT_IDS):
            ids |= {value} if isinstance(value, int) else set()
    ids = (ids | set(range(len(tokenizer), rows))) - {*end_ids(model, tokenizer), tokenizer.bos_token_id}
    return sorted(i for i in ids if 0 <= i < rows)


def end_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Ids that end a completion: those of the generation config and the tokenizer's own."""
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed = [ends] if isinstance(ends, int) else list(ends or [])
    known = tuple(dict.fromkeys(i for i in (*listed, tokenizer.eos_token_id) if i is not None))
    if not known:
        raise UserError(
            "model: neither its generation_config.json nor its tokenizer names an end token (eos_token_id), so no completion "
            "could end; add one"
        )
    return known
