"""The clipped policy objective of GRPO and Share-GRPO on padded `[B, T]` tensors; equations S2 and S8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# Of a log ratio: exp(20) is 5e8, far beyond every clip, and its product with an advantage is finite in float32.
LARGEST_LOG_RATIO = 20.0


class Denominator(NamedTuple):
    """What a minibatch's losses are divided by, counted once over all of it, before it is cut into micro-batches.

    of_question: the sequences of each question by its group's number; left out, all questions have equally many.
    """

    sequences: int
    tokens: int
    max_tokens: int
    of_question: Mapping[int, int] = {}


class SurrogateStats(NamedTuple):
    """Per-token facts for logging, `[B, T]`: the ratio, and where the lower, upper and dual bound decided."""

    ratio: Tensor
    clipped_low: Tensor
    clipped_high: Tensor
    clipped_dual: Tensor


def importance_ratio(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor, level: str = "token") -> Tensor:
    """pi / pi_old, `[B, T]`: of each token, of the whole sequence (the product, S2, S8), or its geometric mean (GSPO).

    logprobs, old_logprobs: `[B, T]`; mask: `[B, T]` bool. At sequence level every token carries its sequence's ratio.
    Log ratios above LARGEST_LOG_RATIO count as that, without gradient: a product over 2,048 tokens overflows easily.
    """
    log_ratio = (logprobs - old_logprobs) * mask
    if level == "token":
        return log_ratio.clamp(max=LARGEST_LOG_RATIO).exp()
    total = log_ratio.sum(1, keepdim=True)
    if level == "sequence":
        total = total / mask.sum(1, keepdim=True).clamp(min=1)
    return total.clamp(max=LARGEST_LOG_RATIO).exp().expand_as(log_ratio)


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
    groups: Sequence[int] = (),
) -> Tensor:
    """Weight of each token's loss, `[B, T]` of `dtype`, such that the weighted sum over a whole minibatch is its loss.

    token_mean: every token counts alike. sequence_mean: every sequence counts alike (S2's 1/|o| form).
    question_mean: every question counts alike, and each of its sequences (S8: a mean over questions of 1 / (n m^2)); a
    sequence's tokens add up, with a sequence-level ratio it is one term.
    max_length: sum over tokens divided by sequences x longest completion allowed (Dr. GRPO).
    groups: `[B]`, the questions that `denominator.of_question` counts.
    """
    mask = mask.to(dtype)
    if aggregation == "token_mean":
        return mask / denominator.tokens
    if aggregation == "max_length":
        return mask / (denominator.sequences * denominator.max_tokens)
    if aggregation not in ("sequence_mean", "question_mean"):
        raise ValueError(f"unknown loss aggregation {aggregation!r}")
    if aggregation == "sequence_mean" or level != "token":
        mask = mask / mask.sum(1, keepdim=True).clamp(min=1)
    if aggregation == "question_mean" and denominator.of_question:
        sizes = denominator.of_question
        shares = [1 / (len(sizes) * sizes[group]) if group in sizes else 0.0 for group in groups]
        return mask * torch.tensor(shares, dtype=dtype, device=mask.device)[:, None]
    return mask / denominator.sequences


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, estimator: str) -> Tensor:
    """Per-token estimate of KL(policy || reference) from samples of the policy (Schulman 2020), shaped like `logprobs`; O5.

    k1 = d: unbiased, but its gradient as a loss is 0 on average, so it belongs in the reward.
    k2 = d^2 / 2: its gradient is that of the KL. k3 = exp(-d) - 1 + d: unbiased and never negative;
    its gradient is that of the reverse direction. d = logprobs - ref_logprobs; below -LARGEST_LOG_RATIO k3's exponent
    counts as that bound.
    """
    difference = logprobs - ref_logprobs
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return difference.square() / 2
    if estimator == "k3":
        # exp(..) - 1 would lose the small differences of a first update
        return (-difference).clamp(max=LARGEST_LOG_RATIO).expm1() + difference
    raise ValueError(f"unknown KL estimator {estimator!r}")


def correction_weights(
    old_logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor, mode: str, level: str, cap: float
) -> Tensor:
    """Weight of each token's loss, `[B, T]`: pi_old / pi_sampler, bounded above; without gradient.

    It corrects for a sampler that is not quite the policy: other kernels, nucleus sampling, weights of a step ago.

    old_logprobs, sampler_logprobs: `[B, T]`, both under the prompt that the completion was sampled from; mask `[B, T]`.
    level: ratio of each token, or of the whole sequence. mode `truncate`: min(ratio, cap) (Yao et al. 2025);
    `mask`: the ratio where it is at most `cap`, else 0. Where sampler and policy agree every weight is exactly 1.
    """
    difference = (old_logprobs - sampler_logprobs) * mask
    if level == "sequence":
        difference = difference.sum(1, keepdim=True).expand_as(difference)
    elif level != "token":
        raise ValueError(f"unknown level of the importance correction {level!r}")
    ratio = difference.exp()
    if mode == "truncate":
        return ratio.clamp(max=cap)
    if mode == "mask":
        return torch.where(ratio <= cap, ratio, 0.0)
    raise ValueError(f"unknown importance correction {mode!r}")


def overlong_penalty(length: int, max_length: int, buffer: int) -> float:
    """Soft penalty: 0 up to max_length - buffer tokens, then linearly to -1 at max_length (DAPO, eq. 13)."""
    if not 0 < buffer <= max_length:
        raise ValueError(f"the buffer must be between 1 and {max_length} tokens, not {buffer}")
    return min(0.0, (max_length - buffer - length) / buffer)
