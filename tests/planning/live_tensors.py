"""Bytes of tensors at their height, and those that autograd saves: what a plan is held against."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveTensors(TorchDispatchMode):
    """Counts the storage of every tensor made inside, until it is freed; `peak` in bytes."""

    def __init__(self) -> None:
        super().__init__()
        self._live: dict[int, int] = {}
        self._now = 0
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        self.peak = max(self.peak, self._now)
        return out

    def _count(self, storage: Any) -> None:
        key = storage._cdata
        if key not in self._live:
            self._live[key] = storage.nbytes()
            self._now += storage.nbytes()
            weakref.finalize(storage, self._freed, key)

    def _freed(self, key: int) -> None:
        self._now -= self._live.pop(key, 0)


def saved_by(modules: dict[str, Any], parameters: Any, run: Callable[[], object]) -> dict[str, int]:
    """Bytes that autograd saves while each of the modules runs, each storage once, parameters left out."""
    known = {p.untyped_storage().data_ptr() for p in parameters}
    kept: list[Any] = []  # alive, so that no address is used twice
    found = dict.fromkeys(modules, 0)
    inside: list[str] = []

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if inside and storage.data_ptr() not in known:
            known.add(storage.data_ptr())
            kept.append(tensor)
            found[inside[-1]] += storage.nbytes()
        return tensor

    handles = []
    for name, module in modules.items():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: inside.append(name)))
        handles.append(module.register_forward_hook(lambda *_: inside.clear()))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    for handle in handles:
        handle.remove()
    return found
