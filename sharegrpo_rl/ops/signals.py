"""Which groups are worth training on, and how replayed completions are drawn."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# ---- How much a group of rewards can teach: the ratios of R1-ShareVL's Figure 1b and their relatives.


def varies(values: NDArray[np.float64]) -> bool:
    """Are the values of a group not all equal? Then, and only then, some advantage is not 0."""
    return bool(values.max() > values.min())


def valid_ratio(groups: list[NDArray[np.float64]]) -> float:
    """Share of groups `[V, N]` whose values are not all equal."""
    return float(np.mean([varies(g) for g in groups]))


def valid_slot_ratio(groups: list[NDArray[np.float64]]) -> float:
    """Share of single slots `[N]` whose values are not all equal: what GRPO within each variant would have."""
    return float(np.mean([varies(slot) for g in groups for slot in g]))


def reward_density(accuracies: list[NDArray[np.float64]]) -> float:
    """Share of completions with accuracy 1."""
    return float(np.mean(np.concatenate([g.ravel() for g in accuracies]) >= 1))


def solved_ratio(accuracies: list[NDArray[np.float64]]) -> float:
    """Share of questions with at least one completion of accuracy 1."""
    return float(np.mean([g.max() >= 1 for g in accuracies]))


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
