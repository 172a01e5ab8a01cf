"""Loading a checkpoint folder or hub model as a Policy: frozen parts, LoRA adapters, activation checkpointing, compiling."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.models.branch_attention import Layout, current_layout, use_layout
from sharegrpo_rl.models.policy import Policy, unwrapped
from sharegrpo_rl.models.probe import check_policy
from sharegrpo_rl.models.prompts import PromptSettings, takes_pictures
from sharegrpo_rl.models.smollm2 import NAME

NONE, SELECTIVE, FULL = "none", "selective", "full"
LANGUAGE, VISION, PROJECTOR, AUDIO = "language model", "vision tower", "projector", "audio tower"
# The operators whose results `selective` keeps.
_PRODUCTS = (
    "mm",
    "addmm",
    "bmm",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_flash_attention_forward",
)
# Of glibc's mallopt: above which size a block is mapped by itself, how much freed memory is kept, how much is added.
_MMAP_THRESHOLD, _TRIM_THRESHOLD, _TOP_PAD = -3, -1, -2
_LARGEST = 32 << 20  # glibc takes no higher threshold

Contexts = tuple[AbstractContextManager[None], AbstractContextManager[None]]


@dataclass(frozen=True)
class ModelSettings:
    """Which model, and how it is prepared for training."""

    path: str
    dtype: str = "float32"
    freeze_vision_tower: bool = False
    freeze_projector: bool = False
    lora: dict[str, Any] | None = None
    activation_checkpointing: str = NONE
    compile: bool = False
    temperature: float = 1.0
    logprob_temperature: float | None = None
    prompts: PromptSettings = field(default_factory=PromptSettings)
    seed: int = 0


def load_policy(settings: ModelSettings) -> Policy:
    """The model and its processor as a Policy; UserError where the path or name cannot be loaded."""
    policy = _prepared(settings, *load_model(settings.path, settings.dtype))
    check_policy(policy)
    return policy


def outline_policy(settings: ModelSettings) -> Policy:
    """The same without weights, on `meta`: no memory is taken for them, no byte of them read. Errors as `load_policy`."""
    return _prepared(settings, *load_model(settings.path, settings.dtype, outline=True))


def _prepared(settings: ModelSettings, model: Any, processor: Any) -> Policy:
    _freeze(model, settings)
    if settings.activation_checkpointing != NONE:
        enable_checkpointing(model, settings.activation_checkpointing)
    if settings.compile:
        compile_blocks(model)
    if settings.lora is not None:
        model = _add_lora(model, settings)
    return Policy(model, processor, settings.prompts, settings.temperature, settings.logprob_temperature)


def _freeze(model: Any, settings: ModelSettings) -> None:
    asked = {VISION: settings.freeze_vision_tower, PROJECTOR: settings.freeze_projector}
    parts = Parts(model)
    for part in (part for part, frozen in asked.items() if frozen):
        parameters = [parameter for name, parameter in model.named_parameters() if parts.of(name) == part]
        if not parameters:
            key = f"freeze_{part.replace(' ', '_')}"
            raise UserError(f"{key}: this model ({model.config.model_type}) has no {part}; leave the key out")
        for parameter in parameters:
            parameter.requires_grad_(False)


def _add_lora(model: Any, settings: ModelSettings) -> Any:
    from peft import LoraConfig, get_peft_model

    lora = settings.lora or {}
    targets: Sequence[str] = lora.get("target_modules", ["language"])
    names = {"language": LANGUAGE, "vision": VISION, "projector": PROJECTOR}
    chosen, parts = {names[t] for t in targets}, Parts(model)
    modules = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and not name.endswith("lm_head")
        and parts.of(name) in chosen
        and not _is_fused(model, name)
    ]
    if not modules:
        raise UserError(f"lora.target_modules: {list(targets)} match no linear layer of this model")
    config = LoraConfig(
        r=lora.get("r", 16),
        lora_alpha=lora.get("alpha", 32.0),
        lora_dropout=lora.get("dropout", 0.0),
        target_modules=modules,
    )
    with torch.random.fork_rng(devices=[]), model.device:
        torch.manual_seed(settings.seed)
        return get_peft_model(model, config)


def _is_fused(model: Any, name: str) -> bool:
    """Is it a state space's last product? Kernels on a GPU read its weight themselves: an adapter would do nothing."""
    mixer, _, last = name.rpartition(".")
    return last == "out_proj" and all(hasattr(model.get_submodule(mixer), parameter) for parameter in ("A_log", "D"))


def load_model(path: str, dtype: str, outline: bool = False) -> tuple[Any, Any]:
    """A vision-language model with its processor, or a text-only causal model with its tokenizer. Safetensors only.

    Weights of the type that the files have are mapped, not copied: processes of one node share the pages. An outline has
    everything but their values.
    """
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

    placed = {"device_map": "meta"} if outline else {}
    try:
        sees = takes_pictures(AutoConfig.from_pretrained(path))
        auto, side = (AutoModelForImageTextToText, AutoProcessor) if sees else (AutoModelForCausalLM, AutoTokenizer)
        model = auto.from_pretrained(path, dtype=getattr(torch, dtype), use_safetensors=True, **placed)
        processor = side.from_pretrained(path)
        if not getattr(processor, "tokenizer", processor)("a", add_special_tokens=False)["input_ids"]:
            raise ValueError("its tokenizer is empty; is tokenizer.json missing?")
        if bad := next((name for name, weight in model.named_parameters() if not is_finite(weight)), None):
            raise ValueError(f"its weight {bad} holds NaN or infinite values; was it saved by a run that diverged?")
        return model, processor
    except (ImportError, OSError, ValueError, RuntimeError, SafetensorError) as error:
        where = "folder" if Path(path).exists() else "hub model"
        reason = " ".join(str(error).split())[:200]
        remedy = "give a Hugging Face folder or name"
        if where == "hub model" and Path(path).name == NAME:
            remedy += f", or write the folder first: python -m sharegrpo_rl.models.smollm2 --out {path}"
        raise UserError(f"model: cannot load the {where} {path!r} ({reason}); {remedy}") from error


def is_finite(weight: torch.Tensor) -> bool:
    """Are all values finite? In one pass without a copy; a tensor without values is."""
    if not weight.numel() or not weight.is_floating_point() or weight.is_meta:
        return True
    low, high = torch.aminmax(weight.detach())  # both are NaN where one value is
    return bool(torch.isfinite(low) & torch.isfinite(high))


class Parts:
    """Which part each parameter and module belongs to, by the model's structure.

    The language model is what lies under the decoder, with embeddings and head; the vision tower what was built from
    `vision_config`; the projector all else, mergers inside the tower (Qwen, GLM) among it. Text models have one part.
    """

    def __init__(self, model: Any) -> None:
        inner = unwrapped(model)
        language = {id(m) for m in (inner.get_decoder(), inner.get_input_embeddings(), inner.get_output_embeddings())}
        towers = {
            type(config): VISION if "vision" in key else AUDIO
            for key, config in vars(inner.config).items()
            if key.endswith(("vision_config", "audio_config")) and config is not None
        }
        self._rest = PROJECTOR if towers else LANGUAGE
        self._roots: dict[str, str] = {}
        for name, module in inner.named_modules():
            if id(module) in language:
                self._roots[name] = LANGUAGE
            elif (part := towers.get(type(getattr(module, "config", None)))) and name:
                self._roots[name] = part

    def of(self, name: str) -> str:
        """The part of a parameter or module by its name, peft's and an adapter's names included."""
        pieces = name.removeprefix("base_model.model.").split(".")
        ends = range(len(pieces), 0, -1)
        part = next((self._roots[root] for end in ends if (root := ".".join(pieces[:end])) in self._roots), self._rest)
        return PROJECTOR if part == VISION and any("merger" in piece for piece in pieces) else part


def layers(model: Any) -> list[Any]:
    """Every transformer layer of the language model and of the vision tower."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]


def parameter_table(model: Any) -> list[tuple[str, int, int]]:
    """(part, parameters, trainable parameters) for each part of the model, adapters in a row of their own."""
    rows: dict[str, list[int]] = {}
    parts = Parts(model)
    for name, parameter in model.named_parameters():
        part = f"LoRA ({parts.of(name)})" if "lora_" in name else parts.of(name)
        row = rows.setdefault(part, [0, 0])
        row[0] += parameter.numel()
        row[1] += parameter.numel() * parameter.requires_grad
    return [(part, total, trainable) for part, (total, trainable) in rows.items()]


def save_pretrained(policy: Policy, folder: Path) -> None:
    """A Hugging Face folder with safetensors and processor; LoRA adapters are merged into a copy of the weights."""
    model = policy.model
    if hasattr(model, "merge_adapter"):
        model.merge_adapter()
        try:
            base = model.get_base_model()
            state = {
                key.replace(".base_layer.", "."): value
                for key, value in base.state_dict().items()
                if "lora_" not in key
            }
            base.save_pretrained(folder, state_dict=state)
        finally:
            model.unmerge_adapter()
    else:
        model.save_pretrained(folder)
    policy.processor.save_pretrained(folder)


def compile_blocks(model: Any) -> int:
    """Compile every norm and MLP in place, for any number of tokens; returns how many. Weights keep their names.

    There torch.compile pays: many small passes over memory become one. Attention's layout changes with every micro-batch.
    """
    blocks = [m for name, m in model.named_modules() if name.endswith("mlp") or type(m).__name__.endswith("RMSNorm")]
    for module in blocks:
        module.compile(dynamic=True)
    return len(blocks)


def enable_checkpointing(model: Any, mode: str) -> None:
    """Recompute activations in the backward pass: each layer from its input (`full`, 1604.06174), or all of it but matrix
    products and attention, which are most of the time and about half of the memory (`selective`, 2205.05198)."""
    if mode not in (SELECTIVE, FULL):
        raise ValueError(f"mode is {SELECTIVE} or {FULL}, not {mode!r}")
    contexts = _keep_products if mode == SELECTIVE else _keep_nothing
    model.gradient_checkpointing_enable({"use_reentrant": False, "context_fn": _with_layout(contexts)})


def _keep_nothing() -> Contexts:
    return nullcontext(), nullcontext()


def _keep_products() -> Contexts:
    # A name that another torch does not have is left out: its products are computed again, which costs time alone.
    kept = {getattr(torch.ops.aten, name).default for name in _PRODUCTS if hasattr(torch.ops.aten, name)}

    def policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        return CheckpointPolicy.MUST_SAVE if operation in kept else CheckpointPolicy.PREFER_RECOMPUTE

    forward, recompute = create_selective_checkpoint_contexts(policy)
    return forward, recompute


def _with_layout(contexts: Callable[[], Contexts]) -> Callable[[], Contexts]:
    """A layer that is recomputed follows the layout it first ran with: that context has ended by then."""

    @contextmanager
    def joined(recompute: AbstractContextManager[None], layout: Layout) -> Iterator[None]:
        with recompute, use_layout(layout):
            yield

    def both() -> Contexts:
        forward, recompute = contexts()
        layout = current_layout()
        return forward, recompute if layout is None else joined(recompute, layout)

    return both


def keep_freed_memory() -> bool:
    """Let this process reuse freed memory instead of handing it back; False where the C library is not glibc.

    A training step on a CPU makes and frees the same tensors over and over, and fresh memory costs a page fault every 4 KB.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(mallopt(*s) for s in ((_MMAP_THRESHOLD, _LARGEST), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, _LARGEST)))
