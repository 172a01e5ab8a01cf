"""One trial of a search, as Ray Tune runs it: a run's folder that fills up iteration by iteration.

Everything that a trial must remember is in its folder. A trial that is started again, after a failure, a pause or a
kill of the whole search, first reports the stored iterations that the search does not know of, then continues training
from its newest checkpoint. What Tune calls its checkpoint is only the name of one of ours.
"""

from __future__ import annotations

import json
import shutil
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.tune import PlacementGroupFactory, Trainable

from sharegrpo_rl.config.metrics import value_of
from sharegrpo_rl.config.search import with_values
from sharegrpo_rl.config.user_code import import_user_files
from sharegrpo_rl.files import LockedError, as_json, replacing, storage_errors, write_atomically
from sharegrpo_rl.runs.checkpoints import STATE_FILE
from sharegrpo_rl.runs.folder import RunFolder, run_params
from sharegrpo_rl.runs.loggers import RunLoggers, TensorBoardLog
from sharegrpo_rl.runs.process import quiet_libraries
from sharegrpo_rl.runs.run_file import RunSpec, reason_to_stop, resolve_run
from sharegrpo_rl.runs.train import TrainableAlgorithm

SLOT = "search_slot"  # as many of this resource as trials may run at once
FOLDER_PATIENCE = 120.0  # seconds that an actor of a killed search may take to let go of the folder


@dataclass(frozen=True)
class SharedSettings:
    """What all trials of a search share.

    tree, paths: the run's tree with its search spaces, and where they are; keep: checkpoints of a trial.
    """

    name: str
    tree: dict[str, Any]
    paths: tuple[tuple[str, ...], ...]
    metric: str
    seed: int
    folder: str
    keep: int
    imports: dict[str, str]
    import_paths: tuple[str, ...]
    build: Callable[[RunSpec, int], TrainableAlgorithm]

    def spec_of(self, config: Mapping[str, Any]) -> RunSpec:
        """The run with a trial's values, which its config holds by their dotted keys."""
        return resolve_run(self.name, with_values(self.tree, {path: config[".".join(path)] for path in self.paths}))


class SearchTrial(Trainable):
    """Tune's view of a trial.

    `config`: `shared`, `trial` (its name), a value for each dotted key, `delivered` (iterations that the search knows
    of), and `adopt` (with pbt: donor and iteration of the state to continue from).
    """

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> PlacementGroupFactory:
        """A slot of the search, and what the trial's process and its env runners need.

        Remote learners are placed by Ray Train once the trial has begun: so the search never begins more trials than
        have room with their learners.
        """
        run = config["shared"].spec_of(config).config
        on_driver = max(
            0 if run["num_learners"] else run["num_gpus_per_learner"],
            0 if run["num_env_runners"] else run["num_gpus_per_env_runner"],
        )
        runners = [_bundle(run["num_gpus_per_env_runner"]) for _ in range(run["num_env_runners"])]
        return PlacementGroupFactory([{**_bundle(on_driver), SLOT: 1}, *runners])

    def setup(self, config: dict[str, Any]) -> None:
        """Only remember what to do: Tune starts a trial again where `step` fails, not where this does."""
        quiet_libraries()
        self.shared: SharedSettings = config["shared"]
        self.trial, self.delivered = config["trial"], config["delivered"]
        self._config = dict(config)
        self._stack = ExitStack()  # the folder's lock, the algorithm, the logs; closed in reverse order
        self._folder: RunFolder | None = None
        self._algorithm: TrainableAlgorithm | None = None
        self._logs: tuple[TensorBoardLog, RunLoggers] | None = None

    def step(self) -> dict[str, Any]:
        """The next iteration that the search does not know of; trained if the folder does not have it yet."""
        with _traceback_kept(Path(self.shared.folder) / "errors" / f"{self.trial}.txt"):
            rows = self.folder.results.rows
            while len(rows) <= self.delivered:
                self._train()
            row = rows[self.delivered]
            self.delivered += 1
            return self._report(row)

    def _report(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """What the search needs of an iteration; no `score` where the metric was not measured."""
        report = {
            "iteration": row["training_iteration"],
            "completions": int(row.get("env_runners", {}).get("num_completions") or 0),
            "done": reason_to_stop(self.folder.results.rows[: self.delivered], self.spec.stop) is not None,
        }
        score = value_of(row, self.shared.metric)
        return report if score is None else {**report, "score": score}

    @property
    def folder(self) -> RunFolder:
        """The trial's folder; claimed, and brought to its newest checkpoint, at the first access."""
        if self._folder is None:
            import_user_files([Path(path) for path in self.shared.import_paths])
            self.spec = self.shared.spec_of(self._config)
            self._folder = _claim(self._stack, Path(self.shared.folder) / "trials", self.trial)
            self._prepare(self._folder, self._config.get("adopt"))
        return self._folder

    def _prepare(self, folder: RunFolder, adopt: Mapping[str, Any] | None) -> None:
        lineage = (folder.read_json("params.json") or {}).get("lineage", [])
        if adopt and all(entry["iteration"] != adopt["iteration"] for entry in lineage):
            self._adopt(folder, adopt["donor"], adopt["iteration"])
            lineage = [*lineage, dict(adopt)]
        folder.write_json("params.json", self._params() | {"trial": self.trial, "lineage": lineage})
        checkpoint = folder.latest_checkpoint()
        folder.rewind(checkpoint)
        self._started = time.monotonic() - (checkpoint.seconds if checkpoint else 0.0)

    def _adopt(self, folder: RunFolder, donor: str, iteration: int) -> None:
        """Take over another trial's state at an iteration that both have reached; this trial's own results stay."""
        source = Path(self.shared.folder) / "trials" / donor / "checkpoints" / f"{iteration:06d}"
        target = folder.path / "checkpoints" / source.name
        with storage_errors(target), replacing(target) as partial:
            shutil.copytree(source, partial)
            state = json.loads((partial / STATE_FILE).read_text()) | {"row": folder.results.rows[iteration - 1]}
            (partial / STATE_FILE).write_text(json.dumps(as_json(state), allow_nan=False))

    def _params(self) -> dict[str, Any]:
        return run_params(self.spec, self.shared.seed, self.shared.imports)

    def _train(self) -> None:
        algorithm, results = self._built(), self.folder.results
        iteration, began = len(results) + 1, time.monotonic()
        result = algorithm.train()
        if result["training_iteration"] != iteration:
            raise RuntimeError(f"the algorithm reports iteration {result['training_iteration']} instead of {iteration}")
        row = {key: value for key, value in result.items() if key != "config"}
        is_last = reason_to_stop([*results.rows, row], self.spec.stop) is not None
        if is_last and value_of(row, "evaluation/accuracy") is None:
            row["evaluation"] = algorithm.evaluate_accuracy().summary()
        row = as_json({**row, "iteration_seconds": time.monotonic() - began, "run_seconds": self._seconds()})
        save, seconds = algorithm.save_to_path, self._seconds()
        self.folder.save_iteration(row, save, seconds, self.spec.options, last=is_last, keep=self.shared.keep)
        self._log(row)

    def _built(self) -> TrainableAlgorithm:
        """The algorithm, where the folder's last iteration left it."""
        if self._algorithm is None:
            commits = self._stack.enter_context(self.folder.commits())
            self._algorithm = self.shared.build(self.spec.committing_to(commits), self.shared.seed)
            self._stack.callback(self._algorithm.stop)
            self._algorithm.check_storage(self.folder.path)
            checkpoint = self.folder.latest_checkpoint()
            if checkpoint is not None:
                self._algorithm.restore_from_path(str(checkpoint.path.absolute()))
        return self._algorithm

    def _log(self, row: dict[str, Any]) -> None:
        iteration = row["training_iteration"]
        if self._logs is None:
            board = TensorBoardLog(self.folder.path, first_step=iteration)
            self._stack.callback(board.close)
            loggers = RunLoggers(self.spec.loggers, lambda text: None)
            loggers.start(self.folder.path, self._params())
            self._stack.callback(loggers.end)
            self._logs = board, loggers
        board, loggers = self._logs
        board.scalars(row, iteration)
        board.flush()
        loggers.row(row)

    def _seconds(self) -> float:
        return time.monotonic() - self._started

    # Tune's hooks

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Name a checkpoint of the folder, made now where the last iteration has none."""
        rows = self.folder.results.rows
        if rows and not (self.folder.path / "checkpoints" / f"{len(rows):06d}").exists():
            self.folder.save_checkpoint(self._built().save_to_path, rows[-1], self._seconds())
        (Path(checkpoint_dir) / "checkpoint.json").write_text(json.dumps({"trial": self.trial, "iteration": len(rows)}))

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to do: the folder is looked into at the first `step`, and may be further than what Tune knows."""

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Become another trial, or the same with other values, without a new process."""
        self.cleanup()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        """Stop the algorithm, end the logs, and let go of the folder."""
        self._stack.close()
        self._algorithm = self._logs = self._folder = None


def _claim(stack: ExitStack, storage: Path, name: str) -> RunFolder:
    """The trial's folder, locked until the stack is closed; an actor of a killed search may hold it for a moment."""
    deadline = time.monotonic() + FOLDER_PATIENCE
    while True:
        try:
            return stack.enter_context(RunFolder.claim(storage, name))
        except LockedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


@contextmanager
def _traceback_kept(path: Path) -> Iterator[None]:
    """Leaves the traceback of an exception in a file, which Tune would only log."""
    try:
        yield
    except Exception as error:
        write_atomically(path, "".join(traceback.format_exception(error)))
        raise


def _bundle(gpus: float) -> dict[str, float]:
    return {"CPU": 1} | ({"GPU": gpus} if gpus else {})
