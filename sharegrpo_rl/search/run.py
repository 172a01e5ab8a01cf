"""`tune`: a whole search through Ray Tune, in a folder that a killed search goes on from."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from sharegrpo_rl.config import user_code
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.generation.generator import check_engine
from sharegrpo_rl.runs.display import say
from sharegrpo_rl.runs.folder import choose_name
from sharegrpo_rl.runs.run_file import RunSpec, check_data
from sharegrpo_rl.runs.train import Interruption, TrainOptions, quiet_libraries
from sharegrpo_rl.search.file import SearchSpec, single_values
from sharegrpo_rl.search.journal import PARAMS, Journal, SearchFolder, decide_search, search_params
from sharegrpo_rl.search.results import ALL_TRIALS, BUDGET, INTERRUPTED, SearchDisplay, write_results
from sharegrpo_rl.search.scheduler import planned_values
from sharegrpo_rl.search.trial import needs, trials_at_once

if TYPE_CHECKING:
    from sharegrpo_rl.search.trial import TrialPlan

# Read by Tune: its own loggers and reports stay off, Ctrl-C is ours, a missing metric is no error of a trial.
TUNE_SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


def prepare_warm_start(spec: RunSpec, seed: int, import_paths: tuple[str, ...]) -> None:
    """Make the model that the trials begin with, unless the cache has it. Runs in a process of its own."""
    quiet_libraries()
    user_code.import_user_files([Path(path) for path in import_paths])
    import torch

    from sharegrpo_rl.algorithms.model_source import prepare_model
    from sharegrpo_rl.algorithms.registry import build_config

    torch.set_num_threads(spec.config["num_threads"])
    prepare_model(build_config(spec.run, spec.env, spec.config, seed))


@dataclass(frozen=True)
class SearchRunOptions(TrainOptions):
    """The same for a search, whose trials share a warm start."""

    prepare: Callable[[RunSpec, int, tuple[str, ...]], None] | None = prepare_warm_start


def run_search(spec: SearchSpec, options: SearchRunOptions, console: Console) -> int:
    """Run one search to its end in `storage/name`. Returns the exit code: 0, 1 where every trial failed, 130 or 143."""
    for values in ({}, *single_values(spec.space)):
        config = spec.trial(values).config
        check_engine(config.get("engine", "hf"))
        check_data(config["env_config"])
    if spec.options["searcher"] == "random":
        planned_values(spec, options.seed)  # its complaints come before anything is written
    params = search_params(spec, options.seed, options.imports)
    name = options.name or choose_name(options.storage, spec.base.name, params, options.resume, SearchFolder, PARAMS)
    with SearchFolder.claim(options.storage, name) as claimed:
        assert isinstance(claimed, SearchFolder)
        state = decide_search(claimed, params, spec.options, options.resume)
        if state == "finished":
            text = "this search is finished, see search.json and best.yaml; a new one needs another --name"
            say(console, f"{claimed.path}: {text}")
            return 0
        if state == "new":
            claimed.clear()
        claimed.write_json(PARAMS, params)
        return _Search(spec, options, claimed, console).run()


class _Search:
    """One process's work on a claimed folder."""

    def __init__(self, spec: SearchSpec, options: SearchRunOptions, folder: SearchFolder, console: Console) -> None:
        self.spec, self.options, self.folder = spec, options, folder
        self.journal = Journal(folder.path / "events.jsonl", spec.base.iterations)
        self.journal.repair()
        self.started = time.monotonic() - self.journal.seconds
        self.display = SearchDisplay(console, self.journal, spec)

    def seconds(self) -> float:
        """Wall seconds of the search, those of earlier processes included."""
        return time.monotonic() - self.started

    def run(self) -> int:
        """Search to the end, the budget's end, or a signal; the exit code."""
        where = f"{self.spec.base.run} on {self.spec.base.env}, seed {self.options.seed}, in {self.folder.path}"
        over = sum(record.is_over for record in self.journal.trials.values())
        known = f"going on: {over} of {self.spec.trials} trials are over" if self.journal.events else "new search"
        self.display.line(f"{where}: {self.spec.trials} trials, {known}")
        os.environ.update(TUNE_SETTINGS)
        quiet_libraries()
        with Interruption() as interruption:
            try:
                self._through_tune(interruption)
            except KeyboardInterrupt:
                interruption.code = interruption.code or 130
            finally:
                self.display.stop()
        return self._finish(interruption.code)

    def _through_tune(self, interruption: Interruption) -> None:
        with (
            _local_ray(self.at_once(), self._needs()["CPU"]),
            tempfile.TemporaryDirectory(prefix="sharegrpo_rl-") as scratch,
        ):
            self._prepare()
            if interruption.code is None:
                _tune(self, Path(scratch), interruption)

    def _prepare(self) -> None:
        """The warm start, once and before trials could make it side by side; all of them have the search's seed."""
        if self.options.prepare is None or not (self.spec.base.config["warm_start"] or self._is_tiny()):
            return
        import ray
        from ray.exceptions import RayTaskError

        self.display.line("preparing the warm start that the trials share")
        task = ray.remote(num_cpus=1, max_retries=0)(self.options.prepare)
        try:
            ray.get(task.remote(self.spec.base, self.options.seed, tuple(user_code.IMPORTED)))
        except RayTaskError as error:
            raise error.cause if isinstance(error.cause, UserError) else error from None

    def _is_tiny(self) -> bool:
        return self.spec.base.config["model"] == "tiny"

    def _needs(self) -> dict[str, float]:
        """Cores and GPUs of a trial, with its env runners and learners."""
        return needs(self.spec.trial(values).config for values in ({}, *single_values(self.spec.space)))

    def at_once(self) -> int:
        """Trials that may run side by side."""
        return min(self.spec.options["max_concurrent"] or trials_at_once(self._needs()), self.spec.trials)

    def plan(self) -> TrialPlan:
        """What the trials share."""
        from sharegrpo_rl.search.trial import TrialPlan

        spec, keep = self.spec, self.spec.base.config["checkpoints_to_keep"]
        if spec.options["scheduler"] == "pbt":
            # A donor's checkpoint must outlast the round after it, in which its taker may yet start.
            between = (
                spec.options["scheduler_options"]["perturbation_interval"] + spec.base.config["evaluation_interval"]
            )
            keep = max(keep, 2 * between + 1)
        return TrialPlan(
            name=spec.base.name,
            tree=spec.tree,
            paths=tuple(key.path for key in spec.space),
            metric=spec.options["metric"],
            seed=self.options.seed,
            folder=str(self.folder.path.absolute()),
            keep=keep,
            imports=self.options.imports,
            import_paths=tuple(user_code.IMPORTED),
            build=self.options.build,
        )

    def budget_is_spent(self) -> bool:
        """Has the search used up what `tune.budget` allows?"""
        budget = self.spec.options["budget"] or {}
        seconds, completions = budget.get("seconds"), budget.get("completions")
        late = seconds is not None and self.seconds() >= seconds
        return late or (completions is not None and self.journal.completions >= completions)

    def _finish(self, code: int | None) -> int:
        trials = self.journal.trials.values()
        complete = len(trials) == self.spec.trials and all(trial.is_over for trial in trials)
        ended = ALL_TRIALS if complete else INTERRUPTED if code else BUDGET
        if not any(trial.iterations or trial.is_over for trial in trials):
            self.display.line("stopped before the first iteration; nothing was kept. Start again with the same command")
            return code or 0
        write_results(self.spec, self.options.seed, self.folder, self.journal, ended, self.display.console)
        if not complete:
            why = "stopped" if code else "the budget is spent"
            same = f"the same command with --name {self.folder.path.name} --resume auto"
            self.display.line(f"{why}. To go on: {same}{'' if code else ' and a larger tune.budget'}")
        if code and not complete:
            return code
        if complete and all(trial.score is None for trial in trials):
            self.display.line(f"no trial came to a result; {self.folder.path / 'errors'} says why")
            return 1
        return 0


@contextlib.contextmanager
def _local_ray(at_once: int, cores: float) -> Iterator[None]:
    """Ray on this machine, with a slot for each trial at once."""
    import ray

    from sharegrpo_rl.search.trial import SLOT

    if ray.is_initialized():
        raise RuntimeError("a search starts a Ray of its own; call ray.shutdown() before")
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "300")  # on a loaded machine 30 s are not enough
    ray.init(
        address="local",
        num_cpus=int(at_once * cores),
        resources={SLOT: at_once},
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        yield
    finally:
        ray.shutdown()


def _tune(search: _Search, scratch: Path, interruption: Interruption) -> None:
    """Hand plan, trials and scheduler to Ray Tune. What it writes is scratch; the folder is written by the trials."""
    from ray import tune

    from sharegrpo_rl.search.scheduler import (
        EndOfSearch,
        JournaledScheduler,
        OptunaDraws,
        PlannedDraws,
        TrialSource,
        make_scheduler,
    )
    from sharegrpo_rl.search.trial import SearchTrial

    spec, plan = search.spec, search.plan()

    scheduler = JournaledScheduler(make_scheduler(spec, plan), search.journal, search.options.seed, search.seconds)
    seed = search.options.seed
    draws: OptunaDraws | PlannedDraws
    draws = (
        OptunaDraws(spec, seed) if spec.options["searcher"] == "optuna" else PlannedDraws(planned_values(spec, seed))
    )
    source = TrialSource(plan, draws, scheduler, spec.trials, search.at_once(), search.seconds)
    tune.run(
        SearchTrial,
        name="search",
        storage_path=str(scratch),
        search_alg=source,
        scheduler=scheduler,
        stop=EndOfSearch(lambda: interruption.code is not None or search.budget_is_spent()),
        callbacks=[search.display.callback(scheduler, search.seconds)],
        max_failures=spec.options["max_failures"],
        reuse_actors=True,
        raise_on_failed_trial=False,
        verbose=0,
    )
