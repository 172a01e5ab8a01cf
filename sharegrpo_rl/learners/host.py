"""The actor that runs Ray Train's `fit` and keeps the mailbox: the driver's one handle on its learners."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

import psutil
import ray
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, UserCallback
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sharegrpo_rl.learners.mailbox import Mailbox
from sharegrpo_rl.learners.worker import learner_loop

KEPT_COMMITS = 2  # a report is committed when Ray Train's controller has polled it, so the last may be missing
PLACEMENT_SECONDS = 300
# Ray Train's environment variables; those that the user has set win.
SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # 2 s by default, which every commit would wait for
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # paths in a YAML are relative to where the run was started
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # every iteration is committed; nothing to save in a hurry
}


@dataclass(frozen=True)
class WorkerGroupSpec:
    """The worker group: how many, what resources each needs, how often it may be lost, where it commits.

    learner: a reference to the (RunConfig, module spec) that each worker builds its learner from.
    """

    learner: ray.ObjectRef
    workers: int
    resources: Mapping[str, float]  # of each worker
    restarts: int
    folder: str
    timeout_s: float


def use_ray_s_network() -> None:
    """Have gloo of this process talk over the network that Ray talks over.

    By itself it takes the one that the machine's name stands for, in most /etc/hosts 127.0.0.1: no other node reaches it.
    """
    here = ray.util.get_node_ip_address()
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address == here for address in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


class _Backend(TorchConfig().backend_cls):  # type: ignore[misc]
    """Ray Train's, between nodes whose names say nothing of their addresses."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(use_ray_s_network)
        super().on_start(worker_group, backend_config)


@dataclass
class _Torch(TorchConfig):
    @property
    def backend_cls(self) -> type[_Backend]:
        return _Backend


class Watcher(UserCallback):
    """Runs in Ray Train's controller and reports deaths and commits to the mailbox."""

    def __init__(self, host: Any) -> None:
        self.host = host

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        if checkpoint is not None:
            self.host.committed.remote(metrics[0]["iteration"])

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        controller = ray.get_runtime_context().current_actor
        self.host.lost_in.remote(controller, {rank: str(error) for rank, error in worker_exceptions.items()})


class TrainHost(Mailbox):
    """A mailbox that also runs the TorchTrainer. Controller and workers are its children, and end with it."""

    _controller: Any = None  # of the run, once it has lost a worker

    async def start(self, spec: WorkerGroupSpec) -> None:
        """Run the trainer in the background; returns at once."""
        host = ray.get_runtime_context().current_actor
        self._fit = asyncio.create_task(self._run(spec, host))

    async def _run(self, spec: WorkerGroupSpec, host: Any) -> None:
        reason = ""
        try:
            await asyncio.to_thread(fit, spec, host)
        except Exception as error:  # a RayTaskError or one of Ray Train's; the driver gets its text
            reason = f"{type(error).__name__}: {error}"
        await self.end(reason)

    async def lost_in(self, controller: Any, texts: Mapping[int, str]) -> None:
        """`lost`, by the run's controller. Nobody waits for other workers once the mailbox is closed."""
        await self.lost(texts)
        self._controller = controller
        if self._closed:
            await self.abort()

    async def abort(self) -> None:
        """End a run that has lost workers, as Ray Train does on an interrupt: it gives back what they held.

        Killing the controller would leave that to an actor which needs Ray's dashboard, and never ends without one.
        """
        if self._controller is not None:
            self._controller.abort.remote()


def fit(spec: WorkerGroupSpec, host: Any) -> None:
    """Ray Train's V2 trainer over the learners' loop, until the mailbox ends it."""
    placement = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(min(PLACEMENT_SECONDS, spec.timeout_s))}
    for name, value in (SETTINGS | placement).items():
        os.environ.setdefault(name, value)
    TorchTrainer(
        learner_loop,
        train_loop_config={"learner": spec.learner, "host": host},
        scaling_config=ScalingConfig(
            num_workers=spec.workers,
            use_gpu=spec.resources.get("GPU", 0) > 0,
            resources_per_worker=dict(spec.resources),
        ),
        torch_config=_Torch(
            backend="cpu:gloo,cuda:nccl" if spec.resources.get("GPU", 0) > 0 else "gloo", timeout_s=ceil(spec.timeout_s)
        ),
        run_config=RunConfig(
            name="learners",
            storage_path=spec.folder,
            failure_config=FailureConfig(max_failures=spec.restarts, controller_failure_limit=spec.restarts),
            checkpoint_config=CheckpointConfig(num_to_keep=KEPT_COMMITS),
            callbacks=[Watcher(host)],
        ),
    ).fit()


def start_host(spec: WorkerGroupSpec) -> Any:
    """The host, on the driver's node, with the trainer started."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    host = ray.remote(num_cpus=0)(TrainHost).options(scheduling_strategy=here).remote()
    ray.get(host.start.remote(spec))
    return host


def commit_root(commit_folder: str | None) -> str:
    """A fresh folder for this run's commits, under `commit_folder` where it is set."""
    if commit_folder is not None:
        os.makedirs(commit_folder, exist_ok=True)
    return tempfile.mkdtemp(prefix="learners-", dir=commit_folder and os.path.abspath(commit_folder))
