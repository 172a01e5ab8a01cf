"""The sides of `gpu_step.py`: a learner on a random model of real sizes, ours or a peer's, made ready as its words say."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from checkpoint import LIMITS
from real_sizes import build
from rows import RowLearner, training_rows

from sharegrpo_rl.config import GRPOOptions
from sharegrpo_rl.data.types import PromptPack
from sharegrpo_rl.models import branch_attention
from sharegrpo_rl.models.loading import FULL, SELECTIVE, compile_blocks, enable_checkpointing
from sharegrpo_rl.models.policy import Policy
from sharegrpo_rl.models.prompts import PromptEncoder
from sharegrpo_rl.models.vision import use_window_attention
from sharegrpo_rl.training.optimizer import build_optimizer
from sharegrpo_rl.training.step import TrainingStep

GRAD_CLIP = 1.0
WORDS = ("checkpointed", "products", "portable", "windows", "compiled", "lora")

Step = Callable[[], tuple[float, float]]  # the loss, and the gradient's norm before it was clipped
Prepare = Callable[[Sequence[PromptPack]], Step]


def make_side(options: argparse.Namespace) -> tuple[Any, Any, Prepare]:
    """The model, what encodes its prompts (`encoder`), and what makes a step of packs."""
    name, *words = options.side.split("+")
    if unknown := set(words) - set(WORDS):
        raise SystemExit(f"--sides {options.side}: no such word: {', '.join(unknown)} (known: {', '.join(WORDS)})")
    model, processor = build(options.model, options.device, getattr(torch, options.dtype))
    if "windows" in words:
        use_window_attention(model)
    if "portable" in words:
        branch_attention.has_kernels = lambda x: False
    if "compiled" in words:
        compile_blocks(model)
    if "checkpointed" in words or "products" in words:
        enable_checkpointing(model, SELECTIVE if "products" in words else FULL)
    if name == "ours":
        return _ours(_with_adapters(model) if "lora" in words else model, processor, options)
    encodes = SimpleNamespace(encoder=PromptEncoder(processor, LIMITS))
    return model, encodes, _peer(name, model, processor, "checkpointed" in words, options)


def _with_adapters(model: Any) -> Any:
    """The LoRA of the 7B example: rank 64 in all linear layers of the language model."""
    from peft import LoraConfig, get_peft_model

    layers = r".*language_model\.layers\..*_proj"
    return get_peft_model(model, LoraConfig(r=64, lora_alpha=128, target_modules=layers))


def _ours(model: Any, processor: Any, options: argparse.Namespace) -> tuple[Any, Any, Prepare]:
    policy = Policy(model, processor, LIMITS)
    policy.banned = torch.empty(0, dtype=torch.long)
    training = TrainingStep(
        policy,
        GRPOOptions(lr=1e-30, grad_clip=GRAD_CLIP, max_tokens_per_microbatch=options.max_tokens_per_microbatch),
    )

    def prepare(packs: Sequence[PromptPack]) -> Step:
        def step() -> tuple[float, float]:
            metrics = training.update(packs)
            return metrics["policy_loss"], metrics["grad_norm"]

        return step

    return model, policy, prepare


def _peer(name: str, model: Any, processor: Any, checkpointed: bool, options: argparse.Namespace) -> Prepare:
    """A micro-batch for each prompt, its rows ready on the device."""
    if name == "rows":
        optimizer = build_optimizer(model, GRPOOptions(lr=1e-30))
        learner: Any = RowLearner(model, 0.0, GRAD_CLIP, optimizer)
    elif name == "trl":
        from trl_peer import TrlLearner

        half = options.dtype == "bfloat16"
        learner = TrlLearner(model, 0.0, GRAD_CLIP, processor, gradient_checkpointing=checkpointed, bf16=half)
    else:
        raise SystemExit(f"--sides {options.side}: no such side: {name} (known: ours, rows, trl)")
    config = model.config

    def prepare(packs: Sequence[PromptPack]) -> Step:
        micro = [training_rows([p], config.text_config.pad_token_id, config.image_token_id) for p in packs]
        items = sum(rows["num_items_in_batch"] for rows in micro)
        ready = [{k: _on(v, options) for k, v in (rows | {"num_items_in_batch": items}).items()} for rows in micro]
        return lambda: learner.step(*ready)

    return prepare


def _on(value: Any, options: argparse.Namespace) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    pixels = value.is_floating_point() and value.ndim == 2 and value.shape[1] > 1000
    return value.to(options.device, getattr(torch, options.dtype) if pixels else value.dtype)
