"""Notes the sizes of all tensors that operations create while it is on."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LargestTensors(TorchDispatchMode):
    """Shapes of new tensors with memory of their own; those with as many values as a parameter are left out."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        super().__init__()
        self.parameter_sizes = {p.numel() for p in parameters}
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in given:
                self._note(tensor)
        return out

    @property
    def largest(self) -> tuple[int, ...]:
        return max(self.shapes, key=prod, default=())

    def has_logits(self, tokens: int, vocabulary: int) -> bool:
        """Is there a tensor [.., at least `tokens`, vocabulary]?"""
        return any(len(s) > 1 and s[-1] == vocabulary and prod(s[:-1]) >= tokens for s in self.shapes)

    def has_square(self, edge: int) -> bool:
        """Is there a tensor whose last two dimensions are equal and at least `edge`, as scores or masks of whole rows?"""
        return any(len(s) > 1 and s[-1] == s[-2] >= edge for s in self.shapes)

    def _note(self, tensor: Tensor) -> None:
        held = tensor.untyped_storage().nbytes() // max(1, tensor.element_size())
        if tensor.numel() not in self.parameter_sizes and held >= tensor.numel():
            self.shapes.add(tuple(tensor.shape))
