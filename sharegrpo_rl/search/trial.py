"""One trial of a search, as Ray Tune runs it: a run's folder that fills up iteration by iteration.

Everything that a trial must remember lies in its folder. A trial that is started again, after a failure, a pause or a
kill of the whole search, first reports the stored iterations that the search has not heard of, then goes on training
from its newest checkpoint. What Tune calls its checkpoint is only the name of one of ours.
"""

from __future__ import annotations

import json
import shutil
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray.tune import PlacementGroupFactory, Trainable

from sharegrpo_rl.config.metrics import best_iteration, value_of
from sharegrpo_rl.config.search import with_values
from sharegrpo_rl.config.stop import reason_to_stop
from sharegrpo_rl.config.user_code import import_user_files
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.files import as_json, storage_errors, write_atomically
from sharegrpo_rl.runs.folder import STATE_FILE, RunFolder, run_params
from sharegrpo_rl.runs.loggers import RunLoggers, TensorBoardLog
from sharegrpo_rl.runs.run_file import RunSpec, resolve_run
from sharegrpo_rl.runs.train import TrainableAlgorithm, quiet_libraries

# ---- What a trial of a search needs of the machine, and how many trials it holds at once.
#
# Tune reserves a trial's own process and its env runners. Learners in other processes are placed by Ray Train, which asks
# for them when the trial has begun: so the search never begins more trials than have room with their learners.


def bundles(config: Mapping[str, Any]) -> list[dict[str, float]]:
    """What Tune reserves: the trial's process, then each remote env runner."""
    runners, learners = config["num_env_runners"], config["num_learners"]
    here = max(
        config["num_gpus_per_learner"] if learners == 0 else 0,
        config["num_gpus_per_env_runner"] if runners == 0 else 0,
    )
    each = _with_gpus(config["num_gpus_per_env_runner"])
    return [_with_gpus(here), *(dict(each) for _ in range(runners))]


def _with_gpus(gpus: float) -> dict[str, float]:
    return {"CPU": 1} | ({"GPU": gpus} if gpus else {})


def needs(configs: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Cores and GPUs of the largest of some trials, learners included."""
    from sharegrpo_rl.learners.placement import demand

    asked = [demand(SimpleNamespace(**config)) for config in configs]
    return {
        "CPU": 1 + max(a.get("CPU", 0) for a in asked),
        "GPU": max(a.get("GPU", 0) for a in asked),
    }


def trials_at_once(needed: Mapping[str, float]) -> int:
    """How many trials this machine holds; at least one. UserError where it has not the GPUs of one."""
    from sharegrpo_rl.learners.placement import available_cores

    fitting = available_cores() // needed["CPU"]
    if needed["GPU"]:
        import torch

        there = torch.cuda.device_count()
        if there < needed["GPU"]:
            raise UserError(
                f"num_gpus_per_learner, num_gpus_per_env_runner: a trial asks for {needed['GPU']:g} GPUs, and this machine "
                f"has {there}"
            )
        fitting = min(fitting, there // needed["GPU"])
    return max(1, int(fitting))


FOLDER_PATIENCE = 120.0  # seconds that an actor of a killed search may take to let go of the folder
SLOT = "search_slot"  # as many of this resource as trials may run at once


@dataclass(frozen=True)
class TrialPlan:
    """What all trials of a search share. `tree`: the run's, with its spaces; `paths`: where they stand; `keep`: checkpoints."""

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

    `config`: the plan, `trial` (its name), a value for each dotted key, `delivered` (iterations that the search knows
    of), and `adopt` (with pbt: donor and iteration of the state to go on from).
    """

    @classmethod
    def default_resource_request(cls, config: dict[str, Any]) -> PlacementGroupFactory:
        """A slot of the search, and what the trial's process and its env runners need."""
        own, *runners = bundles(config["plan"].spec_of(config).config)
        return PlacementGroupFactory([{**own, SLOT: 1}, *runners])

    def setup(self, config: dict[str, Any]) -> None:
        """Only remember what to do: Tune starts a trial again where `step` fails, not where this does."""
        quiet_libraries()
        self.plan: TrialPlan = config["plan"]
        self.trial, self.delivered = config["trial"], config["delivered"]
        self._config = dict(config)
        self._stack = ExitStack()
        self._folder: RunFolder | None = None
        self._algorithm: TrainableAlgorithm | None = None
        self._log: TensorBoardLog | None = None
        self._loggers: RunLoggers | None = None

    @property
    def folder(self) -> RunFolder:
        """The trial's folder; claimed and brought to its newest checkpoint when it is first asked for."""
        if self._folder is None:
            import_user_files([Path(path) for path in self.plan.import_paths])
            self.spec = self.plan.spec_of(self._config)
            self._folder = _claim(self._stack, Path(self.plan.folder) / "trials", self.trial)
            self._prepare(self._folder, self._config.get("adopt"))
        return self._folder

    def _prepare(self, folder: RunFolder, adopt: Mapping[str, Any] | None) -> None:
        lineage = (folder.read_json("params.json") or {}).get("lineage", [])
        if adopt and all(entry["iteration"] != adopt["iteration"] for entry in lineage):
            self._adopt(folder, adopt)
            lineage = [*lineage, dict(adopt)]
        params = run_params(self.spec, self.plan.seed, self.plan.imports)
        folder.write_json("params.json", params | {"trial": self.trial, "lineage": lineage})
        checkpoint = folder.latest_checkpoint()
        with storage_errors(folder.path):
            folder.results.cut_back(checkpoint.iteration if checkpoint else 0, checkpoint.row if checkpoint else None)
        self.started = time.monotonic() - (checkpoint.seconds if checkpoint else 0.0)

    def _adopt(self, folder: RunFolder, adopt: Mapping[str, Any]) -> None:
        """Take over another trial's state at an iteration that both have reached; the own results stay."""
        name = f"{adopt['iteration']:06d}"
        donor = Path(self.plan.folder) / "trials" / adopt["donor"] / "checkpoints" / name
        target, partial = folder.path / "checkpoints" / name, folder.path / "checkpoints" / ".adopting"
        row = folder.results.rows[adopt["iteration"] - 1]
        with storage_errors(target):
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(donor, partial)
            state = json.loads((partial / STATE_FILE).read_text())
            (partial / STATE_FILE).write_text(json.dumps(as_json({**state, "row": row}), allow_nan=False))
            if target.exists():
                shutil.rmtree(target)
            partial.rename(target)

    # ---- iterations

    def step(self) -> dict[str, Any]:
        """The next iteration that the search has not heard of; trained, where the folder does not have it yet."""
        with _told(Path(self.plan.folder) / "errors" / f"{self.trial}.txt"):
            rows = self.folder.results
            while len(rows) <= self.delivered:
                self._train()
            row = rows.rows[self.delivered]
            self.delivered += 1
            return self._report(row)

    def _report(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """What the search needs of an iteration; no `score` where the metric was not measured."""
        completions = int(row.get("env_runners", {}).get("num_completions") or 0)
        done = reason_to_stop(self.folder.results.rows[: self.delivered], self.spec.stop) is not None
        report = {"iteration": row["training_iteration"], "completions": completions, "done": done}
        score = value_of(row, self.plan.metric)
        return report if score is None else {**report, "score": score}

    def _train(self) -> None:
        algorithm = self._built()
        iteration, began = len(self.folder.results) + 1, time.monotonic()
        result = algorithm.train()
        if result["training_iteration"] != iteration:
            raise RuntimeError(f"the algorithm reports iteration {result['training_iteration']}, {iteration} was due")
        row = {key: value for key, value in result.items() if key != "config"}
        last = reason_to_stop([*self.folder.results.rows, row], self.spec.stop) is not None
        if last and value_of(row, "evaluation/accuracy") is None:
            row["evaluation"] = algorithm.evaluate_accuracy().summary()
        seconds = time.monotonic() - self.started
        row = as_json({**row, "iteration_seconds": time.monotonic() - began, "run_seconds": seconds})
        self._save(algorithm, row, last)
        if self._log is None:
            self._log = TensorBoardLog(self.folder.path, first_step=iteration)
            self._loggers = RunLoggers(self.spec.loggers, lambda text: None)
            self._loggers.start(self.folder.path, run_params(self.spec, self.plan.seed, self.plan.imports))
        self._log.scalars(row, iteration)
        self._log.flush()
        if self._loggers is not None:
            self._loggers.row(row)

    def _built(self) -> TrainableAlgorithm:
        """The algorithm, where the folder's last iteration left it."""
        if self._algorithm is None:
            self._algorithm = self.plan.build(self.spec, self.plan.seed)
            checkpoint = self.folder.latest_checkpoint()
            if checkpoint is not None:
                self._algorithm.restore_from_path(str(checkpoint.path.absolute()))
        return self._algorithm

    def _save(self, algorithm: TrainableAlgorithm, row: dict[str, Any], last: bool) -> None:
        interval = self.spec.config["checkpoint_interval"]
        due = last or (interval > 0 and row["training_iteration"] % interval == 0)
        if due:
            self.folder.save_checkpoint(algorithm.save_to_path, row, time.monotonic() - self.started)
        with storage_errors(self.folder.results.path):
            self.folder.results.append(row)
        if due:
            saved = [int(path.name) for path in self.folder.checkpoint_paths()]
            best = best_iteration(self.folder.results.rows, saved, self.spec.options)
            with storage_errors(self.folder.path):
                self.folder.prune_checkpoints(self.plan.keep, best)

    # ---- Tune's hooks

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Name a checkpoint of the folder, made now where the last iteration has none."""
        rows = self.folder.results.rows
        if rows and not (self.folder.path / "checkpoints" / f"{len(rows):06d}").exists():
            self.folder.save_checkpoint(self._built().save_to_path, rows[-1], time.monotonic() - self.started)
        (Path(checkpoint_dir) / "checkpoint.json").write_text(json.dumps({"trial": self.trial, "iteration": len(rows)}))

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to do: `setup` has looked into the folder, which may be further than what Tune knows."""

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Become another trial, or the same with other values, without a new process."""
        self.cleanup()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        """Stop the algorithm and let go of the folder."""
        if self._algorithm is not None:
            self._algorithm.stop()
            self._algorithm = None
        if self._loggers is not None:
            self._loggers.end()
            self._loggers = None
        if self._log is not None:
            self._log.close()
            self._log = None
        self._stack.close()
        self._folder = None


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Leaves the traceback of an exception in a file, which Tune would only log."""
    try:
        yield
    except Exception as error:
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, "".join(traceback.format_exception(error)))
        raise


def _claim(stack: ExitStack, storage: Path, name: str) -> RunFolder:
    """The trial's folder; an actor of a killed search needs a moment to go, and holds it until then."""
    deadline = time.monotonic() + FOLDER_PATIENCE
    while True:
        try:
            return stack.enter_context(RunFolder.claim(storage, name))
        except UserError as error:
            if "another process" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.2)
