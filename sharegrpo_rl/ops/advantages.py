"""Group-relative advantages (equations S1, S5, S6, S7), and which groups of rewards have any. V variants, N samples."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


def standardize(rewards: Tensor, dims: Sequence[int], std: str = "std", eps: float = 0.0, copies: int = 1) -> Tensor:
    """(reward - mean) / (standard deviation + eps) over `dims`; exactly 0 where all rewards of a group are equal.

    rewards: any shape, floating point. std: `std` (n - 1), `population_std` (n) or `none` (Dr. GRPO: mean only).
    copies: each reward counted this many times in the standard deviation, as in R1-ShareVL's released code.
    Equality is judged by the range, not by an epsilon: in floating point the mean of equal rewards can differ from them.
    Raises ValueError for a group of one, which has nothing to compare with.
    """
    dims = tuple(dims)
    count = prod(rewards.shape[d] for d in dims)
    if count < 2:
        raise ValueError("a group-relative advantage needs at least two rewards in each group")
    centred = rewards - rewards.mean(dims, keepdim=True)
    equal = rewards.amax(dims, keepdim=True) == rewards.amin(dims, keepdim=True)
    if std == "none":
        return torch.where(equal, 0.0, centred)
    squares = centred.square().sum(dims, keepdim=True) * copies
    deviation = (squares / (count * copies - (std == "std"))).sqrt() + eps
    return torch.where(equal, 0.0, centred / torch.where(equal, 1.0, deviation))


def local_advantages(rewards: Tensor, std: str = "std", eps: float = 0.0) -> Tensor:
    """Each reward against those of its own variant: S1 for a single variant, S6 inside Share-GRPO. `[..., V, N]`."""
    return standardize(rewards, (-1,), std, eps)


def global_advantages(rewards: Tensor, std: str = "std", eps: float = 0.0, duplicate: bool = False) -> Tensor:
    """Each reward against those of all variants of its question: S5. `[..., V, N]`.

    duplicate: take the standard deviation over rewards repeated V times, as in the released code (0.978 of it at 2 x 6).
    """
    return standardize(rewards, (-2, -1), std, eps, copies=rewards.shape[-2] if duplicate else 1)


def hierarchical_advantages(
    rewards: Tensor,
    levels: str = "global_local",
    std: str = "std",
    eps: float = 0.0,
    duplicate: bool = False,
    single_variant_doubles: bool = False,
) -> tuple[Tensor, Tensor]:
    """Share-GRPO's credit (S7): rewards `[..., V, N]` -> advantages of native and of shared completions, each `[..., V, N]`.

    A completion trained under its own variant gets global + local, under a sibling's the global level alone.
    With one variant both levels are the same number and count once (V = 1 is GRPO), or twice with `single_variant_doubles`.
    """
    if rewards.shape[-2] == 1 and levels == "global_local" and not single_variant_doubles:
        levels = "global"
    across = global_advantages(rewards, std, eps, duplicate) if "global" in levels else torch.zeros_like(rewards)
    if "local" not in levels:
        return across, across
    return across + local_advantages(rewards, std, eps), across


def varies(values: Array) -> bool:
    """Are the values of a group, of any shape, not all equal? Then, and only then, some advantage is not 0."""
    return bool(values.max() > values.min())


def valid_ratio(groups: list[Array]) -> float:
    """Share of groups `[V, N]` whose values are not all equal: the valid-advantage ratio of R1-ShareVL's Figure 1b."""
    return float(np.mean([varies(g) for g in groups]))


def valid_slot_ratio(groups: list[Array]) -> float:
    """Share of single slots `[N]` whose values are not all equal: what GRPO within each variant would see."""
    return float(np.mean([varies(slot) for g in groups for slot in g]))


def reward_density(accuracies: list[Array]) -> float:
    """Share of completions with accuracy 1; accuracies: `[V, N]` of each question."""
    return float(np.mean(np.concatenate([g.ravel() for g in accuracies]) >= 1))


def solved_ratio(accuracies: list[Array]) -> float:
    """Share of questions with at least one completion of accuracy 1; accuracies: `[V, N]` of each question."""
    return float(np.mean([g.max() >= 1 for g in accuracies]))


def dynamic_sampling(accuracies: Array) -> bool:
    """DAPO: keep a group unless all its completions are right or all are wrong. accuracies: any shape."""
    return varies(accuracies)


def online_filter(accuracies: Array, low: float, high: float) -> bool:
    """MM-Eureka: keep a group whose mean accuracy lies in [low, high], both included."""
    return bool(low <= accuracies.mean() <= high)


def replay_probabilities(advantages: Array, alpha: float) -> Array:
    """VL-Rethinker's selective sample replay: p proportional to |A|^alpha, `[K]`; A = 0 is never drawn."""
    size = np.abs(advantages)
    weights = np.where(size > 0, size**alpha, 0.0)
    if weights.sum() == 0:
        raise ValueError("no completion has an advantage, so none can be replayed")
    probabilities: Array = weights / weights.sum()
    return probabilities
