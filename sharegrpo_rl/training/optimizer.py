"""AdamW over float32 weights, with separate learning rates for the language model and for vision tower and projector."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from sharegrpo_rl.config.run import RunOptions
from sharegrpo_rl.models.loading import LANGUAGE, Parts
from sharegrpo_rl.ops.schedules import lr_multiplier

_HOOK = "_master_weights_hook"


def build_optimizer(model: nn.Module, options: RunOptions) -> MasterWeightsAdamW:
    """One parameter group for each pair (language or vision, matrices or vectors); vectors are not decayed."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    parts = Parts(model)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((parts.of(name) != LANGUAGE, parameter.ndim > 1), []).append(parameter)
    if not groups:
        raise ValueError("the model has no trainable parameters")
    return MasterWeightsAdamW(
        [
            {
                "params": parameters,
                "base_lr": options.vision_lr if vision and options.vision_lr is not None else options.lr,
                "weight_decay": options.weight_decay if decayed else 0.0,
            }
            for (vision, decayed), parameters in groups.items()
        ],
        lr=options.lr,
        betas=(options.adam_betas[0], options.adam_betas[1]),
        fused=all(p.is_floating_point() for ps in groups.values() for p in ps),
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, options: RunOptions, step: int) -> float:
    """Set every group's rate for optimizer step `step` (0 = the first); returns the language model's."""
    warmup = options.lr_warmup_steps or ceil(options.lr_warmup_ratio * (options.total_steps or 0))
    factor = lr_multiplier(step, options.lr_schedule, warmup, options.total_steps, options.lr_min_ratio)
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    return options.lr * factor


class MasterWeightsAdamW(torch.optim.AdamW):
    """AdamW whose groups hold a float32 copy of each parameter in a shorter type, and the parameter itself otherwise.

    A bfloat16 weight has 8 bits: a thousand steps of 1e-6 would leave it unchanged (mixed precision training, 1710.03740).
    So its gradients are summed in the copy, over micro-batches too, and each step rounds the copy back into it. Checkpoints
    hold the copies. Weights changed from outside since the last step are taken over.
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
        return next((copy for original, copy in self._pairs if original is parameter), parameter)

    def moments(self, weight: Tensor) -> dict[str, Tensor]:
        """`step`, `exp_avg` and `exp_avg_sq` of a weight; zeros before its first step, as AdamW itself starts."""
        state: dict[str, Tensor] = self.state[weight]
        if not state:
            state["step"] = torch.zeros((), device=weight.device)
            state["exp_avg"] = torch.zeros_like(weight, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(weight, memory_format=torch.preserve_format)
        return state

    @torch.no_grad()
    def write_back(self) -> None:
        """Round every copy into its parameter."""
        if self._pairs:
            parameters, copies = zip(*self._pairs, strict=True)
            if hasattr(torch, "_foreach_copy_"):  # private: one launch instead of one for each
                torch._foreach_copy_(parameters, copies)
            else:
                for parameter, copy in self._pairs:
                    parameter.copy_(copy)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        if (
            self._pairs
        ):  # weights changed from outside, into their copies; one `tolist`, so that a GPU is waited for once
            changed = torch.stack([(p != copy.to(p.dtype)).any() for p, copy in self._pairs]).tolist()
            for (parameter, copy), differs in zip(self._pairs, changed, strict=True):
                if differs:
                    copy.copy_(parameter)
        super().step(closure)
        self.write_back()

    def state_dict(self) -> dict[str, Any]:
        copies = [copy.detach().cpu() for _, copy in self._pairs]
        return super().state_dict() | ({"master_weights": copies} if copies else {})

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises ValueError where the state belongs to other weights, or was saved without copies."""
        copies = state_dict.get("master_weights", [])
        if [tuple(c.shape) for c in copies] != [tuple(c.shape) for _, c in self._pairs]:
            raise ValueError("the optimizer's state has no float32 copies of these weights")
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "master_weights"})
        for (_, copy), saved in zip(self._pairs, copies, strict=True):
            copy.copy_(saved)
