"""What the training step needs to know; field names are the option names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from sharegrpo_rl.ops.schedules import kl_weight


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
    kl_in: str = "loss"
    kl_on_shared: bool = False
    kl_schedule: str = "constant"
    kl_min: float = 0.0
    kl_max: float = 0.0
    kl_turn: float = 0.3
    kl_schedule_steps: int | None = None
    top_p: float = 1.0
    rollout_lag: int = 0
    importance_correction: str = "auto"
    importance_level: str = "token"
    importance_cap: float = 2.0
    exclude_zero_advantage: bool = False
    mask_truncated: bool = False
    objective: str = "policy"  # or `supervised`: the negative log-likelihood of the completions

    @property
    def uses_reference(self) -> bool:
        """Does a KL to the reference policy take part, at any step?"""
        return self.kl_coeff > 0 if self.kl_schedule == "constant" else max(self.kl_min, self.kl_max) > 0

    @property
    def kl_in_loss(self) -> bool:
        return self.uses_reference and self.kl_in == "loss"

    @property
    def correction(self) -> str:
        """The importance correction that is meant: `auto` is on where sampler and trainer are known to differ."""
        if self.importance_correction != "auto":
            return self.importance_correction
        return "truncate" if self.top_p < 1 or self.rollout_lag else "none"

    def kl_weight(self, step: int) -> float:
        """Weight of the KL at an optimizer step (0 = the first)."""
        if self.kl_schedule == "constant":
            return self.kl_coeff
        total = self.kl_schedule_steps or self.total_steps
        if total is None:
            raise ValueError("a KL schedule needs kl_schedule_steps or total_steps")
        return kl_weight(step, self.kl_schedule, total, self.kl_min, self.kl_max, self.kl_turn)

    @classmethod
    def pick(cls, options: Mapping[str, Any]) -> TrainingSettings:
        """The settings among a run's options."""
        chosen = {f.name: options[f.name] for f in fields(cls) if f.name in options}
        chosen["adam_betas"] = tuple(chosen.get("adam_betas", cls.adam_betas))
        return cls(**chosen)
