"""The clipped policy objective of GRPO and Share-GRPO on padded `[B, T]` tensors; equations S2 and S8."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Denominator(NamedTuple):
    """What a minibatch's losses are divided by, counted once over all of it, before it is cut into micro-batches."""

    sequences: int
    tokens: int
    max_tokens: int


class SurrogateStats(NamedTuple):
    """Per-token facts for logging, `[B, T]`: the ratio, and where the lower, upper and dual bound decided."""

    ratio: Tensor
    clipped_low: Tensor
    clipped_high: Tensor
    clipped_dual: Tensor


def importance_ratio(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor, level: str = "token") -> Tensor:
    """pi / pi_old, `[B, T]`: of each token, of the whole sequence (S2, S8), or its geometric mean (GSPO).

    logprobs, old_logprobs: `[B, T]`; mask: `[B, T]` bool. At sequence level every token carries its sequence's ratio.
    """
    log_ratio = (logprobs - old_logprobs) * mask
    if level == "token":
        return log_ratio.exp()
    total = log_ratio.sum(1, keepdim=True)
    if level == "sequence_mean":
        total = total / mask.sum(1, keepdim=True).clamp(min=1)
    return total.exp().expand_as(log_ratio)


def clipped_surrogate(
    ratio: Tensor, advantages: Tensor, clip_low: float, clip_high: float, dual_clip: float | None = None
) -> tuple[Tensor, SurrogateStats]:
    """min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A), to be maximised; S2, S8.

    ratio: `[B, T]`; advantages: `[B]`. dual_clip c > 1 keeps the objective above c A where A < 0 (Ye et al. 2020).
    """
    advantages = advantages[:, None]
    plain = ratio * advantages
    bounded = ratio.clamp(1 - clip_low, 1 + clip_high) * advantages
    objective = torch.minimum(plain, bounded)
    low = (bounded < plain) & (advantages < 0)
    high = (bounded < plain) & (advantages > 0)
    dual = torch.zeros_like(low)
    if dual_clip is not None:
        floor = dual_clip * advantages
        dual = (advantages < 0) & (objective < floor)
        objective = torch.where(advantages < 0, torch.maximum(objective, floor.expand_as(objective)), objective)
    return objective, SurrogateStats(ratio.detach(), low, high, dual)


def token_weights(
    mask: Tensor,
    aggregation: str,
    denominator: Denominator,
    level: str = "token",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Weight of each token's loss, `[B, T]` of `dtype`, such that the weighted sum over a whole minibatch is its loss.

    token_mean: every token counts alike. sequence_mean: every sequence counts alike (S2's 1/|o| form).
    sequence_sum: a sequence's tokens add up; with a sequence-level ratio a sequence is one term (S8's 1 / (n m^2)).
    constant: sum over tokens divided by sequences x longest completion allowed (Dr. GRPO).
    """
    mask = mask.to(dtype)
    if aggregation == "token_mean":
        return mask / denominator.tokens
    if aggregation == "constant":
        return mask / (denominator.sequences * denominator.max_tokens)
    if aggregation == "sequence_mean" or level != "token":
        return mask / mask.sum(1, keepdim=True).clamp(min=1) / denominator.sequences
    if aggregation == "sequence_sum":
        return mask / denominator.sequences
    raise ValueError(f"unknown loss aggregation {aggregation!r}")
