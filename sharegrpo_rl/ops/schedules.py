"""Schedules over optimizer steps: the learning rate, and the weight of the KL term."""

from __future__ import annotations

from math import cos, pi


def lr_multiplier(
    step: int, schedule: str, warmup_steps: int, total_steps: int | None, min_ratio: float = 0.0
) -> float:
    """Factor on the learning rate for optimizer step `step` (0 = the first): linear warm-up, then the schedule.

    linear and cosine need `total_steps`, fall to `min_ratio` there, and stay at it.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    if total_steps is None:
        raise ValueError(f"a {schedule} schedule needs the planned number of optimizer steps")
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    left = 1.0 - progress if schedule == "linear" else (1 + cos(pi * progress)) / 2
    return min_ratio + (1.0 - min_ratio) * left


def kl_weight(step: int, schedule: str, total_steps: int, low: float, high: float, turn: float = 0.3) -> float:
    """GRPO-D's weight of the KL term at optimizer step `step` (0 = the first); OThink-MR1 eq. 3 (O3).

    v_shape, the equation: from (low + high) / 2 down to `low` at w = turn x total_steps, then up to `high` at
    total_steps. (The paper's "beta_min = (beta_min + beta_max) / 2" can only mean the middle.) linear_increase, the
    paper's prose: from `low` up to `high`. Beyond total_steps both stay at `high`.
    """
    if total_steps < 1:
        raise ValueError("a KL schedule needs the planned number of optimizer steps")
    step = min(step, total_steps)
    if schedule == "linear_increase":
        return low + (high - low) * step / total_steps
    if schedule != "v_shape":
        raise ValueError(f"unknown KL schedule {schedule!r}")
    bottom = turn * total_steps
    if step <= bottom:
        middle = (low + high) / 2
        return middle - (middle - low) * step / bottom if bottom else middle
    return low + (high - low) * (step - bottom) / (total_steps - bottom)
