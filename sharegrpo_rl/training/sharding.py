"""One policy on several processes: every rank a full copy (DDP), or each weight sharded over all of them or some (FSDP2)."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import Any, TypeVar

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
from torch.distributed.tensor import DTensor, distribute_tensor

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.models.families import unknown_family
from sharegrpo_rl.models.loading import ModelSettings, layers, load_policy, outline_policy
from sharegrpo_rl.models.policy import Policy, TokenValues, unwrapped

CPU = torch.device("cpu")
DDP, FSDP2 = "ddp", "fsdp2"
BUCKET_VALUES = 1 << 26
T = TypeVar("T")
# Their pictures, in crops or of any size, go through the vision tower one by one: not equally often on every rank.
ONE_BY_ONE = ("idefics3", "llava_next", "mistral3", "smolvlm")


@dataclass(frozen=True)
class Ranks:
    """The processes that train together: this is rank `rank` of `size`; what is sent must be on `device`.

    The methods are collective: every rank calls them, in the same order, or the others wait until the process group times
    out. A single process gets its own values back.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = CPU

    @classmethod
    def current(cls) -> Ranks:
        """This process in torch.distributed; rank 0 of 1 where that is not initialised."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        sends_from_gpu = torch.cuda.is_available() and "nccl" in dist.get_backend_config()
        device = torch.device("cuda", torch.cuda.current_device()) if sends_from_gpu else CPU
        return cls(dist.get_rank(), dist.get_world_size(), device)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each value's sum over the ranks."""
        return self._all_reduce(values, dist.ReduceOp.SUM)

    def max(self, values: Sequence[float]) -> list[float]:
        """Each value's maximum over the ranks."""
        return self._all_reduce(values, dist.ReduceOp.MAX)

    def _all_reduce(self, values: Sequence[float], operation: dist.ReduceOp.RedOpType) -> list[float]:
        if self.size == 1:
            return list(values)
        sent = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(sent, operation)
        return sent.tolist()

    def broadcast(self, value: T) -> T:
        """Rank 0's value, pickled, on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def all_reduce_max(self, tensor: Tensor) -> None:
        """Every element's maximum over the ranks, in place; shapes are equal on all of them."""
        if self.size > 1:
            dist.all_reduce(tensor, dist.ReduceOp.MAX)


def sum_gradients(parameters: Sequence[Tensor], ranks: Ranks) -> None:
    """Sum each gradient over the ranks, in place; a missing one counts as 0. FSDP2 has summed sharded ones already.

    One all-reduce for each bucket and optimizer step, after all micro-batches. torch's DDP wrapper would start it in the
    backward pass, but it must see the one forward and the one backward that end the step: here the head's weight is read
    outside any module's forward, and images run backward after the last micro-batch that shows them.
    """
    for p in parameters:  # a skipped pass means a gradient of 0, which still moves AdamW by its momentum
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    if ranks.size == 1:
        return
    replicated = [p.grad for p in parameters if p.grad is not None and not isinstance(p.grad, DTensor)]
    for bucket in _buckets(replicated):
        flat = torch.cat([g.flatten() for g in bucket]).to(ranks.device)
        dist.all_reduce(flat)
        for gradient, total in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
            gradient.copy_(total.view_as(gradient))


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Runs of one dtype, of at most BUCKET_VALUES values (or one larger tensor)."""
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


def total_norm(parameters: Sequence[Tensor]) -> Tensor:
    """The 2-norm of all gradients together, a scalar; a DTensor where they are sharded."""
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def full_tensor(tensor: Tensor) -> Tensor:
    """A sharded tensor gathered from all ranks (collective); any other tensor itself."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local_part(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor; any other tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def load_on_ranks(settings: ModelSettings) -> Policy:
    """The policy on each of several ranks, to be sharded: an outline until then. Rank 0 alone reads the weights and checks
    the model, so that all ranks together take the memory of one copy. Errors as `load_policy`, on every rank; collective.
    """
    ranks = Ranks.current()
    if ranks.size == 1:
        return load_policy(settings)
    whole: Policy | None = None
    failed: Exception | None = None
    if ranks.rank == 0:
        try:
            whole = load_policy(settings)
        except Exception as error:  # raised below: the others wait to be told
            failed = error
    findings, reason = ranks.broadcast((whole.findings if whole else None, failed and _portable(failed)))
    if findings is None:
        raise failed or reason or RuntimeError("rank 0 said nothing")
    policy = outline_policy(settings)
    policy.adopt(findings)
    if whole is not None:
        model = whole.model
        tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
        policy.unplaced = {name: tensor.detach() for name, tensor in tensors}
        del whole, model, tensors
        gc.collect()  # from here each tensor is freed when it has been handed out
    return policy


def _portable(error: Exception) -> Exception:
    return error if isinstance(error, UserError) else RuntimeError(f"rank 0: {type(error).__name__}: {error}")


def shard(policy: Policy, sharding: str, cpu_offload: bool = False, fsdp_size: int | None = None) -> None:
    """Make a policy ready to train on all ranks of torch.distributed, in place, before its optimizer is built.

    An outline gets its weights from rank 0, tensor by tensor; a rank of `fsdp2` never has more of them than its shards.

    sharding: `ddp` or `fsdp2`. cpu_offload: weights, gradients and optimizer stay in host memory (fsdp2). fsdp_size: how many
    ranks, one after the other, share a copy of the model, a divisor of their number; None for all. UserError where the model
    cannot be sharded; collective.
    """
    ranks, is_outline = Ranks.current(), policy.is_outline
    if sharding == FSDP2:
        _fully_shard(policy, ranks, cpu_offload, fsdp_size or ranks.size)
    elif sharding != DDP:
        raise ValueError(f"sharding is {DDP} or {FSDP2}, not {sharding!r}")
    elif not is_outline:
        _broadcast(policy.model, ranks)
    if is_outline:
        _place(policy, ranks, CPU if cpu_offload else ranks.device)


def _broadcast(model: nn.Module, ranks: Ranks) -> None:
    """Rank 0's weights everywhere."""
    for tensor in [*model.parameters(), *model.buffers()]:
        sent = tensor.detach().to(ranks.device)
        dist.broadcast(sent, src=0)
        with torch.no_grad():
            tensor.copy_(sent)


@torch.no_grad()
def _place(policy: Policy, ranks: Ranks, device: torch.device) -> None:
    """Give an outline its weights, each rank its part of them, from rank 0's `unplaced`; buffers go where it computes."""
    model = policy.model
    _allocate(model, device, ranks.device)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        whole = policy.unplaced.pop(name, None)
        if isinstance(tensor, DTensor):
            if whole is None:
                whole = torch.empty(tensor.shape, dtype=policy.loaded_dtypes[name], device=ranks.device)
            parts = distribute_tensor(whole.to(ranks.device), tensor.device_mesh, tensor.placements)
            tensor.to_local().copy_(parts.to_local())
        else:
            if whole is not None:
                tensor.copy_(whole)
            dist.broadcast(tensor, src=0)
    policy.unplaced = {}  # second names of tied weights


def _allocate(model: nn.Module, device: torch.device, buffers_on: torch.device) -> None:
    """Memory for the tensors of an outline, without values."""
    swaps = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)  # else tied weights would come apart
    try:
        model.to_empty(device=device)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swaps)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(buffers_on))


def _fully_shard(policy: Policy, ranks: Ranks, cpu_offload: bool, fsdp_size: int) -> None:
    """Each layer is a group that is gathered while it runs; what belongs to no layer is another. With fewer than all ranks
    to a copy (HSDP) layers are gathered among those, and gradients are then summed over the copies.

    Trained weights are float32 in the shards and computed with in the type they were loaded in, so that small steps add up
    without further copies; gradients are summed in float32.
    """
    model = unwrapped(policy.model)
    if reason := policy.obstacle or _unfit(model):
        raise UserError(f"sharding: {FSDP2} does not run {model.config.model_type} ({reason}); use sharding: {DDP}")
    policy.loaded_dtypes = {name: p.dtype for name, p in policy.model.named_parameters(remove_duplicate=False)}
    compute_dtype = model.get_output_embeddings().weight.dtype
    shape = (ranks.size,) if fsdp_size == ranks.size else (ranks.size // fsdp_size, fsdp_size)
    if ranks.size % fsdp_size:
        raise ValueError(f"{ranks.size} ranks cannot be divided into copies over {fsdp_size}")
    mesh = init_device_mesh(ranks.device.type, shape, mesh_dim_names=("replicate", "shard")[-len(shape) :])
    precision = MixedPrecisionPolicy(compute_dtype, torch.float32, cast_forward_inputs=False)
    offload = CPUOffloadPolicy(pin_memory=ranks.device.type == "cuda") if cpu_offload else OffloadPolicy()
    for layer in layers(model):
        _shard_group(layer, mesh, precision, offload)
    root = _shard_group(model, mesh, precision, offload)
    policy.unsharded = _run_inside(root)


def _unfit(model: Any) -> str | None:
    if unknown := unknown_family(model):
        return f"it is not tested for the family {unknown}"
    return "its pictures go through the vision tower one by one" if model.config.model_type in ONE_BY_ONE else None


def _shard_group(
    module: nn.Module, mesh: DeviceMesh, precision: MixedPrecisionPolicy, offload: OffloadPolicy
) -> FSDPModule:
    for parameter in module.parameters():
        if parameter.requires_grad and parameter.dtype in (torch.bfloat16, torch.float16):
            parameter.data = parameter.data.float()
    # The outermost group is resharded after each forward too: a pass without a backward would leave it gathered, and a
    # later one would use those weights, not what an optimizer or a checkpoint wrote since.
    group = fully_shard(module, mesh=mesh, reshard_after_forward=True, mp_policy=precision, offload_policy=offload)
    group.set_gradient_divide_factor(1.0)  # losses carry the global denominator: a sum, not a mean over ranks
    group.set_force_sum_reduction_for_comms(True)  # and a reduction that gloo has too
    return group


def _run_inside(root: Any) -> Callable[[Callable[[], TokenValues]], TokenValues]:
    """Runs a function as if it were the model's forward: ours starts at inner modules and reads the head's weight."""

    def run(self: Any, function: Callable[[], TokenValues]) -> TokenValues:
        return function()

    root.run_inside = MethodType(run, root)
    register_fsdp_forward_method(root, "run_inside")
    run_inside: Callable[[Callable[[], TokenValues]], TokenValues] = root.run_inside
    return run_inside
