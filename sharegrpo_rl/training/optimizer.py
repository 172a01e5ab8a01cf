"""AdamW with its own learning rate for vision tower and projector, and the course of both."""

from __future__ import annotations

from typing import Any

import torch

from sharegrpo_rl.models.loading import LANGUAGE, part_of
from sharegrpo_rl.ops.schedules import lr_multiplier
from sharegrpo_rl.training.master_weights import MasterWeightsAdamW
from sharegrpo_rl.training.settings import TrainingSettings


def build_optimizer(model: Any, settings: TrainingSettings) -> MasterWeightsAdamW:
    """One group for each pair (language or vision, decayed or not); vectors are not decayed. Its weights are float32."""
    groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((part_of(name) != LANGUAGE, parameter.ndim > 1), []).append(parameter)
    if not groups:
        raise ValueError("the model has no trainable parameters")
    return MasterWeightsAdamW(
        [
            {
                "params": parameters,
                "base_lr": settings.vision_lr if vision and settings.vision_lr is not None else settings.lr,
                "weight_decay": settings.weight_decay if decayed else 0.0,
            }
            for (vision, decayed), parameters in groups.items()
        ],
        lr=settings.lr,
        betas=settings.adam_betas,
        fused=all(p.is_floating_point() for ps in groups.values() for p in ps),
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, settings: TrainingSettings, step: int) -> float:
    """Set every group's rate for optimizer step `step` (0 = the first); returns the language model's."""
    factor = lr_multiplier(step, settings.lr_schedule, settings.lr_warmup_steps, settings.total_steps)
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    return settings.lr * factor
