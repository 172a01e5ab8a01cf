"""AdamW with its own learning rate for vision tower and projector, and the course of both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from sharegrpo_rl.config.run import TrainingSettings
from sharegrpo_rl.models.loading import LANGUAGE, part_of
from sharegrpo_rl.ops.schedules import lr_multiplier
from sharegrpo_rl.training.sharding import Ranks

# ---- Gradients of all ranks as one: summed where every rank holds all weights, their norm, and clipping by it.

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


# ---- AdamW on float32 copies of weights in a shorter type, so that small steps add up (mixed precision training, 1710.03740).
#
# A bfloat16 weight has 8 bits: a step of 1e-6 leaves nearly every weight as it was, and so would a thousand of them.

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


def build_optimizer(model: Any, settings: TrainingSettings) -> MasterWeightsAdamW:
    """One group for each pair (language or vision, decayed or not); vectors are not decayed. Its weights are float32."""
    groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((part_of(name) != LANGUAGE, parameter.ndim > 1), []).append(parameter)
    if not groups:
        raise ValueError("the model has no trainable parameters")
    return MasterWeightsAdamW(
        [
            {
                "params": parameters,
                "base_lr": settings.vision_lr if vision and settings.vision_lr is not None else settings.lr,
                "weight_decay": settings.weight_decay if decayed else 0.0,
            }
            for (vision, decayed), parameters in groups.items()
        ],
        lr=settings.lr,
        betas=settings.adam_betas,
        fused=all(p.is_floating_point() for ps in groups.values() for p in ps),
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, settings: TrainingSettings, step: int) -> float:
    """Set every group's rate for optimizer step `step` (0 = the first); returns the language model's."""
    factor = lr_multiplier(step, settings.lr_schedule, settings.lr_warmup_steps, settings.total_steps)
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    return settings.lr * factor
