"""A model's weights for an engine: by checkpoint name, adapters merged or alone, in buckets of bounded size; and the
process group that they travel by."""

from __future__ import annotations

import atexit
import os
import socket
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from sharegrpo_rl.models.policy import unwrapped

BUCKET_BYTES = 256 * 2**20
GROUP_BUCKET_BYTES = 4 * 2**20  # larger tensors travel by themselves, and need no copy
AHEAD_BYTES = 64 * 2**20  # under way while earlier ones are loaded
MEETING_SECONDS = 60.0  # for all members of a group to arrive
LOOK_SECONDS = 0.2  # between looks at whether another member has failed
ALIGNMENT = 64  # bytes, of each tensor in a bucket's buffer
Weights = list[tuple[str, Tensor]]
Dtypes = Mapping[str, torch.dtype]


def engine_weights(model: Any, everything: bool = True) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of the model's weights; without `everything` only of modules that training changes.

    LoRA is merged into copies: the model's own weights are left unchanged.
    """
    adapters = {
        name: module for name, module in unwrapped(model).named_modules() if hasattr(module, "get_delta_weight")
    }
    for name, tensor in _sent(model, everything):
        adapted = adapters.get(name.removesuffix(".weight"))
        if adapted is None:
            yield name, tensor
        else:
            with torch.no_grad():
                deltas = [adapted.get_delta_weight(adapter) for adapter in adapted.active_adapters]
                yield name, sum(deltas, tensor)


def planned_weights(model: Any, everything: bool, dtypes: Dtypes) -> list[Weights]:
    """The buckets of `engine_weights` that a group sends: tensors of the meta device, in the types that are sent."""
    planned = (
        (name, torch.empty(tensor.shape, dtype=dtypes.get(name, tensor.dtype), device="meta"))
        for name, tensor in _sent(model, everything)
    )
    return [bucket for bucket, _ in in_buckets(planned, GROUP_BUCKET_BYTES)]


def _sent(model: Any, everything: bool) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of what is sent, without adapters."""
    base = unwrapped(model)
    trained = [n for n, p in base.named_parameters(remove_duplicate=False) if p.requires_grad]  # tied heads among them
    changing = {_block(_plain(name)) for name in trained}
    for name, tensor in base.state_dict().items():
        plain = _plain(name)
        if ".lora_" not in name and (everything or _block(plain) in changing):
            yield plain, tensor


def adapter_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of the LoRA adapter alone, named as peft saves it; A and B of every layer that has one."""
    for name, tensor in unwrapped(model).state_dict().items():
        if ".lora_" in name:
            layer, _, kind = name.partition(".lora_")
            yield f"base_model.model.{layer}.lora_{kind.split('.')[0]}.weight", tensor


def _plain(name: str) -> str:
    """A tensor's name in the checkpoint; for an adapter's, the name of what it adapts."""
    return f"{name.split('.lora_')[0]}.weight" if ".lora_" in name else name.replace(".base_layer.", ".")


def _block(name: str) -> str:
    """The module whose tensors are always sent together: an engine may hold its layers fused, such as q, k and v."""
    return name.rsplit(".", 2)[0]


def in_buckets(
    weights: Iterable[tuple[str, Tensor]], size: int = BUCKET_BYTES, dtypes: Dtypes | None = None
) -> Iterator[tuple[Weights, bool]]:
    """Runs of weights of at most `size` bytes (or one larger tensor), and whether it is the last.

    dtypes: by name, of what is sent in another type than it is held in.
    """
    bucket: Weights = []
    held = 0
    for name, tensor in weights:
        sent = tensor.numel() * (dtypes or {}).get(name, tensor.dtype).itemsize
        if bucket and held + sent > size:
            yield bucket, False
            bucket, held = [], 0
        bucket.append((name, tensor))
        held += sent
    yield bucket, True


def to_array(tensor: Tensor) -> NDArray[np.generic]:
    """The tensor as an array, a view where it lies in host memory; bfloat16, which numpy lacks, as uint16."""
    tensor = tensor.detach().cpu().contiguous()
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


def to_tensor(array: NDArray[np.generic]) -> Tensor:
    """A tensor over an array of `to_array`, not copied: read-only."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # arrays in the object store are not writable
        tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor


class GroupBroken(RuntimeError):
    """A group whose members cannot all be reached; the message says why."""


@dataclass(frozen=True)
class Meeting:
    """Where the members of a group meet, how many they are, and how long any of them waits for the others."""

    address: str
    port: int
    size: int
    backend: str  # nccl: weights stay on GPUs; gloo: they go by host memory
    timeout_s: float

    def call_off(self, reason: str) -> None:
        """Have all members give up."""
        with suppress(RuntimeError):  # nobody is there any more
            self._store().set("fault", reason)

    def _store(self) -> dist.TCPStore:
        patience = min(MEETING_SECONDS, self.timeout_s) / 2  # torch tries twice
        return dist.TCPStore(self.address, self.port, wait_for_workers=False, timeout=_seconds(patience))


class WeightGroup:
    """The process group that new weights travel by: rank 0 sends, all others receive.

    It stands apart from torch.distributed's own groups. What may wait for others runs in a thread of its own; meanwhile
    each member looks whether another one has failed, and so none waits longer than it must: GroupBroken.
    """

    def __init__(self, meeting: Meeting, rank: int, device: torch.device, store: dist.TCPStore | None = None) -> None:
        """device: of this process's weights. store: of the member that opened the meeting."""
        self.device = device if meeting.backend == "nccl" else torch.device("cpu")
        self._meeting, self._rank = meeting, rank
        self._group: Any = None
        self._sending: deque[tuple[Future[None], int]] = deque()  # with their bytes
        self._thread = ThreadPoolExecutor(1, "weights", self._use_device)
        atexit.register(self._end)  # the group's own threads must not outlive it
        self.start_sync()
        try:
            self._store = store or meeting._store()
            self._roll_call()
            self._finish(self._thread.submit(self._connect))
        except RuntimeError as error:
            self.close(reason := _in_a_line(error))
            raise GroupBroken(reason) from error

    @staticmethod
    def open(address: str, size: int, backend: str, timeout_s: float) -> tuple[Meeting, dist.TCPStore]:
        """A meeting at a free port of this machine, known to others by its address; and its store, which must be kept."""
        timeout = _seconds(min(MEETING_SECONDS, timeout_s))
        store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False, timeout=timeout)
        return Meeting(address, store.port, size, backend, timeout_s), store

    def start_sync(self) -> None:
        """New weights are about to travel: all of them must arrive within the meeting's `timeout_s` from now."""
        self._deadline = time.monotonic() + self._meeting.timeout_s

    def send(self, planned: Weights, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Begin to send a planned bucket; waits while too much is under way. Tensors must be unchanged until `flush`."""
        tensors = [tensor for _, tensor in weights]
        flat = _as_bytes(tensors[0], planned[0][1], self.device) if len(tensors) == 1 else None
        if flat is None:
            flat, views = bucket_buffer(planned, self.device)
            for (_, view), tensor in zip(views, tensors, strict=True):
                view.copy_(tensor)
        self.flush(AHEAD_BYTES - flat.nbytes)
        self._sending.append((self._begin(flat), flat.nbytes))

    def flush(self, allowed: int = 0) -> None:
        """Wait until no more than the `allowed` bytes are under way."""
        while self._sending and sum(size for _, size in self._sending) > max(0, allowed):
            self._finish(self._sending.popleft()[0])

    def receive(self, plan: Iterable[Weights]) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor) of what is planned, in turn; the next ones arrive meanwhile."""
        self.start_sync()
        arriving: deque[tuple[Weights, Future[None], int]] = deque()
        for planned in plan:
            flat, views = bucket_buffer(planned, self.device)
            arriving.append((views, self._begin(flat), flat.nbytes))
            del flat, views
            while sum(size for _, _, size in arriving) > AHEAD_BYTES:
                yield from self._arrived(*arriving.popleft())
        while arriving:
            yield from self._arrived(*arriving.popleft())

    def _arrived(self, views: Weights, arriving: Future[None], size: int) -> Weights:
        self._finish(arriving)
        return views

    def _finish(self, begun: Future[None]) -> None:
        while not wait([begun], LOOK_SECONDS).done:
            self._look()
            if time.monotonic() > self._deadline:
                raise GroupBroken(f"not all members were done within {self._meeting.timeout_s:g} s")
        try:
            begun.result()
        except RuntimeError as error:
            raise self._broken(error) from error

    def _broken(self, error: RuntimeError) -> GroupBroken:
        """For an error of the group; another member may know more."""
        try:
            self._look()
        except GroupBroken as known:
            return known
        return GroupBroken(_in_a_line(error))

    def close(self, reason: str = "") -> None:
        """Leave the group; all others give up, for `reason` where there is one."""
        if reason:
            with suppress(RuntimeError, AttributeError):  # no store, or no one there
                self._store.set("fault", reason)
        atexit.unregister(self._end)
        try:
            self._thread.submit(self._end)  # after what it is at: a group that is at work cannot end
        except RuntimeError:  # Python is ending, and has waited for the thread
            self._end()
        self._thread.shutdown(wait=False)

    def _look(self) -> None:
        """GroupBroken where another member has failed, or is gone."""
        try:
            fault = self._store.get("fault").decode() if self._store.check(["fault"]) else ""
        except RuntimeError as error:
            raise GroupBroken("the sender is gone") from error
        if fault:
            raise GroupBroken(fault)

    def _roll_call(self) -> None:
        """Wait until all members are there: later steps would wait for a missing one without looking."""
        self._store.set(f"member {self._rank}", "")
        deadline = time.monotonic() + min(MEETING_SECONDS, self._meeting.timeout_s)
        names = [f"member {rank}" for rank in range(self._meeting.size)]
        while not self._store.check(names):
            self._look()
            if time.monotonic() > deadline:
                missing = [name for name in names if not self._store.check([name])]
                raise GroupBroken(f"{len(missing)} of {len(names)} members did not come to {self._meeting.address}")
            time.sleep(0.01)

    def _connect(self) -> None:
        """Make the group, and send a byte: NCCL connects no earlier."""
        store = dist.PrefixStore("group", self._store)
        if self._meeting.backend == "nccl":
            self._group = _nccl_group(store, self._rank, self._meeting)
        else:
            self._group = _gloo_group(store, self._rank, self._meeting)
        self._wait(self._group.broadcast(torch.zeros(1, dtype=torch.uint8, device=self.device), 0))

    def _begin(self, flat: Tensor) -> Future[None]:
        """Have a buffer sent or filled, in the order of the calls."""
        try:
            return self._thread.submit(self._wait, self._group.broadcast(flat, 0))
        except RuntimeError as error:
            raise self._broken(error) from error

    def _wait(self, work: Any) -> None:
        work.wait()
        if self.device.type == "cuda":
            torch.cuda.current_stream().synchronize()

    def _end(self) -> None:
        group, self._group = self._group, None
        if group is not None and self._meeting.backend == "nccl":
            group.abort()

    def _use_device(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)


def _as_bytes(tensor: Tensor, planned: Tensor, device: torch.device) -> Tensor | None:
    """The tensor's own memory, where that can be sent."""
    fits = tensor.dtype == planned.dtype and tensor.device == device and tensor.is_contiguous()
    return tensor.detach().view(-1).view(torch.uint8) if fits else None


def bucket_buffer(planned: Weights, device: torch.device) -> tuple[Tensor, Weights]:
    """Memory for a planned bucket, in one piece, and its tensors in it by name."""
    starts, size = [], 0
    for _, tensor in planned:
        size = -(-size // ALIGNMENT) * ALIGNMENT
        starts.append(size)
        size += tensor.nbytes
    flat = torch.empty(size, dtype=torch.uint8, device=device)
    return flat, [
        (name, flat[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape))
        for start, (name, tensor) in zip(starts, planned, strict=True)
    ]


def _gloo_group(store: dist.Store, rank: int, meeting: Meeting) -> Any:
    """Gloo's group on the network that leads to the meeting: this machine's name may stand for 127.0.0.1."""
    options = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]  # in torch, but not in its stubs
    options._timeout = _seconds(meeting.timeout_s)
    if interface := os.environ.get("GLOO_SOCKET_IFNAME"):
        options._devices = [dist.ProcessGroupGloo.create_device(interface=interface)]
    else:
        with socket.socket(socket.AF_INET6 if ":" in meeting.address else socket.AF_INET, socket.SOCK_DGRAM) as route:
            route.connect((meeting.address, meeting.port))
            own = route.getsockname()[0]
        options._devices = [dist.ProcessGroupGloo.create_device(hostname=own)]
    return dist.ProcessGroupGloo(store, rank, meeting.size, options)


def _nccl_group(store: dist.Store, rank: int, meeting: Meeting) -> Any:
    """NCCL's group whose `wait` waits, and raises: else its watchdog ends the process when a member is lost."""
    name = "TORCH_NCCL_BLOCKING_WAIT"  # read when a group is made
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = _seconds(meeting.timeout_s)
        return dist.ProcessGroupNCCL(store, rank, meeting.size, options)
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _seconds(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)
