"""Which model families take the shared-prefix forward, and what keeps the others from it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from sharegrpo_rl.data.types import Prompt, PromptPack
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.models.branch_attention import NAME, register
from sharegrpo_rl.models.pack_forward import TokenValues, branch_logprobs, padded_logprobs
from sharegrpo_rl.models.prompts import PromptEncoder, PromptSettings
from sharegrpo_rl.models.vision import ImageBank, accepts_features, use_matrix_products, use_window_attention

# Tested against one row per completion, log-probs and gradients: tests/models/test_shared_prefix_families.py
SHARED_PREFIX = (
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "llava",
    "idefics3",
    "smolvlm",
    "qwen2",
    "qwen3",
    "llama",
    "mistral",
)
# What a model does to its logits besides the head; training and sampling would disagree about it.
LOGIT_RULES = ("final_logit_softcapping", "logit_scale", "logits_scaling")


def obstacle(model: Any) -> str | None:
    """Why this model runs one row per completion instead of sharing the prompt; None where it shares."""
    text = model.config.get_text_config()
    families = {model.config.model_type, text.model_type.removesuffix("_text")}
    if unknown := sorted(families - set(SHARED_PREFIX)):
        return f"the family {unknown[0]} is not among those it is tested for"
    layers = getattr(text, "layer_types", None)
    if layers is not None and set(layers) != {"full_attention"}:
        return f"its layers are {', '.join(sorted(set(layers)))}, not full attention alone"
    if layers is None and getattr(text, "sliding_window", None) is not None:
        return f"its attention has a sliding window ({text.sliding_window} tokens)"
    return None


def logit_rule(model: Any) -> str | None:
    """The setting by which a model caps or scales its logits after the head; None where it does neither."""
    text = model.config.get_text_config()
    return next((name for name in LOGIT_RULES if getattr(text, name, None) not in (None, 1.0)), None)


def use_branch_attention(model: Any) -> None:
    """Switch the language model (not the vision tower) to branch attention."""
    register()
    model.set_attn_implementation({"text_config": NAME} if hasattr(model.config, "text_config") else NAME)


# ---- A policy: a model, its processor, the ids it may not say, and the log-probs of what it said.

VISION_TOKENS = (
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<image>",
    "<image_soft_token>",
    "<start_of_image>",
    "<end_of_image>",
    "<fake_token_around_image>",
    "<global-img>",
)


@cache
def _warn_once(text: str) -> None:
    logging.getLogger(__name__).warning(text)


class Policy:
    """A model ready for generation and training; the distribution is softmax(logits / temperature) without banned ids."""

    def __init__(self, model: Any, processor: Any, prompts: PromptSettings, temperature: float = 1.0) -> None:
        self.model = model
        self.processor = processor
        self.encoder = PromptEncoder(processor, prompts)
        self.temperature = temperature
        inner = unwrapped(model)
        if rule := logit_rule(inner):
            raise UserError(f"model: {inner.config.model_type} changes its logits by {rule}, which is not supported")
        self.obstacle = obstacle(inner)  # why completions cannot share their prompt's forward; None where they do
        self.shares_prefix = self.obstacle is None
        if self.shares_prefix:
            use_branch_attention(inner)
        else:
            _warn_once(f"one row per completion, the prompt repeated in each: {self.obstacle}")
        use_matrix_products(inner)
        use_window_attention(inner)
        tokenizer = self.encoder.tokenizer
        self.pad_id: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        self.end_ids: tuple[int, ...] = _end_ids(model, tokenizer)
        self.banned: Tensor = torch.tensor(banned_ids(model, tokenizer), dtype=torch.long)
        # Set where the model is sharded: runs a function while the weights that belong to no layer are at hand.
        self.unsharded: Callable[[Callable[[], TokenValues]], TokenValues] | None = None
        self.loaded_dtypes: dict[str, torch.dtype] = {}  # by name, where the sharded weights are held in a wider type

    @property
    def sharded(self) -> bool:
        """Is each weight spread over several processes? Then every pass is collective."""
        return self.unsharded is not None

    def image_bank(self, batches: Sequence[Sequence[Prompt]]) -> ImageBank | None:
        """The images of several batches of prompts, each to be encoded once; None where the model takes none, or runs
        row by row: other families may want more beside their features than we know. None where the model is sharded
        too: its vision tower must run, forward and backward, at the same times on every rank."""
        model = unwrapped(self.model)
        possible = self.shares_prefix and accepts_features(model) and not self.sharded
        return ImageBank(model, batches) if possible else None

    def logprobs(self, packs: Sequence[PromptPack], images: ImageBank | None = None) -> TokenValues:
        """Log-probs and entropies of all completion tokens of the packs, flat and in order.

        With `images` the bank's features are used; its gradients wait there until `release`.
        """
        return self._forward(packs, self.temperature, images)

    def target_logprobs(self, packs: Sequence[PromptPack]) -> Tensor:
        """Log-probs of given targets at temperature 1, for supervised training; flat [N]."""
        return self._forward(packs, 1.0, None).logprobs

    def adapters_off(self) -> AdaptersOff:
        """This LoRA policy as it was before training."""
        return AdaptersOff(self)

    def _forward(self, packs: Sequence[PromptPack], temperature: float, images: ImageBank | None) -> TokenValues:
        model = unwrapped(self.model)

        def values() -> TokenValues:
            if self.shares_prefix:
                features = None if images is None else images.of([p.prompt for p in packs])
                return branch_logprobs(model, packs, temperature, self.banned, features)
            return padded_logprobs(model, packs, temperature, self.banned, self.pad_id)

        return values() if self.unsharded is None else self.unsharded(values)


class AdaptersOff:
    """A LoRA policy as it was before training: its own model, adapters switched off. Nothing is copied."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def image_bank(self, batches: Sequence[Sequence[Prompt]]) -> ImageBank | None:
        """As the policy's; its images are encoded without adapters too."""
        return self.policy.image_bank(batches)

    def logprobs(self, packs: Sequence[PromptPack], images: ImageBank | None = None) -> TokenValues:
        """As the policy's, without adapters and without gradients: a backward pass would find them switched on again."""
        with torch.no_grad(), self.policy.model.disable_adapter():
            return self.policy.logprobs(packs, images)


def banned_ids(model: Any, tokenizer: Any) -> list[int]:
    """Ids that must never be sampled: vision specials (a later forward would look for their images), and padding of the head."""
    vocabulary = tokenizer.get_vocab()
    ids = {vocabulary[t] for t in VISION_TOKENS if t in vocabulary}
    config = unwrapped(model).config
    for name in (
        "image_token_id",
        "video_token_id",
        "vision_start_token_id",
        "vision_end_token_id",
        "boi_token_id",
        "eoi_token_id",
    ):
        value = getattr(config, name, None)
        if isinstance(value, int):
            ids.add(value)
    size = unwrapped(model).get_output_embeddings().weight.shape[0]
    return sorted(ids | set(range(len(tokenizer), size)))


def unwrapped(model: Any) -> Any:
    """The transformers model under a peft wrapper, its adapters still in place."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _end_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed = [ends] if isinstance(ends, int) else list(ends or [])
    return tuple(dict.fromkeys([*listed, tokenizer.eos_token_id]))
