"""`train`: a plain loop over `algo.train()` with checkpoints, curves, evaluation, export and exact resumption."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from rich.console import Console

from sharegrpo_rl.config.metrics import best_iteration
from sharegrpo_rl.config.stop import reason_to_stop
from sharegrpo_rl.data.types import Group, PromptPack, SeedQuestion
from sharegrpo_rl.files import PREDICTIONS, as_json, storage_errors
from sharegrpo_rl.generation.generator import check_engine
from sharegrpo_rl.runs.display import Display, build_summary, clock, closing_table, peak_memory, say, signal_line
from sharegrpo_rl.runs.folder import RunFolder, changed_versions, choose_name, decide, run_params
from sharegrpo_rl.runs.journal import RolloutLog, group_entry
from sharegrpo_rl.runs.loggers import RunLoggers, TensorBoardLog
from sharegrpo_rl.runs.run_file import RunSpec, check_data

# ---- Ctrl-C and SIGTERM during training: finish the iteration and save, instead of losing it.


class Interruption:
    """While entered, a first signal is only noted (`code` is set); a second one raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.code: int | None = None  # the exit code to end with: 128 + the signal's number
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.code is not None:
            raise KeyboardInterrupt
        self.code = 128 + number
        print("\nfinishing this iteration, then saving; once more to stop at once", file=sys.stderr, flush=True)


# ---- Keep the libraries' own chatter off the screen; their errors still come through.

# Levels on the very loggers that speak: `ray.init` and RLlib reset the level of their parents.
LEVELS = {
    "ray._private.worker": logging.WARNING,  # "Started a local Ray instance"
    "ray._common.deprecation": logging.ERROR,  # RLlib about its own RLModuleConfig
    "ray.rllib.algorithms.algorithm_config": logging.ERROR,  # about the new API stack, which is meant
    "ray.tune.trainable.trainable": logging.WARNING,  # how long the set-up took
    "ray.tune.utils.util": logging.ERROR,  # about gputil
    "transformers": logging.ERROR,
    "datasets": logging.ERROR,
}


def quiet_libraries() -> None:
    """Call before the libraries are imported: their progress bars read the environment then."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name, level in LEVELS.items():
        logging.getLogger(name).setLevel(level)
    modules = r"(ray|transformers|torch|gymnasium|datasets|pydantic|tensorboard)\b.*"
    for category in (DeprecationWarning, FutureWarning, PendingDeprecationWarning, UserWarning):
        warnings.filterwarnings("ignore", category=category, module=modules)


PICTURED_GROUPS = 2  # a time
KEPT_GROUPS = 8  # a time, as text
PICTURED_TIMES = 10  # a run, spread evenly


class TrainableAlgorithm(Protocol):
    """What the loop needs of an algorithm."""

    def train(self) -> dict[str, Any]: ...

    def evaluate_accuracy(self, blind: bool = False) -> Any: ...

    def warm_start_report(self) -> dict[str, Any] | None: ...

    def save_to_path(self, path: str) -> Any: ...

    def restore_from_path(self, path: str) -> Any: ...

    def export(self, path: str) -> Any: ...

    def sampled_groups(self) -> list[Group]: ...

    def sampled_packs(self) -> list[PromptPack]: ...

    def plain_packs(self) -> list[PromptPack]: ...

    def question(self, index: int) -> SeedQuestion: ...

    def parameter_table(self) -> Sequence[tuple[str, int, int]]: ...

    def stop(self) -> None: ...


def build_algorithm(spec: RunSpec, seed: int) -> TrainableAlgorithm:
    """The algorithm of a run, its data read and checked, its model built and warm."""
    quiet_libraries()
    from sharegrpo_rl.algorithms.registry import build_config

    config = build_config(spec.run, spec.env, spec.config, seed)
    config.log_level = "ERROR"  # RLlib sets its logger to this
    return config.build_algo()


@dataclass(frozen=True)
class TrainOptions:
    """How to run: everything that is not part of the run's own settings."""

    storage: Path = Path("runs")
    name: str | None = None
    resume: str = "auto"
    seed: int = 0
    imports: dict[str, str] = field(default_factory=dict)
    build: Callable[[RunSpec, int], TrainableAlgorithm] = build_algorithm


def train(spec: RunSpec, options: TrainOptions, console: Console) -> int:
    """Train one run to its end in `storage/name`. Returns the exit code: 0, or 130 / 143 where a signal stopped it."""
    check_engine(spec.config.get("engine", "hf"))
    check_data(spec.config["env_config"])
    loggers = RunLoggers(spec.loggers, lambda text: say(console, text))
    params = run_params(spec, options.seed, options.imports)
    name = options.name or choose_name(options.storage, spec.name, params, options.resume)
    with RunFolder.claim(options.storage, name) as folder:
        state = decide(folder, params, options.resume)
        if state == "finished":
            say(
                console,
                f"{folder.path}: this run is finished, its figures are in summary.json; a new one needs another --name",
            )
            return 0
        if state == "new":
            folder.clear()
            folder.write_json("params.json", params)
        elif changed := changed_versions(folder, params):
            say(
                console,
                f"other versions than when this run began ({', '.join(changed)}): numbers may differ from here on",
            )
        return _Training(spec, options, folder, console, loggers).run()


class _Training:
    """One process's work on a claimed folder."""

    def __init__(
        self, spec: RunSpec, options: TrainOptions, folder: RunFolder, console: Console, loggers: RunLoggers
    ) -> None:
        self.spec, self.options, self.folder, self.console = spec, options, folder, console
        self.loggers = loggers
        self.started = time.monotonic()
        self.rollouts = RolloutLog(folder.path)

    def seconds(self) -> float:
        """Wall seconds of the run, those of earlier processes included."""
        return time.monotonic() - self.started

    def run(self) -> int:
        """Train to the end, or until a signal; the exit code."""
        try:
            return self._build_and_train()
        except KeyboardInterrupt:
            if self.folder.has_progress:
                say(self.console, f"stopped; the last checkpoint is kept. To go on: {self._resume_command()}")
            else:
                say(
                    self.console,
                    "stopped before the first iteration; nothing was kept. Start again with the same command",
                )
            return 130

    def _build_and_train(self) -> int:
        checkpoint = self.folder.latest_checkpoint()
        say(
            self.console,
            f"{self.spec.run} on {self.spec.env}, seed {self.options.seed}, in {self.folder.path}: "
            "building data, model and warm start",
        )
        algorithm = self.options.build(self.spec, self.options.seed)
        self.build_seconds = self.seconds()
        failed = True
        try:
            if checkpoint is not None:
                algorithm.restore_from_path(str(checkpoint.path.absolute()))
                self.started -= checkpoint.seconds
            with storage_errors(self.folder.path):
                self.folder.results.cut_back(
                    checkpoint.iteration if checkpoint else 0, checkpoint.row if checkpoint else None
                )
            if checkpoint is not None:
                say(self.console, f"resumed {self.folder.path} after iteration {checkpoint.iteration}")
            self.loggers.start(self.folder.path, run_params(self.spec, self.options.seed, self.options.imports))
            code = self._train(algorithm)
            failed = code != 0
            return code
        finally:
            self.loggers.end(failed=failed)
            algorithm.stop()

    def _train(self, algorithm: TrainableAlgorithm) -> int:
        done = len(self.folder.results)
        log = TensorBoardLog(self.folder.path, first_step=done)
        try:
            if done:
                log.scalars(self.folder.results.rows[-1], done)  # a kill may have come before its curves
            before = self.folder.read_json("before.json") if done else None  # a run that begins again measures again
            if before is None:
                before = self._before(algorithm)
            if not done:
                log.scalars({"evaluation": before["evaluation"]}, 0)
            with Interruption() as interruption:
                self._loop(algorithm, log, interruption)
            if interruption.code and not self._complete():
                say(
                    self.console,
                    f"stopped after iteration {len(self.folder.results)}, saved. To go on: {self._resume_command()}",
                )
                return interruption.code
            self._finish(algorithm, log, before)
        finally:
            log.close()
        return 0

    def _before(self, algorithm: TrainableAlgorithm) -> dict[str, Any]:
        """Figures from before the first iteration; kept on disk, because a resumed run cannot measure them again."""
        for part, total, trainable in algorithm.parameter_table():
            say(self.console, f"  {part:<16} {total:>14,} parameters, {trainable:>14,} trainable")
        warm_start = algorithm.warm_start_report()
        if warm_start:
            figures = ", ".join(f"{k} {_short(v)}" for k, v in warm_start.items() if not isinstance(v, dict | list))
            say(self.console, f"warm start: {figures}")
        report = algorithm.evaluate_accuracy().summary()
        say(
            self.console,
            f"before: greedy accuracy {report['accuracy']:.3f}, format rate {report['format_rate']:.3f} "
            f"on {report['questions']} test questions ({clock(self.seconds())} so far)",
        )
        taken = (warm_start or {}).get("seconds", 0.0)
        cached = self.build_seconds < taken  # then the warm start was made by an earlier run
        before = as_json(
            {"evaluation": report, "warm_start": warm_start, "warm_start_seconds": 0.0 if cached else taken}
        )
        self.folder.write_json("before.json", before)
        return before

    def _loop(self, algorithm: TrainableAlgorithm, log: TensorBoardLog, interruption: Interruption) -> None:
        done, iterations = len(self.folder.results), self.spec.iterations
        display = Display(self.console, iterations, done)
        self.rollouts.cut_back(done)
        pictured = max(1, iterations // PICTURED_TIMES)
        try:
            for iteration in range(done + 1, iterations + 1):
                if self._complete():
                    break
                began = time.monotonic()
                row = self._row(algorithm.train(), iteration, began)
                shown = iteration % pictured == 0 or iteration == 1
                if shown:
                    self._keep_groups(algorithm, iteration)
                self._save(algorithm, row, last=self._complete(row) or interruption.code is not None)
                log.scalars(row, iteration)
                if shown:
                    log.groups(algorithm.sampled_groups()[:PICTURED_GROUPS], algorithm.question, iteration)
                    log.advantages(algorithm.plain_packs(), algorithm.sampled_packs(), iteration)
                log.flush()
                self.loggers.row(row)
                display.update(row)
                if interruption.code is not None:
                    break
        finally:
            display.stop()

    def _keep_groups(self, algorithm: TrainableAlgorithm, iteration: int) -> None:
        """Before the checkpoint: a kill between the two leaves a line too many, which a resumed run takes back."""
        groups, packs = algorithm.sampled_groups()[:KEPT_GROUPS], algorithm.sampled_packs()
        if groups:
            entries = [group_entry(g, algorithm.question(g.question_index), packs) for g in groups]
            self.rollouts.append(iteration, entries)

    def _complete(self, row: Mapping[str, Any] | None = None) -> bool:
        """Is there a reason to stop; `row` is one that is not written yet."""
        return reason_to_stop([*self.folder.results.rows, *([row] if row else [])], self.spec.stop) is not None

    def _row(self, result: dict[str, Any], iteration: int, began: float) -> dict[str, Any]:
        if result["training_iteration"] != iteration:
            raise RuntimeError(
                f"the algorithm reports iteration {result['training_iteration']} where {iteration} was due"
            )
        kept = {key: value for key, value in result.items() if key != "config"}  # params.json has it, once
        clocks = {"iteration_seconds": time.monotonic() - began, "run_seconds": self.seconds()}
        return as_json({**kept, **clocks, **peak_memory()})

    def _save(self, algorithm: TrainableAlgorithm, row: dict[str, Any], last: bool) -> None:
        config, folder = self.spec.config, self.folder
        interval = config["checkpoint_interval"]
        due = last or (interval > 0 and row["training_iteration"] % interval == 0)
        if due:
            folder.save_checkpoint(algorithm.save_to_path, row, self.seconds())
        with storage_errors(folder.results.path):
            folder.results.append(row)
        if due:
            with storage_errors(folder.path):
                folder.prune_checkpoints(config["checkpoints_to_keep"], self._best())

    def _best(self) -> int | None:
        saved = [int(path.name) for path in self.folder.checkpoint_paths()]
        return best_iteration(self.folder.results.rows, saved, self.spec.options)

    def _finish(self, algorithm: TrainableAlgorithm, log: TensorBoardLog, before: dict[str, Any]) -> None:
        folder = self.folder
        evaluated = algorithm.evaluate_accuracy()
        after = evaluated.summary()
        has_images = any(record.image_keys for record in evaluated.records)  # else there is nothing to swap
        blind = algorithm.evaluate_accuracy(blind=True).summary() if has_images else {**after, "blind": True}
        log.scalars({"evaluation": after, "blind_evaluation": blind}, self.spec.iterations)
        folder.replace_folder("export", algorithm.export)
        folder.write_rows(PREDICTIONS, evaluated.rows())
        summary = build_summary(
            self.spec, self.options.seed, folder.results, before, as_json(after), as_json(blind), self.seconds()
        )
        best = self._best()
        summary |= {
            "checkpoint": str(folder.checkpoint_paths()[-1].relative_to(folder.path)),
            "stopped_by": reason_to_stop(folder.results.rows, self.spec.stop),
            "best_checkpoint": None if best is None else f"checkpoints/{best:06d}",
            "export": "export",
        }
        folder.write_json("summary.json", summary)
        self.console.print(closing_table(summary))
        say(self.console, signal_line(summary))
        say(self.console, f"{clock(summary['seconds'])} in all; everything is in {folder.path}. Next:")
        say(self.console, f"  sharegrpo-rl evaluate {folder.path / 'export'} --blind")
        say(self.console, f"  tensorboard --logdir {self.options.storage}")

    def _resume_command(self) -> str:
        return f"the same command with --name {self.folder.path.name} --resume auto"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
