"""AdamW on float32 copies of weights in a shorter type, so that small steps add up (mixed precision training, 1710.03740).

A bfloat16 weight has 8 bits: a step of 1e-6 leaves nearly every weight as it was, and so would a thousand of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_HOOK = "_master_weights_hook"


class MasterWeightsAdamW(torch.optim.AdamW):
    """AdamW whose groups hold a float32 copy of each parameter in a shorter type, and the parameter itself otherwise.

    Gradients of such a parameter are summed in its copy, over micro-batches too, and each step writes the copy back,
    rounded. Checkpoints hold the copies. Weights that were set from outside since the last step are taken over.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], **options: Any) -> None:
        self._pairs: list[tuple[Tensor, Tensor]] = []  # (parameter, its copy)
        super().__init__(
            [{**group, "params": [self._master(p) for p in group["params"]]} for group in groups], **options
        )

    def _master(self, parameter: Tensor) -> Tensor:
        if parameter.dtype == torch.float32:
            return parameter
        copy = parameter.detach().to(torch.float32, copy=True)

        def collect(source: Tensor) -> None:
            assert source.grad is not None
            copy.grad = source.grad.float() if copy.grad is None else copy.grad.add_(source.grad)
            source.grad = None

        if (older := getattr(parameter, _HOOK, None)) is not None:
            older.remove()  # the newest optimizer of a weight gets its gradients: first the warm start's, then RL's
        setattr(parameter, _HOOK, parameter.register_post_accumulate_grad_hook(collect))
        self._pairs.append((parameter, copy))
        return copy

    def weight_of(self, parameter: Tensor) -> Tensor:
        """What is trained of a parameter: its float32 copy, or itself."""
        return next((copy for own, copy in self._pairs if own is parameter), parameter)

    def moments(self, weight: Tensor) -> dict[str, Tensor]:
        """`step`, `exp_avg` and `exp_avg_sq` of a weight, zeros before its first step: what AdamW itself begins with."""
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros((), device=weight.device)
            state["exp_avg"] = torch.zeros_like(weight, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(weight, memory_format=torch.preserve_format)
        return state

    @torch.no_grad()
    def write_back(self) -> None:
        """Every copy into its parameter, rounded."""
        if self._pairs:
            parameters, copies = zip(*self._pairs, strict=True)
            torch._foreach_copy_(parameters, copies)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self._take_over()
        super().step(closure)
        self.write_back()

    def _take_over(self) -> None:
        """Weights that were set from outside, into their copies. One answer for all: a GPU is waited for once."""
        if self._pairs:
            differ = torch.stack([(own != copy.to(own.dtype)).any() for own, copy in self._pairs]).tolist()
            for (own, copy), other in zip(self._pairs, differ, strict=True):
                if other:
                    copy.copy_(own)

    def state_dict(self) -> dict[str, Any]:
        copies = [copy.detach().cpu() for _, copy in self._pairs]
        return super().state_dict() | ({"master_weights": copies} if copies else {})

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises ValueError where the state is of other weights, or was kept without copies."""
        copies = state_dict.get("master_weights", [])
        if [tuple(c.shape) for c in copies] != [tuple(c.shape) for _, c in self._pairs]:
            raise ValueError("the optimizer's state has no float32 copies of these weights")
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "master_weights"})
        for (_, copy), saved in zip(self._pairs, copies, strict=True):
            copy.copy_(saved)
