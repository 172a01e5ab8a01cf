"""The learner group whose Learners live in the workers of a Ray Train V2 `TorchTrainer`."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, ObjectStoreFullError, OutOfDiskError, RayActorError
from ray.rllib.core import COMPONENT_LEARNER
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.utils.annotations import override

from sharegrpo_rl.data.types import PromptPack
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.learners.failures import LESS_MEMORY, Failure, LearnerError, LearnersRestarted, why_failed
from sharegrpo_rl.learners.host import TrainPlan, own_folder, start_host
from sharegrpo_rl.learners.learner import training_settings
from sharegrpo_rl.learners.local_group import VLMLearnerGroup
from sharegrpo_rl.learners.mailbox import Command, Ended, Gone, Group, Late
from sharegrpo_rl.learners.placement import learner_bundle, shortage_now
from sharegrpo_rl.training.batching import UpdateShare, gather_kl, plan_kl, plan_update

SLACK_SECONDS = 60.0  # beyond the mailbox's own deadlines
STOP_SECONDS = 20.0

logger = logging.getLogger(__name__)


class TrainLearnerGroup(VLMLearnerGroup):
    """`num_learners` workers. Any method may raise LearnersRestarted: see algorithms/base.py, which goes on from there."""

    def __init__(self, *, config: Any, module_spec: Any = None, placement_group: Any = None) -> None:
        self.config = config.copy(copy_frozen=False)
        self._module_spec = module_spec or self.config.get_multi_rl_module_spec()
        self._learner = self._workers = self._worker_manager = None  # RLlib's; there is none here
        self._ts_dropped = 0
        self._is_shut_down = False
        self._settings = training_settings(self.config)
        self._error: Exception | None = None  # the learners cannot go on after it
        self._folder = own_folder(self.config.commit_folder)
        self.restarts = 0
        self.seconds: dict[str, float] = {}  # of the last update
        self._group = Group("", ())
        self._version = 0  # how many updates the weights have seen
        self._plan = TrainPlan(
            learner=ray.put((self.config, self._module_spec)),
            workers=self.config.num_learners,
            resources=learner_bundle(self.config),
            restarts=self.config.learner_restarts,
            folder=self._folder,
            timeout_s=self.config.learner_timeout_s,
        )
        self._host: Any = None
        try:
            self._host = start_host(self._plan)
            self._join()
        except BaseException:  # an interrupt too: nobody else knows of the processes that were started
            self.shutdown()
            raise

    def __len__(self) -> int:
        return len(self._group.members)

    # ---- training

    @override(LearnerGroup)
    def update(self, packs: Sequence[PromptPack], **kwargs: Any) -> dict[str, float]:
        """Train on the packs, each worker on its share; it fetches only the pixels of that."""
        clock = [time.perf_counter()]
        plan = plan_update(packs, self._settings, len(self))
        clock.append(time.perf_counter())
        shares = self._shares(plan)
        clock.append(time.perf_counter())
        answers = self._ask("update", shares)
        clock.append(time.perf_counter())
        self._version += 1
        self.seconds = _spent(clock, [seconds for _, seconds in answers])
        metrics: dict[str, float] = answers[0][0]
        return metrics

    @override(VLMLearnerGroup)
    def reference_kl(self, packs: Sequence[PromptPack]) -> tuple[float, list[np.ndarray]]:
        answers = self._ask("reference_kl", self._shares(plan_kl(packs, self._settings, len(self))))
        return answers[0][0], gather_kl(packs, [found for _, found in answers])

    # ---- weights for those who generate

    @property
    @override(VLMLearnerGroup)
    def weights_version(self) -> int:
        return self._version

    @override(VLMLearnerGroup)
    def module_state(self) -> ray.ObjectRef:
        """Put in the object store by rank 0."""
        return self._ask("module_state")[0][0]

    @override(VLMLearnerGroup)
    def weight_parts(self, everything: bool) -> Iterator[tuple[ray.ObjectRef, bool]]:
        """Each put in the object store by rank 0 when it is asked for."""
        number, last = 0, False
        while not last:
            arrays, last = self._ask("weight_part", {"number": number, "everything": everything})[0]
            yield arrays, last
            number += 1

    @override(VLMLearnerGroup)
    def parameter_table(self) -> list[tuple[str, int, int]]:
        return list(self._group.members[0].facts["parameter_table"])

    # ---- state

    @override(LearnerGroup)
    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Nothing that would pass through the driver: `save_to_path` and `module_state` have it written and put by the
        workers."""
        return {COMPONENT_LEARNER: {}}

    @override(LearnerGroup)
    def set_state(self, state: Mapping[str, Any]) -> None:
        """Only the empty state of `get_state`; UserError for another: its weights lie in this process."""
        if state.get(COMPONENT_LEARNER):
            raise UserError(
                "num_learners: this state of a learner is in RLlib's own form, which only a learner in the driver takes; "
                "resume with num_learners: 0, and save again"
            )

    @override(VLMLearnerGroup)
    def _write(self, folder: Path) -> None:
        """Every worker writes its shards, the first one the Hugging Face folder too; they all must see the folder."""
        self._ask("save", {"folder": str(folder)})

    @override(VLMLearnerGroup)
    def _read(self, folder: Path) -> None:
        self._version = self._ask("restore", {"folder": str(folder)})[0]

    @override(VLMLearnerGroup)
    def export(self, folder: Path) -> None:
        self._ask("export", {"folder": str(folder.absolute())})

    @override(LearnerGroup)
    def get_checkpointable_components(self) -> list[Any]:
        return []

    def commit(self, iteration: int, wait: bool = False) -> None:
        """Have the workers commit their state after `iteration`, which a restarted group goes on from; `wait` until Ray
        Train has taken note of it."""
        self._ask("commit", {"iteration": iteration})
        if wait and not ray.get(self._host.wait_for_commit.remote(iteration, self.config.learner_timeout_s)):
            raise LearnerError(f"the learners' state after iteration {iteration} was not committed in time")

    def last_commit(self) -> int:
        """The last iteration whose commit is known of."""
        return ray.get(self._host.last_commit.remote())

    # ---- talking to the workers

    def _join(self) -> None:
        """Wait for a whole group."""
        timeout = self.config.learner_timeout_s
        found = self._answer(self._host.ready.remote(timeout), timeout)
        if isinstance(found, Failure):
            raise self._lasting(found.error("being built"))
        if isinstance(found, Ended):
            raise self._lasting(LearnerError(self._why_ended(found.reason)))
        if isinstance(found, Late):
            raise self._lasting(
                LearnerError(
                    f"the learners were not ready within {timeout:g} s; {shortage_now(self.config)}; raise "
                    "learner_timeout_s where loading the model takes so long"
                )
            )
        self._group = found
        self._version = found.members[0].facts["version"]

    def _ask(self, name: str, arguments: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None = None) -> list[Any]:
        """Each rank's answer; `arguments` are one mapping for all, or one for each."""
        if self._error is not None:
            raise self._error
        each = [arguments or {}] * len(self) if arguments is None or isinstance(arguments, Mapping) else arguments
        timeout = self.config.learner_timeout_s
        call = self._host.call.remote(self._group.attempt, Command(name, tuple(each)), timeout)
        found = self._answer(call, timeout)
        if isinstance(found, Failure):
            error = found.error(name)
            raise error if found.carried and name not in ("update", "reference_kl") else self._lasting(error)
        if isinstance(found, Ended):
            raise self._lasting(LearnerError(self._why_ended(found.reason)))
        if isinstance(found, Late):
            silent = "; ".join(f"learner {m.rank} ({m.where})" for m in found.members)
            raise self._lasting(
                LearnerError(
                    f"the driver waited {timeout:g} s over {name} for {silent}, in vain; if they are only slow, raise "
                    "learner_timeout_s"
                )
            )
        if isinstance(found, Gone):
            logger.warning("%s", found.reason)
            self.restarts += 1
            self._join()
            raise LearnersRestarted(self._group.members[0].iteration, found.reason)
        return found

    def _answer(self, call: ray.ObjectRef, timeout_s: float) -> Any:
        try:
            return ray.get(call, timeout=timeout_s + SLACK_SECONDS)
        except (RayActorError, GetTimeoutError) as error:
            raise self._lasting(LearnerError(f"the actor that hosts the learners is gone: {error}")) from error

    def _lasting(self, error: Exception) -> Exception:
        self._error = error
        return error

    def _why_ended(self, reason: str) -> str:
        if "WorkerGroupStartupTimeout" in reason or "InsufficientClusterResources" in reason:
            return f"the learners could not be placed; {shortage_now(self.config)}"
        allowed = self.config.learner_restarts
        return f"the learners were lost more often than learner_restarts = {allowed} allows; the last time: {reason}"

    def _shares(self, shares: Sequence[UpdateShare]) -> list[Mapping[str, Any]]:
        """Each rank's share in the object store, from where only that rank fetches it, and the pixels in it."""
        try:
            return [{"share": [ray.put(share)]} for share in shares]
        except (ObjectStoreFullError, OutOfDiskError) as error:
            raise LearnerError(f"the learners' shares were not put: {why_failed(error, LESS_MEMORY)}") from error

    # ---- the end

    @override(LearnerGroup)
    def shutdown(self) -> None:
        """Send the workers home, or end them where they do not listen; no process stays."""
        if self._is_shut_down or self._host is None or not ray.is_initialized():
            return
        self._is_shut_down = True
        over = self._close()
        if not over:  # Ray Train starts the ended ones once more, and those find that they are not wanted
            for worker in ray.get(self._host.arrived.remote()):
                ray.kill(worker)
            self._close()
        ray.kill(self._host)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _close(self) -> bool:
        try:
            return ray.get(self._host.close.remote(STOP_SECONDS), timeout=2 * STOP_SECONDS)
        except (RayActorError, GetTimeoutError):
            return False

    @override(LearnerGroup)
    def foreach_learner(self, func: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("learners in Ray Train workers take the group's own commands, not functions")


def _spent(clock: Sequence[float], workers: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Where an update's seconds went: `clock` is read before and after planning, putting and asking."""
    plan, put, asked = np.diff(clock).tolist()
    slowest = max(workers, key=lambda seconds: sum(seconds.values()))
    return {"plan": plan, "put": put, **slowest, "messages": asked - sum(slowest.values())}
