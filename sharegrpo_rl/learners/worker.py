"""One learner of several: what it does on each command. Most commands are collective, so every rank gets all of them."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.train import Checkpoint, CheckpointUploadMode

from sharegrpo_rl.data.types import PromptPack
from sharegrpo_rl.learners.failures import Failure, PixelsLost
from sharegrpo_rl.learners.learner import VLMLearner, export, fetch_pixels, read_checkpoint, write_checkpoint
from sharegrpo_rl.learners.mailbox import Member
from sharegrpo_rl.models.loading import keep_freed_memory, parameter_table
from sharegrpo_rl.models.probe import check_engine_answers
from sharegrpo_rl.models.weights import Meeting, Weights
from sharegrpo_rl.training.batching import UpdateShare
from sharegrpo_rl.training.sharding import Ranks

COMMIT_FILE = "iteration.json"
HEARTBEAT_SECONDS = 5.0
SEEN_SECONDS = 10


def learner_loop(config: dict[str, Any]) -> None:
    """Runs in each worker of Ray Train: build a learner, load the committed state, execute the mailbox's commands.

    config: the `host`, and a reference to the `learner`'s config and module spec. Exceptions are answers, not raised: Ray
    Train would restart the group over any of them, and a mistake would be made again.
    """
    host = config["host"]
    if not ray.get(host.arrive.remote(ray.get_runtime_context().current_actor)):
        return
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    attempt = Ranks.current().broadcast(uuid.uuid4().hex)
    try:
        run_config, module_spec = ray.get(config["learner"])
        worker = LearnerWorker(run_config, module_spec, attempt)
        worker.learner.step.on_progress = Heartbeat(host, attempt, rank)
        member = _member(rank, worker)
    except Exception as error:  # an answer: see above
        ray.get(host.fail_to_join.remote(attempt, Failure.of(rank, error)))
        return
    if ray.get(host.join.remote(attempt, world, member)):
        _serve(worker, host, attempt, rank)


def _serve(worker: LearnerWorker, host: Any, attempt: str, rank: int) -> None:
    number, answer = 0, None
    while (command := ray.get(host.exchange.remote(attempt, rank, number, answer))) is not None:
        name, arguments = command
        try:
            answer = worker.do(name, arguments)
        except Exception as error:  # an answer too
            answer = Failure.of(rank, error)
        number += 1


def _member(rank: int, worker: LearnerWorker) -> Member:
    facts = {
        "parameter_table": worker.parameter_table(),
        "version": worker.version,
        "shares_prefix": worker.learner.rl_module.policy.shares_prefix,
    }
    return Member(rank, ray.util.get_node_ip_address(), os.getpid(), worker.iteration, facts)


class Heartbeat:
    """Tells the host how far this rank is, no more often than every `HEARTBEAT_SECONDS`; nobody waits for it."""

    def __init__(self, host: Any, attempt: str, rank: int) -> None:
        self._progress = partial(host.progress.remote, attempt, rank)
        self._told = 0.0

    def __call__(self, said: str) -> None:
        if time.monotonic() - self._told > HEARTBEAT_SECONDS:
            self._told = time.monotonic()
            self._progress(said)


class LearnerWorker:
    """A VLMLearner in a worker of Ray Train. `attempt` numbers the worker group, since a run may have several in turn."""

    commands = (
        "sees",
        "fetch",
        "update",
        "reference_kl",
        "check_engine",
        "module_state",
        "weight_part",
        "open_weight_group",
        "join_weight_group",
        "weight_plan",
        "send_weights",
        "save",
        "restore",
        "export",
        "commit",
    )

    def __init__(self, config: AlgorithmConfig, module_spec: RLModuleSpec, attempt: str) -> None:
        keep_freed_memory()
        config.user_code.load()
        local = config.copy(copy_frozen=False)
        local.num_learners = 0  # a local Learner to RLlib, which must not wrap the module for its own data parallelism
        self.ranks = Ranks.current()
        self.learner: VLMLearner = local.learner_class(config=local, module_spec=module_spec)
        self.learner.build()
        self._attempt = attempt
        self._commits = 0
        self._parts: Iterator[Any] = iter(())
        self._share: UpdateShare | None = None  # fetched, for the next command
        self._fetch_seconds = 0.0
        self.iteration = self._resume()

    def do(self, command: str, arguments: Mapping[str, Any]) -> Any:
        """The answer to a command."""
        if command not in self.commands:
            raise ValueError(f"a learner has no command {command!r}")
        return getattr(self, command)(**arguments)

    @property
    def version(self) -> int:
        """Number of updates that the weights have seen."""
        return self.learner.version

    def parameter_table(self) -> list[tuple[str, int, int]]:
        """(part, parameters, trainable parameters) of the whole model."""
        return parameter_table(self.learner.rl_module.model)

    def sees(self, file: str, token: str) -> bool:
        """Is a file of the driver's here too? A shared disk may show it late."""
        for _ in range(SEEN_SECONDS):
            with suppress(OSError):
                if Path(file).read_text(encoding="utf-8") == token:
                    return True
            time.sleep(1)
        return False

    def fetch(self, share: list[ray.ObjectRef]) -> str | None:
        """Get this rank's share of the next command ready; the reason where its pixels are lost.

        Apart from that command: in the middle of it the other ranks would wait for this one in an exchange.
        """
        started = time.perf_counter()
        try:
            fetched: UpdateShare = ray.get(share[0])
            self._share = fetched.with_packs(fetch_pixels(fetched.packs))
        except PixelsLost as error:
            return str(error)
        self._fetch_seconds = time.perf_counter() - started
        return None

    def update(self) -> tuple[dict[str, float], dict[str, float], dict[int, np.ndarray]]:
        """Train on the fetched share; the metrics of the whole update, this rank's seconds and its `sampled_logprobs`."""
        started = time.perf_counter()
        metrics = self.learner.update_share(self._fetched())
        seconds = {"fetch": self._fetch_seconds, "step": time.perf_counter() - started}
        return metrics, seconds, self.learner.step.sampled_logprobs

    def reference_kl(self) -> tuple[float, dict[int, float]]:
        """The KL's weight at the next optimizer step, and the KL of the fetched share's pairs, nats."""
        return self.learner.step.kl_weight(), self.learner.step.kl_of(self._fetched())

    def check_engine(self, packs: list[PromptPack]) -> None:
        """UserError where an engine sampled the packs with other probabilities than this model's; each rank looks at all."""
        check_engine_answers(self.learner.rl_module.policy, packs)

    def _fetched(self) -> UpdateShare:
        share, self._share = self._share, None
        if share is None:
            raise RuntimeError("no share was fetched for this command")
        return share

    def module_state(self) -> list[ray.ObjectRef]:
        """The whole state, in the object store; from rank 0 only."""
        state = self.learner.module_state()
        return [ray.put({DEFAULT_MODULE_ID: state})] if self.ranks.rank == 0 else []

    def weight_part(self, number: int, everything: bool) -> tuple[ray.ObjectRef, bool] | None:
        """Bucket `number` of the weights, and whether it is the last; from rank 0 only."""
        if number == 0:
            self._parts = self.learner.weights.parts(everything)
        arrays, last = next(self._parts)
        return (ray.put(arrays), last) if self.ranks.rank == 0 else None

    def open_weight_group(self, size: int, backend: str, timeout_s: float) -> Meeting | None:
        """Where engines meet rank 0."""
        return self.learner.weights.open_group(ray.util.get_node_ip_address(), size, backend, timeout_s)

    def join_weight_group(self, meeting: Meeting) -> str:
        """Rank 0 becomes the group's sender; the reason where not all members came."""
        return self.learner.weights.join_group(meeting)

    def weight_plan(self, everything: bool) -> list[Weights]:
        """The buckets that `send_weights` sends; from rank 0 only."""
        return self.learner.weights.plan(everything) if self.ranks.rank == 0 else []

    def send_weights(self, everything: bool) -> str:
        """Send weights to the group; the reason where that failed."""
        return self.learner.weights.send(everything)

    def save(self, folder: str) -> None:
        """This rank's part of a checkpoint."""
        write_checkpoint(self.learner, Path(folder))

    def restore(self, folder: str) -> int:
        """Load a checkpoint; returns the weights' version."""
        read_checkpoint(self.learner, Path(folder))
        return self.version

    def export(self, folder: str) -> None:
        """A Hugging Face folder, written by rank 0."""
        export(self.learner, Path(folder))

    def commit(self, iteration: int) -> None:
        """Have Ray Train record the state after an iteration, from which the group continues when it is restarted."""
        self._commits += 1
        root = Path(ray.train.get_context().get_storage().experiment_fs_path)
        folder = root / f"commit-{self._attempt[:8]}-{self._commits:06d}"
        write_checkpoint(self.learner, folder, model=False)
        if self.ranks.rank == 0:
            (folder / COMMIT_FILE).write_text(json.dumps({"iteration": iteration}))
        ray.train.report(
            {"iteration": iteration},
            checkpoint=Checkpoint.from_directory(folder) if self.ranks.rank == 0 else None,
            checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD,
        )

    def _resume(self) -> int:
        """Load what an earlier group committed last; returns its iteration, 0 without a commit."""
        committed = ray.train.get_checkpoint()
        if committed is None:
            return 0
        folder = Path(committed.path)
        read_checkpoint(self.learner, folder)
        return json.loads((folder / COMMIT_FILE).read_text())["iteration"]
