"""The processes that train together: which one this is, and sums over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Ranks:
    """Rank `rank` of `size`; `device` is where tensors must lie to be sent. Alone, every sum is the value itself.

    The methods are collective: every rank calls them, in the same order, or the others wait for the process group's timeout.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = CPU

    @classmethod
    def current(cls) -> Ranks:
        """This process's place in torch.distributed; rank 0 of 1 where that is not initialised."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        sends_from_gpu = torch.cuda.is_available() and "nccl" in dist.get_backend_config()
        device = torch.device("cuda", torch.cuda.current_device()) if sends_from_gpu else CPU
        return cls(dist.get_rank(), dist.get_world_size(), device)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each value's sum over the ranks."""
        return self._combined(values, dist.ReduceOp.SUM)

    def max(self, values: Sequence[float]) -> list[float]:
        """Each value's maximum over the ranks."""
        return self._combined(values, dist.ReduceOp.MAX)

    def _combined(self, values: Sequence[float], operation: dist.ReduceOp.RedOpType) -> list[float]:
        if self.size == 1:
            return list(values)
        sent = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(sent, operation)
        return sent.tolist()

    def largest(self, tensor: Tensor) -> None:
        """Every element's maximum over the ranks, in place; equal shapes on all of them."""
        if self.size > 1:
            dist.all_reduce(tensor, dist.ReduceOp.MAX)
