"""Which groups are worth training on, and how replayed completions are drawn."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def dynamic_sampling(accuracies: Array) -> bool:
    """DAPO: keep a group unless all its completions are right or all are wrong. accuracies: any shape."""
    return bool(accuracies.max() > accuracies.min())


def online_filter(accuracies: Array, low: float, high: float) -> bool:
    """MM-Eureka: keep a group whose mean accuracy lies in [low, high], both included."""
    return bool(low <= accuracies.mean() <= high)


def replay_probabilities(advantages: Array, alpha: float) -> Array:
    """VL-Rethinker's selective sample replay: p proportional to |A|^alpha, `[K]`; A = 0 is never drawn."""
    size = np.abs(advantages)
    weights = np.where(size > 0, size**alpha, 0.0)
    if weights.sum() == 0:
        raise ValueError("no completion has an advantage, so none can be replayed")
    return weights / weights.sum()
