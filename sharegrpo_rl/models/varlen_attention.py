"""Attention over sequences of several lengths in one row, without padding: torch's flash kernels for CUDA.

torch's kernels are private operators, as its public functions give no gradient for a joined normalizer; torch is pinned,
and tests hold them against public attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

_forward = torch.ops.aten._flash_attention_forward.default
_backward = torch.ops.aten._flash_attention_backward.default

OLDEST = (8, 0)  # compute capability: Ampere
LARGEST_HEAD = 256


@dataclass(frozen=True)
class Sequences:
    """Where sequences that fill a row end: 0 and each end [n + 1], int32 on the row's device; tokens of the longest."""

    ends: Tensor
    longest: int

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Sequences:
        """Sequences of these lengths, side by side."""
        ends = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
        return cls(ends, max(lengths, default=0))


def has_kernels(x: Tensor) -> bool:
    """Do the kernels take queries, keys and values like this one, [..., D]?"""
    return (
        x.is_cuda
        and x.dtype in (torch.bfloat16, torch.float16)
        and x.shape[-1] % 8 == 0
        and x.shape[-1] <= LARGEST_HEAD
        and torch.cuda.get_device_capability(x.device) >= OLDEST
    )


def varlen_forward(
    query: Tensor, key: Tensor, value: Tensor, asking: Sequences, asked: Sequences, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """query [Q, H, D], key and value [K, KV, D] -> output [Q, H, D] and log-sum-exp of the scores [H, Q].

    Sequence i of `asking` attends to sequence i of `asked`. torch's autograd knows the gradient of the output.
    """
    spans = (asking.ends, asked.ends, asking.longest, asked.longest)
    out, total, *_ = _forward(query, key, value, *spans, 0.0, causal, False, scale=scale)
    return out, total


def varlen_backward(
    gradient: Tensor,
    inputs: tuple[Tensor, Tensor, Tensor],
    out: Tensor,
    total: Tensor,
    asking: Sequences,
    asked: Sequences,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value (`inputs`), given the output and its normalizer: this part's share of a joined one."""
    spans = (asking.ends, asked.ends, asking.longest, asked.longest)
    no_dropout = torch.empty(2, dtype=torch.uint64, device=gradient.device)
    grads = _backward(
        gradient, *inputs, out, total, *spans, 0.0, causal, no_dropout, gradient.new_empty(()), scale=scale
    )
    return grads[0], grads[1], grads[2]
