"""How much a group of rewards can teach: the ratios of R1-ShareVL's Figure 1b and their relatives."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


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
