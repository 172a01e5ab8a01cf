"""Log-probabilities of tokens under softmax(logits / temperature) with banned ids masked out."""

from __future__ import annotations

import torch
from torch import Tensor


def mask_logits(logits: Tensor, temperature: float, banned: Tensor | None) -> Tensor:
    """logits `[..., vocabulary]` / temperature in float32 or wider, with the ids in `banned` at -inf.

    The one definition of the policy: trainer, sampler and reference all go through it.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if temperature != 1.0:
        logits = logits / temperature
    return logits if banned is None else logits.index_fill(-1, banned, float("-inf"))


def token_logprobs(logits: Tensor, token_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Log-prob of each id and entropy of its distribution (without gradient); logits `[N, vocabulary]` -> `[N]`, `[N]`."""
    logprobs = logits.log_softmax(-1)
    with torch.no_grad():
        # Banned ids have -inf; any finite number does, as their probability is 0.
        entropy = -(logprobs.exp() * logprobs.clamp(min=torch.finfo(logprobs.dtype).min)).sum(-1)
    return logprobs.gather(-1, token_ids[:, None])[:, 0], entropy
