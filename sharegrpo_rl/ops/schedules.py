"""Courses of a value over optimizer steps."""

from __future__ import annotations

from math import cos, pi


def lr_multiplier(step: int, schedule: str, warmup_steps: int, total_steps: int | None) -> float:
    """Factor on the learning rate for optimizer step `step` (0 = the first): linear warm-up, then the schedule.

    linear and cosine fall to 0 at `total_steps`, which they need; beyond it they stay there.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    if total_steps is None:
        raise ValueError(f"a {schedule} schedule needs the planned number of optimizer steps")
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return 1.0 - progress if schedule == "linear" else (1 + cos(pi * progress)) / 2
