"""One policy on several processes: every rank a whole copy (DDP), or each weight spread over all of them (FSDP2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.models.loading import layers
from sharegrpo_rl.models.pack_forward import TokenValues
from sharegrpo_rl.models.policy import Policy, unwrapped

# ---- The processes that train together: which one this is, and sums over all of them.

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


DDP, FSDP2 = "ddp", "fsdp2"
# Their pictures are cut into crops and go through the vision tower one by one: not equally often on every rank.
ONE_BY_ONE = ("idefics3", "smolvlm")


def shard(policy: Policy, sharding: str, cpu_offload: bool = False) -> None:
    """Make a policy ready for training on all ranks of torch.distributed, in place and before its optimizer is made.

    sharding: `ddp` or `fsdp2`. cpu_offload: weights, gradients and optimizer rest in host memory (fsdp2). UserError where
    the model cannot be sharded; collective.
    """
    if sharding == DDP:
        _copy_from_first(policy.model, Ranks.current())
    elif sharding == FSDP2:
        _spread(policy, Ranks.current(), cpu_offload)
    else:
        raise ValueError(f"sharding is {DDP} or {FSDP2}, not {sharding!r}")


def _copy_from_first(model: nn.Module, ranks: Ranks) -> None:
    """Rank 0's weights everywhere; gradients are summed in `gradients.py`."""
    for tensor in [*model.parameters(), *model.buffers()]:
        sent = tensor.detach().to(ranks.device)
        dist.broadcast(sent, src=0)
        with torch.no_grad():
            tensor.copy_(sent)


def _spread(policy: Policy, ranks: Ranks, cpu_offload: bool) -> None:
    """Each layer a group of its own that is gathered while it runs; what belongs to no layer is another.

    Weights that train are float32 in the shards and computed with in the type that they were loaded in, so that small
    steps add up without further copies; gradients are summed in float32.
    """
    model = unwrapped(policy.model)
    if not policy.shares_prefix or model.config.model_type in ONE_BY_ONE:
        reason = policy.obstacle or "its pictures go through the vision tower one by one"
        raise UserError(f"sharding: {FSDP2} does not run {model.config.model_type} ({reason}); take sharding: {DDP}")
    policy.loaded_dtypes = {name: p.dtype for name, p in policy.model.named_parameters(remove_duplicate=False)}
    computed = model.get_output_embeddings().weight.dtype
    mesh = init_device_mesh(ranks.device.type, (ranks.size,))
    precision = MixedPrecisionPolicy(computed, torch.float32, cast_forward_inputs=False)
    offload = CPUOffloadPolicy(pin_memory=ranks.device.type == "cuda") if cpu_offload else OffloadPolicy()
    for layer in layers(model):
        _group(layer, mesh, precision, offload)
    root = _group(model, mesh, precision, offload)
    policy.unsharded = _inside(root)


def _group(module: nn.Module, mesh: DeviceMesh, precision: MixedPrecisionPolicy, offload: OffloadPolicy) -> FSDPModule:
    for parameter in module.parameters():
        if parameter.requires_grad and parameter.dtype in (torch.bfloat16, torch.float16):
            parameter.data = parameter.data.float()
    # The outermost group too lets go after each forward: a pass without a backward would leave it gathered, and a later
    # one would find those weights, not what an optimizer or a checkpoint wrote since.
    group = fully_shard(module, mesh=mesh, reshard_after_forward=True, mp_policy=precision, offload_policy=offload)
    group.set_gradient_divide_factor(1.0)  # losses bring the global denominator with them: a sum, no mean over ranks
    group.set_force_sum_reduction_for_comms(True)  # and one that gloo knows too
    return group


def _inside(root: Any) -> Callable[[Callable[[], TokenValues]], TokenValues]:
    """Runs a function as if it were the model's forward: ours starts at inner modules and reads the head's weight."""

    def run(self: Any, function: Callable[[], TokenValues]) -> TokenValues:
        return function()

    root.run_inside = MethodType(run, root)
    register_fsdp_forward_method(root, "run_inside")
    run_inside: Callable[[Callable[[], TokenValues]], TokenValues] = root.run_inside
    return run_inside
