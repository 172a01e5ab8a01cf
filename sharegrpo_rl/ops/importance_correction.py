"""Correcting for a sampler that is not quite the policy: other kernels, nucleus sampling, weights of a step ago."""

from __future__ import annotations

import torch
from torch import Tensor


def correction_weights(
    old_logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor, mode: str, level: str, cap: float
) -> Tensor:
    """Weight of each token's loss, `[B, T]`: pi_old / pi_sampler, bounded above; without gradient.

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
