"""`train`: a plain loop over `algo.train()` with checkpoints, curves, evaluation, export and exact resumption."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from sharegrpo_rl.data.types import Group, PromptPack, SeedQuestion
from sharegrpo_rl.errors import NotFiniteError, UserError
from sharegrpo_rl.files import PREDICTIONS, as_json, write_atomically
from sharegrpo_rl.generation.generator import check_engine
from sharegrpo_rl.runs.display import Display, build_summary, closing_table, say, signal_line
from sharegrpo_rl.runs.examples import check_data
from sharegrpo_rl.runs.folder import RunFolder, changed_versions, choose_name, decide, refuse_other_data, run_params
from sharegrpo_rl.runs.journal import RolloutLog, group_entry
from sharegrpo_rl.runs.loggers import RunLoggers, TensorBoardLog
from sharegrpo_rl.runs.model_folder import CARD, model_card
from sharegrpo_rl.runs.process import Interruption, peak_memory, quiet_libraries
from sharegrpo_rl.runs.run_file import RunSpec, TrainOptions, reason_to_stop
from sharegrpo_rl.statistics.formatting import clock, short

GROUPS_KEPT = 8  # as text, of an iteration whose groups are kept
GROUPS_DRAWN = 2  # as pictures
TIMES_KEPT = 10  # a run, spread evenly


class TrainableAlgorithm(Protocol):
    """What the loop needs of an algorithm."""

    def train(self) -> dict[str, Any]: ...

    def evaluate_accuracy(self, blind: bool = False) -> Any: ...

    def warm_start_report(self) -> dict[str, Any] | None: ...

    def save_to_path(self, path: str) -> Any: ...

    def check_storage(self, folder: Path) -> None: ...

    def restore_from_path(self, path: str) -> Any: ...

    def export(self, path: str) -> Any: ...

    def sampled_groups(self) -> list[Group]: ...

    def sampled_packs(self) -> list[PromptPack]: ...

    def plain_packs(self) -> list[PromptPack]: ...

    def question(self, index: int) -> SeedQuestion: ...

    def parameter_table(self) -> Sequence[tuple[str, int, int]]: ...

    def stop(self) -> None: ...


BuildAlgorithm = Callable[[RunSpec, int], TrainableAlgorithm]
CheckRun = Callable[[RunSpec, int], dict[str, str]]


def build_algorithm(spec: RunSpec, seed: int) -> TrainableAlgorithm:
    """The algorithm of a run, its data read and checked, its model built and warm."""
    quiet_libraries()
    from sharegrpo_rl.algorithms.registry import build_config

    config = build_config(spec.run, spec.env, spec.config, seed)
    config.log_level = "ERROR"  # RLlib sets its logger to this
    algorithm: TrainableAlgorithm = config.build_algo()
    return algorithm


def check_run(spec: RunSpec, seed: int) -> dict[str, str]:
    """Read and check a run's data; a digest of each split that is read from files."""
    quiet_libraries()
    from sharegrpo_rl.algorithms.registry import build_config
    from sharegrpo_rl.algorithms.run_data import check_run_data

    return check_run_data(build_config(spec.run, spec.env, spec.config, seed))


def train(
    spec: RunSpec,
    options: TrainOptions,
    console: Console,
    imports: Mapping[str, str] | None = None,
    build: BuildAlgorithm = build_algorithm,
    check: CheckRun = check_run,
) -> int:
    """Train one run to its end in its folder. Returns the exit code: 0, or 130 / 143 where a signal stopped it.

    imports: digests of the user's files, which belong to the run's settings.
    """
    check_engine(spec.config.get("engine", "hf"))
    check_data(spec.config["env_config"])
    loggers = RunLoggers(spec.loggers, partial(say, console))
    params = run_params(spec, options.seed, imports or {})
    name = run_name(spec, options, params)
    with RunFolder.claim(options.storage_path, name) as folder:
        state = decide(folder, params, options.resume)
        if state == "finished":
            say(
                console,
                f"{folder.path}: this run is finished, its figures are in summary.json; "
                "give another --name to begin a new one",
            )
            return 0
        what = f"{spec.run} on {spec.env}, seed {options.seed}, in {folder.path}"
        say(console, f"{what}: building data, model and warm start")
        data = check(spec, options.seed)
        if state == "new":
            folder.clear()
            folder.write_json("params.json", params | {"data": data})
        else:
            refuse_other_data(folder, data)
            if changed := changed_versions(folder, params):
                say(
                    console,
                    f"versions changed since this run began ({', '.join(changed)}): numbers may differ from here",
                )
        return _Training(spec, options, folder, console, loggers, params).run(build)


def run_name(spec: RunSpec, options: TrainOptions, params: Mapping[str, Any]) -> str:
    """The name of the run's folder; `params` are those of `run_params`."""
    return options.name or choose_name(options.storage_path, spec.name, params, options.resume)


def train_iteration(algorithm: TrainableAlgorithm, iteration: int) -> dict[str, Any]:
    """Train one iteration: its row for result.json with `iteration_seconds`, without the config (params.json has it)."""
    began = time.monotonic()
    result = algorithm.train()
    if result["training_iteration"] != iteration:
        raise RuntimeError(f"the algorithm reports iteration {result['training_iteration']} where {iteration} was due")
    row = {key: value for key, value in result.items() if key != "config"}
    return row | {"iteration_seconds": time.monotonic() - began}


class _Training:
    """One process's work on a claimed folder."""

    def __init__(
        self,
        spec: RunSpec,
        options: TrainOptions,
        folder: RunFolder,
        console: Console,
        loggers: RunLoggers,
        params: Mapping[str, Any],
    ) -> None:
        self.spec, self.options, self.folder, self.console = spec, options, folder, console
        self.loggers, self.params = loggers, params
        self.say = partial(say, console)
        self.rollouts = RolloutLog(folder.path)
        self.started = time.monotonic()
        self.resume_command = f"the same command with --name {shlex.quote(folder.path.name)} --resume auto"

    def seconds(self) -> float:
        """Wall seconds of the run, those of earlier processes included."""
        return time.monotonic() - self.started

    def run(self, build: BuildAlgorithm) -> int:
        """Train to the end, or until a signal; the exit code."""
        try:
            return self._build_and_train(build)
        except KeyboardInterrupt:
            if self.folder.has_progress:
                self.say(f"stopped; the last checkpoint is kept. To resume: {self.resume_command}")
            else:
                self.say("stopped before the first iteration; nothing was kept. Start again with the same command")
            return 130

    def _build_and_train(self, build: BuildAlgorithm) -> int:
        folder, seed = self.folder, self.options.seed
        checkpoint = folder.latest_checkpoint(self.say)
        if checkpoint is not None:  # what is damaged is found before the model is built
            folder.read_json("before.json")
            self.rollouts.read()
        with folder.commits() as commits:
            algorithm = build(self.spec.committing_to(commits), seed)
            self.build_seconds = self.seconds()
            failed = True
            try:
                algorithm.check_storage(folder.path)
                if checkpoint is not None:
                    algorithm.restore_from_path(str(checkpoint.path.absolute()))
                    self.started -= checkpoint.seconds
                folder.rewind(checkpoint)
                if checkpoint is not None:
                    self.say(f"resumed {folder.path} after iteration {checkpoint.iteration}")
                self.loggers.start(folder.path, self.params)
                code = self._train(algorithm)
                failed = code != 0
                return code
            finally:
                self.loggers.end(failed=failed)
                algorithm.stop()

    def _train(self, algorithm: TrainableAlgorithm) -> int:
        done = len(self.folder.results)
        curves = TensorBoardLog(self.folder.path, done, self.say)
        try:
            if done:
                curves.scalars(self.folder.results.rows[-1], done)  # a kill may have come before its curves
            before = self.folder.read_json("before.json") if done else None  # a run that begins again measures again
            if before is None:
                before = self._measure_before(algorithm)
            if not done:
                curves.scalars({"evaluation": before["evaluation"]}, 0)
            with Interruption() as interruption:
                self._loop(algorithm, curves, interruption)
            if interruption.code and not self._complete():
                iteration = len(self.folder.results)
                self.say(f"stopped after iteration {iteration}, saved. To resume: {self.resume_command}")
                return interruption.code
            self._finish(algorithm, curves, before)
        finally:
            curves.close()
        return 0

    def _measure_before(self, algorithm: TrainableAlgorithm) -> dict[str, Any]:
        """Figures from before the first iteration; kept on disk, because a resumed run cannot measure them again."""
        for part, total, trainable in algorithm.parameter_table():
            self.say(f"  {part:<16} {total:>14,} parameters, {trainable:>14,} trainable")
        warm_start = algorithm.warm_start_report()
        if warm_start:
            figures = {k: v for k, v in warm_start.items() if not isinstance(v, dict | list)}
            self.say(f"warm start: {', '.join(f'{k} {short(v)}' for k, v in figures.items())}")
        report = algorithm.evaluate_accuracy().summary()
        self.say(
            f"before: greedy accuracy {report['accuracy']:.3f}, format rate {report['format_rate']:.3f} "
            f"on {report['questions']} test questions ({clock(self.seconds())} so far)"
        )
        warm_start_seconds = (warm_start or {}).get("seconds", 0.0)
        if self.build_seconds < warm_start_seconds:  # an earlier run made it: it came from the cache
            warm_start_seconds = 0.0
        before: dict[str, Any] = as_json(
            {"evaluation": report, "warm_start": warm_start, "warm_start_seconds": warm_start_seconds}
        )
        self.folder.write_json("before.json", before)
        return before

    def _loop(self, algorithm: TrainableAlgorithm, curves: TensorBoardLog, interruption: Interruption) -> None:
        done, iterations = len(self.folder.results), self.spec.iterations
        display = Display(self.console, iterations, done)
        self.rollouts.cut_back(done)
        interval = max(1, iterations // TIMES_KEPT)
        last = self._complete()
        try:
            for iteration in range(done + 1, iterations + 1):
                if last:
                    break
                with self._naming_checkpoint(before=iteration - 1):
                    row = train_iteration(algorithm, iteration)
                row = as_json({**row, "run_seconds": self.seconds(), **peak_memory()})
                keep_groups = iteration % interval == 0 or iteration == 1
                self._keep_groups(algorithm, iteration, keep_groups)
                last = self._complete(row) or interruption.code is not None
                with self._naming_checkpoint(before=iteration):
                    self.folder.save_iteration(
                        row, algorithm.save_to_path, self.seconds(), self.spec.options, last=last
                    )
                curves.scalars(row, iteration)
                if keep_groups:
                    curves.groups(algorithm.sampled_groups()[:GROUPS_DRAWN], algorithm.question, iteration)
                    curves.advantages(algorithm.plain_packs(), algorithm.sampled_packs(), iteration)
                curves.flush()
                self.loggers.row(row)
                display.update(row)
        finally:
            display.stop()

    @contextmanager
    def _naming_checkpoint(self, before: int) -> Iterator[None]:
        """Weights that overflowed end the run in one line, with the newest checkpoint from before iteration `before`: one
        that iterations were sampled from since."""
        try:
            yield
        except NotFiniteError as error:
            good = [path for path in self.folder.checkpoint_paths() if int(path.name) < before]
            kept = f"the last good checkpoint is {good[-1]}" if good else "no good checkpoint was kept"
            iteration = len(self.folder.results) + 1
            raise UserError(f"{self.folder.path}, iteration {iteration}: {error}; {kept}") from error

    def _keep_groups(self, algorithm: TrainableAlgorithm, iteration: int, everything: bool) -> None:
        """Before the checkpoint: a kill between the two leaves a line too many, which a resumed run takes back.

        In an iteration whose groups are not kept, those are on which the grader failed.
        """
        sampled, packs = algorithm.sampled_groups(), algorithm.sampled_packs()
        failed = [g for g in sampled if g.errors]
        others = [g for g in sampled if not g.errors] if everything else []
        groups = [*failed, *others][:GROUPS_KEPT]
        if groups:
            entries = [group_entry(g, algorithm.question(g.question_index), packs) for g in groups]
            self.rollouts.append(iteration, entries)

    def _complete(self, row: Mapping[str, Any] | None = None) -> bool:
        """Is there a reason to stop; `row` is one that is not written yet."""
        return reason_to_stop([*self.folder.results.rows, *([row] if row else [])], self.spec.stop) is not None

    def _finish(self, algorithm: TrainableAlgorithm, curves: TensorBoardLog, before: dict[str, Any]) -> None:
        folder = self.folder
        with self._naming_checkpoint(before=len(folder.results)):
            evaluated = algorithm.evaluate_accuracy()
        after = evaluated.summary()
        has_images = any(record.image_keys for record in evaluated.records)  # else there is nothing to swap
        blind = algorithm.evaluate_accuracy(blind=True).summary() if has_images else {**after, "blind": True}
        curves.scalars({"evaluation": after, "blind_evaluation": blind}, self.spec.iterations)
        folder.replace_folder("export", algorithm.export)
        folder.write_rows(PREDICTIONS, evaluated.rows())
        summary = build_summary(
            self.spec, self.options.seed, folder.results, before, as_json(after), as_json(blind), self.seconds()
        )
        best = folder.best_iteration(self.spec.options)
        summary |= {
            "checkpoint": str(folder.checkpoint_paths()[-1].relative_to(folder.path)),
            "stopped_by": reason_to_stop(folder.results.rows, self.spec.stop),
            "best_checkpoint": None if best is None else f"checkpoints/{best:06d}",
            "export": "export",
        }
        write_atomically(folder.path / "export" / CARD, model_card(self.spec, summary, folder.path / "export").encode())
        folder.write_json("summary.json", summary)
        self.console.print(closing_table(summary))
        self.say(signal_line(summary))
        self.say(f"{clock(summary['seconds'])} in all; everything is in {folder.path}. Next:")
        self.say(f"  {shlex.join(['sharegrpo-rl', 'evaluate', str(folder.path / 'export'), '--blind'])}")
        self.say(f"  {shlex.join(['tensorboard', '--logdir', str(self.options.storage_path)])}")
