"""What the training step needs to know; field names are the option names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class TrainingSettings:
    """Optimization and loss settings; see `options.py` for meaning, units and sources."""

    lr: float = 1e-6
    vision_lr: float | None = None
    lr_schedule: str = "constant"
    lr_warmup_steps: int = 0
    total_steps: int | None = None
    weight_decay: float = 0.0
    adam_betas: tuple[float, float] = (0.9, 0.999)
    grad_clip: float = 1.0
    minibatch_size: int | None = None
    num_epochs: int = 1
    token_budget: int = 16384
    max_completion_tokens: int = 512
    ratio_level: str = "token"
    loss_aggregation: str = "token_mean"
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = None
    kl_coeff: float = 0.0
    kl_estimator: str = "k3"
    kl_on_shared: bool = False
    exclude_zero_advantage: bool = False
    mask_truncated: bool = False

    @classmethod
    def pick(cls, options: Mapping[str, Any]) -> TrainingSettings:
        """The settings among a run's options."""
        chosen = {f.name: options[f.name] for f in fields(cls) if f.name in options}
        chosen["adam_betas"] = tuple(chosen.get("adam_betas", cls.adam_betas))
        return cls(**chosen)
