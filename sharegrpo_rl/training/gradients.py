"""Gradients of all ranks as one: summed where every rank holds all weights, their norm, and clipping by it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from sharegrpo_rl.training.ranks import Ranks

BUCKET_VALUES = 1 << 26


def sum_gradients(parameters: Sequence[Tensor], ranks: Ranks) -> None:
    """Each gradient's sum over the ranks, in place; a missing one counts as 0. Sharded ones were summed on their way.

    One all-reduce for each bucket and optimizer step, after all micro-batches. torch's DDP wrapper would start it in the
    backward pass, but it must be given the one forward and the one backward that end the step: here the head's weight is
    read outside of any module's forward, and images run backward after the last micro-batch that shows them.
    """
    for p in parameters:  # a skipped pass means a gradient of 0, which still moves AdamW by its momentum
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    if ranks.size == 1:
        return
    whole = [p.grad for p in parameters if p.grad is not None and not isinstance(p.grad, DTensor)]
    for bucket in _buckets(whole):
        flat = torch.cat([g.flatten() for g in bucket]).to(ranks.device)
        dist.all_reduce(flat)
        for gradient, total in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
            gradient.copy_(total.view_as(gradient))


def total_norm(parameters: Sequence[Tensor]) -> Tensor:
    """The 2-norm of all gradients together, a scalar; a DTensor where they are sharded."""
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def whole(tensor: Tensor) -> Tensor:
    """The full tensor of a sharded one: collective; any other as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Runs of one type, of a bounded number of values (or one larger tensor)."""
    bucket: list[Tensor] = []
    held = 0
    for g in gradients:
        if bucket and (held + g.numel() > BUCKET_VALUES or g.dtype != bucket[0].dtype):
            yield bucket
            bucket, held = [], 0
        bucket.append(g)
        held += g.numel()
    if bucket:
        yield bucket
