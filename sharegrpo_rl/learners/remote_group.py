"""The learner group whose Learners live in the workers of a Ray Train V2 `TorchTrainer`."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, ObjectStoreFullError, OutOfDiskError, RayActorError
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core import COMPONENT_LEARNER
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.utils.annotations import override

from sharegrpo_rl.config.run import RunOptions
from sharegrpo_rl.data.types import PromptPack
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.learners.failures import (
    LESS_MEMORY,
    Failure,
    LearnerError,
    LearnersRestarted,
    LearnersUnavailable,
    PixelsLost,
    why_ended,
    why_failed,
)
from sharegrpo_rl.learners.host import WorkerGroupSpec, commit_root, start_host
from sharegrpo_rl.learners.learner import VLMLearnerGroup
from sharegrpo_rl.learners.mailbox import Command, Group, GroupLost, RunEnded, TimedOut
from sharegrpo_rl.learners.placement import learner_bundle, shortage_now
from sharegrpo_rl.models.weights import Meeting, Weights
from sharegrpo_rl.training.batching import UpdateShare, gather_kl, plan_kl, plan_update

SLACK_SECONDS = 60.0  # for the mailbox itself to answer
STOP_SECONDS = 20.0  # for workers to end by themselves
# For Ray Train to notice that workers were killed, and to give back what they held: on a machine where many processes wait
# for a core this takes a minute, and a controller that is killed before it has done so leaves the cores taken for ever.
KILLED_SECONDS = 300.0

logger = logging.getLogger(__name__)


class TrainLearnerGroup(VLMLearnerGroup):
    """`num_learners` workers. Any method may raise LearnersRestarted: the algorithm goes back to that iteration."""

    def __init__(self, *, config: AlgorithmConfig, module_spec: Any = None, placement_group: Any = None) -> None:
        self.config = config.copy(copy_frozen=False)
        self._options: RunOptions = self.config.to_options()
        self._module_spec = module_spec or self.config.get_multi_rl_module_spec()
        self._learner = self._workers = self._worker_manager = None  # RLlib's, unused here
        self._ts_dropped = 0
        self._is_shut_down = False
        self._error: Exception | None = None  # the learners cannot go on after it
        self._folder = commit_root(self._options.commit_folder)
        self.restarts = 0
        self.seconds: dict[str, float] = {}  # of the last update
        self._sampled_logprobs: dict[int, np.ndarray] = {}
        self._group = Group("", ())
        self._version = 0  # how many updates the weights have seen
        spec = WorkerGroupSpec(
            learner=ray.put((self.config, self._module_spec)),
            workers=self._options.num_learners,
            resources=learner_bundle(self._options),
            restarts=self._options.learner_restarts,
            folder=self._folder,
            timeout_s=self._options.learner_timeout_s,
        )
        self._host: Any = None
        try:
            self._host = start_host(spec)
            self._join()
            self._check_seen(
                Path(self._folder), "commit_folder (--storage-path, where it is null)", "commit their state"
            )
        except BaseException:  # an interrupt too: nobody else knows the started processes
            self.shutdown()
            raise

    def __len__(self) -> int:
        return len(self._group.members)

    @override(LearnerGroup)
    def update(self, packs: Sequence[PromptPack], **kwargs: Any) -> dict[str, float]:
        """Train on the packs, each worker on its share, whose pixels it fetches."""
        clock = [time.perf_counter()]
        plan = plan_update(packs, self._options, len(self), self._prompt_in_each)
        clock.append(time.perf_counter())
        shares = self._shares(plan)
        clock.append(time.perf_counter())
        answers = self._call_on("update", shares)
        clock.append(time.perf_counter())
        self._version += 1
        self.seconds = _seconds(clock, [seconds for _, seconds, _ in answers])
        self._sampled_logprobs = {pair: logprobs for _, _, own in answers for pair, logprobs in own.items()}
        metrics: dict[str, float] = answers[0][0]
        return metrics

    @override(VLMLearnerGroup)
    def sampled_logprobs(self) -> Mapping[int, np.ndarray]:
        return self._sampled_logprobs

    @override(VLMLearnerGroup)
    def reference_kl(self, packs: Sequence[PromptPack]) -> tuple[float, list[np.ndarray]]:
        plan = plan_kl(packs, self._options, len(self), self._prompt_in_each)
        answers = self._call_on("reference_kl", self._shares(plan))
        return answers[0][0], gather_kl(packs, [by_pair for _, by_pair in answers])

    @property
    @override(VLMLearnerGroup)
    def weights_version(self) -> int:
        return self._version

    @override(VLMLearnerGroup)
    def module_state(self) -> ray.ObjectRef:
        """Put in the object store by rank 0."""
        return self._call("module_state")[0][0]

    @override(VLMLearnerGroup)
    def weight_parts(self, everything: bool) -> Iterator[tuple[ray.ObjectRef, bool]]:
        """Each is put in the object store by rank 0 on request."""
        number, last = 0, False
        while not last:
            arrays, last = self._call("weight_part", {"number": number, "everything": everything})[0]
            yield arrays, last
            number += 1

    @override(VLMLearnerGroup)
    def open_weight_group(self, size: int, backend: str, timeout_s: float) -> Meeting:
        arguments = {"size": size, "backend": backend, "timeout_s": timeout_s}
        meeting: Meeting = self._call("open_weight_group", arguments)[0]
        return meeting

    @override(VLMLearnerGroup)
    def join_weight_group(self, meeting: Meeting) -> str:
        return str(self._call("join_weight_group", {"meeting": meeting})[0])

    @override(VLMLearnerGroup)
    def weight_plan(self, everything: bool) -> list[Weights]:
        return list(self._call("weight_plan", {"everything": everything})[0])

    @override(VLMLearnerGroup)
    def send_weights(self, everything: bool) -> str:
        return str(self._call("send_weights", {"everything": everything})[0])

    @override(VLMLearnerGroup)
    def parameter_table(self) -> list[tuple[str, int, int]]:
        return list(self._group.members[0].facts["parameter_table"])

    @override(VLMLearnerGroup)
    def check_engine(self, packs: Sequence[PromptPack]) -> None:
        self._call("check_engine", {"packs": list(packs)})

    @property
    def _prompt_in_each(self) -> bool:
        return not self._group.members[0].facts["shares_prefix"]

    @override(LearnerGroup)
    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Empty: nothing passes through the driver. Workers write for `save_to_path` and put for `module_state`."""
        return {COMPONENT_LEARNER: {}}

    @override(LearnerGroup)
    def set_state(self, state: Mapping[str, Any]) -> None:
        """Takes only the empty state of `get_state`; UserError for another, whose weights are in this process."""
        if state.get(COMPONENT_LEARNER):
            raise UserError(
                "num_learners: this state of a learner is in RLlib's own form, which only a learner in the driver can load; "
                "resume with num_learners: 0, and save again"
            )

    @override(VLMLearnerGroup)
    def check_storage(self, folder: Path) -> None:
        self._check_seen(folder, "--storage-path", "write their part of checkpoints")

    def _check_seen(self, folder: Path, key: str, doing: str) -> None:
        """Each rank reads a token that is written here: a folder of that name may be on another disk there."""
        with tempfile.NamedTemporaryFile("w", dir=folder, prefix=".seen-", suffix=".txt") as file:
            file.write(token := uuid.uuid4().hex)
            file.flush()
            seen = self._call("sees", {"file": str(Path(file.name).absolute()), "token": token})
        if blind := [member.where for member, sees in zip(self._group.members, seen, strict=True) if not sees]:
            raise UserError(
                f"{key}: {folder.absolute()} is not the same folder on {'; '.join(blind)}, where learners are to {doing}; name "
                "one on a disk that all nodes mount"
            )

    @override(VLMLearnerGroup)
    def _write(self, folder: Path) -> None:
        """Every worker writes its shards, rank 0 the Hugging Face folder too; the folder must be visible to all of them."""
        self._call("save", {"folder": str(folder)})

    @override(VLMLearnerGroup)
    def _read(self, folder: Path) -> None:
        self._version = self._call("restore", {"folder": str(folder)})[0]

    @override(VLMLearnerGroup)
    def export(self, folder: Path) -> None:
        self._call("export", {"folder": str(folder.absolute())})

    @override(LearnerGroup)
    def get_checkpointable_components(self) -> list[Any]:
        return []

    def commit(self, iteration: int, wait: bool = False) -> None:
        """Have the workers commit their state after `iteration`, from which a restarted group continues.

        `wait`: until Ray Train has recorded it.
        """
        self._call("commit", {"iteration": iteration})
        if wait and not ray.get(self._host.wait_for_commit.remote(iteration, self._options.learner_timeout_s)):
            raise LearnerError(f"the learners' state after iteration {iteration} was not committed in time")

    def last_commit(self) -> int:
        """The last iteration known to be committed."""
        return ray.get(self._host.last_commit.remote())

    def _join(self) -> None:
        """Wait for a complete group."""
        timeout = self._options.learner_timeout_s
        outcome = self._get(self._host.ready.remote(timeout))
        if isinstance(outcome, Failure):
            raise self._fatal(outcome.error("building the model"))
        if isinstance(outcome, RunEnded):
            raise self._fatal(LearnersUnavailable(self._why_ended(outcome.reason)))
        if isinstance(outcome, TimedOut):
            raise self._fatal(
                LearnersUnavailable(
                    f"the learners were not ready within {timeout:g} s; {shortage_now(self._options)}; if loading the model "
                    "takes that long, raise learner_timeout_s"
                )
            )
        self._group = outcome
        self._version = outcome.members[0].facts["version"]

    def _call_on(self, name: str, shares: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Each rank's answer to a command on its share. PixelsLost, before any of them has begun, where pixels are gone."""
        if lost := [reason for reason in self._call("fetch", shares) if reason is not None]:
            raise PixelsLost(lost[0])
        return self._call(name)

    def _call(self, name: str, arguments: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None = None) -> list[Any]:
        """Each rank's answer; `arguments` are one mapping for all, or one for each."""
        if self._error is not None:
            raise self._error
        each = [arguments or {}] * len(self) if arguments is None or isinstance(arguments, Mapping) else arguments
        timeout = self._options.learner_timeout_s
        call = self._host.call.remote(self._group.attempt, Command(name, tuple(each)), timeout)
        outcome = self._get(call)
        if isinstance(outcome, Failure):
            error = outcome.error(name)
            raise error if outcome.carried and name not in ("update", "reference_kl") else self._fatal(error)
        if isinstance(outcome, RunEnded):
            raise self._fatal(LearnersUnavailable(self._why_ended(outcome.reason)))
        if isinstance(outcome, TimedOut):
            silent = "; ".join(
                f"learner {m.rank} ({m.where}{', last at ' + outcome.said[m.rank] if m.rank in outcome.said else ''})"
                for m in outcome.members
            )
            raise self._fatal(
                LearnersUnavailable(
                    f"no answer to {name} within {timeout:g} s from {silent}; if they are merely slow, raise learner_timeout_s"
                )
            )
        if isinstance(outcome, GroupLost):
            logger.warning("%s", outcome.reason)
            self.restarts += 1
            self._join()
            raise LearnersRestarted(self._group.members[0].iteration, outcome.reason)
        return outcome

    def _get(self, call: ray.ObjectRef) -> Any:
        """What the mailbox answers, however long: it has deadlines of its own, as long as it is there."""
        try:
            while not ray.wait([call], timeout=SLACK_SECONDS)[0]:
                ray.get(self._host.is_there.remote(), timeout=SLACK_SECONDS)
            return ray.get(call)
        except (RayActorError, GetTimeoutError) as error:
            raise self._fatal(LearnersUnavailable(f"the actor that hosts the learners is gone: {error}")) from error

    def _fatal(self, error: Exception) -> Exception:
        self._error = error
        return error

    def _why_ended(self, reason: str) -> str:
        if "WorkerGroupStartupTimeout" in reason or "InsufficientClusterResources" in reason:
            return f"the learners could not be placed; {shortage_now(self._options)}"
        allowed = self._options.learner_restarts
        return f"the learners were lost more often than learner_restarts = {allowed} allows; the last time: {why_ended(reason)}"

    def _shares(self, shares: Sequence[UpdateShare]) -> list[Mapping[str, Any]]:
        """Each rank's share in the object store; only that rank fetches it, and its pixels."""
        try:
            return [{"share": [ray.put(share)]} for share in shares]
        except (ObjectStoreFullError, OutOfDiskError) as error:
            reason = why_failed(error, LESS_MEMORY)
            raise LearnerError(f"the learners' shares could not be put in the object store: {reason}") from error

    @override(LearnerGroup)
    def shutdown(self) -> None:
        """Let the workers end, or kill them where they do not answer; no process stays."""
        if self._is_shut_down or self._host is None or not ray.is_initialized():
            return
        self._is_shut_down = True
        if not self._close(STOP_SECONDS):  # the loss of a killed worker ends the run now that the mailbox is closed
            for worker in ray.get(self._host.arrived.remote()):
                ray.kill(worker)
            ray.get(self._host.abort.remote())  # where workers were lost before, and others are on their way
            self._close(KILLED_SECONDS)
        ray.kill(self._host)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _close(self, seconds: float) -> bool:
        try:
            return ray.get(self._host.close.remote(seconds), timeout=seconds + SLACK_SECONDS)
        except (RayActorError, GetTimeoutError):
            return False

    @override(LearnerGroup)
    def foreach_learner(self, func: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("learners in Ray Train workers take the group's commands, not functions")


def _seconds(clock: Sequence[float], workers: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Where an update's seconds went; `clock` was read before and after planning, putting and calling."""
    plan, put, called = np.diff(clock).tolist()
    slowest = max(workers, key=lambda seconds: sum(seconds.values()))
    return {"plan": plan, "put": put, **slowest, "messages": called - sum(slowest.values())}
