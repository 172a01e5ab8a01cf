"""One learner of several: what it does on each command. Most commands are collective, so every rank gets all of them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.train import Checkpoint, CheckpointUploadMode

from sharegrpo_rl.learners.checkpoint import export, read_checkpoint, write_checkpoint
from sharegrpo_rl.learners.vlm_learner import VLMLearner
from sharegrpo_rl.learners.vlm_learner_group import fetch_pixels
from sharegrpo_rl.models.host_memory import keep_freed_memory
from sharegrpo_rl.models.loading import parameter_table
from sharegrpo_rl.training.ranks import Ranks
from sharegrpo_rl.training.shares import UpdateShare

COMMIT_FILE = "iteration.json"


class LearnerWorker:
    """A VLMLearner in a worker of Ray Train. `attempt` names the worker group, of which a run may have several."""

    commands = ("update", "reference_kl", "module_state", "weight_part", "save", "restore", "export", "commit")

    def __init__(self, config: Any, module_spec: Any, attempt: str) -> None:
        keep_freed_memory()
        own = config.copy(copy_frozen=False)
        own.num_learners = (
            0  # for RLlib this is a local Learner: it shall not wrap the module for its own data parallelism
        )
        self.ranks = Ranks.current()
        self.learner: VLMLearner = own.learner_class(config=own, module_spec=module_spec)
        self.learner.build()
        self._attempt = attempt
        self._commits = 0
        self._parts: Iterator[Any] = iter(())
        self.iteration = self._take_up()

    def do(self, command: str, arguments: Mapping[str, Any]) -> Any:
        """The answer to a command."""
        if command not in self.commands:
            raise ValueError(f"a learner has no command {command!r}")
        return getattr(self, command)(**arguments)

    @property
    def version(self) -> int:
        """How many updates the weights have seen."""
        return self.learner.version

    def parameter_table(self) -> list[tuple[str, int, int]]:
        """(part, parameters, trainable parameters) of the whole model."""
        return parameter_table(self.learner.rl_module.model)

    # ---- training

    def update(self, share: list[ray.ObjectRef]) -> tuple[dict[str, float], dict[str, float]]:
        """Train on this rank's share; the metrics of the whole update, and this rank's seconds."""
        began = time.perf_counter()
        fetched = self._fetched(share)
        started = time.perf_counter()
        metrics = self.learner.update_share(fetched)
        return metrics, {"fetch": started - began, "step": time.perf_counter() - started}

    def reference_kl(self, share: list[ray.ObjectRef]) -> tuple[float, dict[int, float]]:
        """The KL's weight at the next optimizer step, and the KL of this rank's pairs, nats."""
        return self.learner.step.kl_weight(), self.learner.step.kl_of(self._fetched(share))

    def _fetched(self, share: list[ray.ObjectRef]) -> UpdateShare:
        found: UpdateShare = ray.get(share[0])
        return found.with_packs(fetch_pixels(found.packs))

    # ---- weights

    def module_state(self) -> list[ray.ObjectRef]:
        """The whole state, in the object store; from rank 0 only."""
        state = self.learner.module_state()
        return [ray.put({DEFAULT_MODULE_ID: state})] if self.ranks.rank == 0 else []

    def weight_part(self, number: int, everything: bool) -> tuple[ray.ObjectRef, bool] | None:
        """Bucket `number` of the weights, and whether it is the last; from rank 0 only."""
        if number == 0:
            self._parts = self.learner.weight_parts(everything)
        arrays, last = next(self._parts)
        return (ray.put(arrays), last) if self.ranks.rank == 0 else None

    # ---- state

    def save(self, folder: str) -> None:
        """This rank's part of a checkpoint."""
        write_checkpoint(self.learner, Path(folder))

    def restore(self, folder: str) -> int:
        """Take up a checkpoint; returns the weights' version."""
        read_checkpoint(self.learner, Path(folder))
        return self.version

    def export(self, folder: str) -> None:
        """A Hugging Face folder, written by rank 0."""
        export(self.learner, Path(folder))

    def commit(self, iteration: int) -> None:
        """Have Ray Train note the state after an iteration: what this group goes on from when it is started again."""
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

    def _take_up(self) -> int:
        """Go on from what an earlier group committed last; the iteration it stood at, 0 without a commit."""
        committed = ray.train.get_checkpoint()
        if committed is None:
            return 0
        folder = Path(committed.path)
        read_checkpoint(self.learner, folder)
        return json.loads((folder / COMMIT_FILE).read_text())["iteration"]
