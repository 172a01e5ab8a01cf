"""Group-relative advantages on rewards `[V, N]` or `[Q, V, N]` (V variants, N samples); equations S1, S5, S6, S7."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor


def standardize(rewards: Tensor, dims: Sequence[int], std: str = "std", eps: float = 0.0, copies: int = 1) -> Tensor:
    """(reward - mean) / (spread + eps) over `dims`; exactly 0 where all rewards of a group are equal.

    rewards: any shape, floating point. std: `std` (n - 1), `population_std` (n) or `none` (Dr. GRPO: mean only).
    copies: each reward counted this many times in the sample spread, as R1-ShareVL's released code does.
    Equality is judged by the range, not by an epsilon: in floating point the mean of equal rewards can differ from them.
    Raises ValueError for a group of one, which has nothing to be compared with.
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
    spread = (squares / (count * copies - (std == "std"))).sqrt() + eps
    return torch.where(equal, 0.0, centred / torch.where(equal, 1.0, spread))


def local_advantages(rewards: Tensor, std: str = "std", eps: float = 0.0) -> Tensor:
    """Each reward against those of its own variant: S1 for a single variant, S6 inside Share-GRPO. `[..., V, N]`."""
    return standardize(rewards, (-1,), std, eps)


def global_advantages(rewards: Tensor, std: str = "std", eps: float = 0.0, duplicate: bool = False) -> Tensor:
    """Each reward against those of all variants of its question: S5. `[..., V, N]`.

    duplicate: take the spread over rewards repeated V times, as in the released code (0.978 of the plain one at 2 x 6).
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
    """Share-GRPO's credit (S7): advantages of native and of shared completions, each `[..., V, N]`.

    A completion trained under its own variant gets global + local, under a sibling's the global level alone.
    With one variant both levels are the same number; they are not added up (V = 1 is GRPO) unless asked for.
    """
    if rewards.shape[-2] == 1 and levels == "global_local" and not single_variant_doubles:
        levels = "global"
    whole = global_advantages(rewards, std, eps, duplicate) if "global" in levels else torch.zeros_like(rewards)
    if "local" not in levels:
        return whole, whole
    return whole + local_advantages(rewards, std, eps), whole
