"""Estimators of KL(policy || reference) from samples of the policy (Schulman 2020)."""

from __future__ import annotations

from torch import Tensor


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, estimator: str) -> Tensor:
    """Per-token estimate, shaped like `logprobs`.

    k1 = d: unbiased, but its gradient as a loss is 0 on average, so it belongs in the reward.
    k2 = d^2 / 2: its gradient is that of the KL. k3 = exp(-d) - 1 + d: unbiased and never negative;
    its gradient is that of the reverse direction. d = logprobs - ref_logprobs.
    """
    difference = logprobs - ref_logprobs
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return difference.square() / 2
    if estimator == "k3":
        return (-difference).expm1() + difference  # exp(..) - 1 would lose the small differences of a first update
    raise ValueError(f"unknown KL estimator {estimator!r}")
