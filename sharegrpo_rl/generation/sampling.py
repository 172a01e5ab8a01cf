"""From next-token distributions to tokens: nucleus, inverse-transform sampling, uniform numbers by seed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# Sorting a whole vocabulary costs more than everything else about a token; almost always these are enough.
CANDIDATES = 1024


def nucleus(probs: Tensor, top_p: float, candidates: int = CANDIDATES) -> Tensor:
    """The distribution that is sampled from: the smallest set of ids with mass `top_p`, renormalized; [B, vocabulary]."""
    if top_p == 1:
        return probs
    ordered, order = probs.topk(min(candidates, probs.shape[-1]))
    masses = ordered.cumsum(-1, dtype=torch.float64)
    kept = torch.zeros_like(probs).scatter_(-1, order, ordered.masked_fill(masses - ordered >= top_p, 0))
    kept /= kept.sum(-1, keepdim=True)
    flat = masses[:, -1] < top_p  # rows whose likeliest candidates do not make up the mass
    if ordered.shape[-1] < probs.shape[-1] and bool(flat.any()):
        kept[flat] = nucleus(probs[flat], top_p, probs.shape[-1])
    return kept


def sample(probs: Tensor, uniforms: Tensor) -> Tensor:
    """Inverse-transform sampling: the first id whose cumulative probability exceeds the row's uniform number in [0, 1).

    probs: [B, vocabulary]; uniforms: [B], float64.
    """
    cumulative = probs.cumsum(-1, dtype=torch.float64)
    # An id of probability 0 never has a cumulative value above both its predecessor's and the threshold.
    return torch.searchsorted(cumulative, uniforms[:, None] * cumulative[:, -1:], right=True)[:, 0]


def uniform_numbers(seed: int, n: int, length: int) -> Tensor:
    """[n, length] uniform numbers that depend on the request's seed only, not on what shares its batch."""
    return torch.from_numpy(np.random.default_rng(seed).random((n, length)))
