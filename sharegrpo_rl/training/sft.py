"""Supervised fine-tuning on (prompt, target) pairs: the warm start before reinforcement learning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sharegrpo_rl.data.types import Completion, Prompt, PromptPack
from sharegrpo_rl.models.policy import Policy
from sharegrpo_rl.ops.schedules import lr_multiplier
from sharegrpo_rl.training.microbatch import micro_batches
from sharegrpo_rl.training.optimizer import build_optimizer
from sharegrpo_rl.training.settings import TrainingSettings


@dataclass(frozen=True)
class SFTSettings:
    """A supervised phase: `steps` optimizer steps of `batch_size` rows, linear warm-up and linear decay to 0."""

    steps: int = 500
    batch_size: int = 32
    lr: float = 2e-3
    warmup_steps: int = 50
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    token_budget: int = 16384


def target_pack(policy: Policy, row: int, prompt: Prompt, target: str) -> PromptPack:
    """One row as a pack of one completion: the target's tokens and the end token."""
    ids = [*policy.encoder.tokenizer(target, add_special_tokens=False)["input_ids"], policy.end_ids[0]]
    tokens = np.asarray(ids, np.int64)
    completion = Completion(tokens, np.zeros(len(tokens), np.float32), target)
    return PromptPack(row, 0, prompt, (completion,), np.ones(1), np.ones(1, bool))


def supervise(
    policy: Policy,
    batch: Callable[[int], Sequence[PromptPack]],
    settings: SFTSettings,
    on_step: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Minimise the mean negative log-likelihood of the target tokens; `batch(step)` gives a step's rows. Returns losses."""
    options = TrainingSettings(lr=settings.lr, weight_decay=settings.weight_decay)
    optimizer = build_optimizer(policy.model, options)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    policy.model.train()
    losses = []
    for step in range(settings.steps):
        factor = lr_multiplier(step, "linear", min(settings.warmup_steps, settings.steps // 2), settings.steps)
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        packs = batch(step)
        tokens = sum(len(c.token_ids) for p in packs for c in p.completions)
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for micro in micro_batches(packs, settings.token_budget):
            loss = -policy.target_logprobs(micro).sum() / tokens
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(parameters, settings.grad_clip)
        optimizer.step()
        losses.append(total)
        if on_step:
            on_step(step, total)
    return losses
