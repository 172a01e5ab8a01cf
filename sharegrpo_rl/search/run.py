"""`tune`: a whole search through Ray Tune, in a folder from which a killed search continues."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayTaskError
from rich.console import Console

from sharegrpo_rl.config import user_code
from sharegrpo_rl.config.run import RunOptions
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.generation.generator import check_engine
from sharegrpo_rl.learners.ray_start import start_local
from sharegrpo_rl.runs.display import say
from sharegrpo_rl.runs.examples import check_data
from sharegrpo_rl.runs.folder import choose_name, refuse_other_data
from sharegrpo_rl.runs.process import Interruption, quiet_libraries
from sharegrpo_rl.runs.run_file import RunSpec, TrainOptions
from sharegrpo_rl.runs.train import BuildAlgorithm, CheckRun, build_algorithm, check_run
from sharegrpo_rl.search.display import SearchDisplay
from sharegrpo_rl.search.draws import OptunaDraws, PlannedDraws
from sharegrpo_rl.search.file import SearchSpec, check_packages, single_values
from sharegrpo_rl.search.journal import (
    ALL_TRIALS,
    BUDGET,
    EVENTS,
    INTERRUPTED,
    PARAMS,
    Journal,
    SearchFolder,
    decide_search,
    search_params,
)
from sharegrpo_rl.search.results import write_results
from sharegrpo_rl.search.scheduler import JournaledScheduler, TrialSource, make_scheduler
from sharegrpo_rl.search.trial import SLOT, SearchTrial, SharedSettings

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


PrepareWarmStart = Callable[[RunSpec, int, tuple[str, ...]], None]


def prepare_warm_start(spec: RunSpec, seed: int, import_paths: tuple[str, ...]) -> None:
    """Make the model that the trials begin with, unless the cache has it. Runs in its own process."""
    quiet_libraries()
    user_code.import_user_files([Path(path) for path in import_paths])
    import torch

    from sharegrpo_rl.algorithms.model_source import prepare_model
    from sharegrpo_rl.algorithms.registry import build_config

    torch.set_num_threads(spec.config["num_threads"])
    prepare_model(build_config(spec.run, spec.env, spec.config, seed))


def run_search(
    spec: SearchSpec,
    options: TrainOptions,
    console: Console,
    imports: Mapping[str, str] | None = None,
    build: BuildAlgorithm = build_algorithm,
    prepare: PrepareWarmStart | None = prepare_warm_start,
    check: CheckRun = check_run,
) -> int:
    """Run one search to its end in its folder. Returns the exit code: 0, 1 where every trial failed, 130 or 143.

    imports: digests of the user's files, which belong to the search's settings.
    """
    check_packages(spec)
    samples = [spec.trial(values) for values in ({}, *single_values(spec.space))]
    for trial in samples:
        check_engine(trial.config.get("engine", "hf"))
        check_data(trial.options.env_config)
    # Too small a space is refused here, before anything is written.
    draws = (OptunaDraws if spec.options["searcher"] == "optuna" else PlannedDraws)(spec, options.seed)
    params = search_params(spec, options.seed, imports or {})
    name = search_name(spec, options, params)
    with SearchFolder.claim(options.storage_path, name) as folder:
        state = decide_search(folder, params, spec.options, options.resume)
        if state == "finished":
            text = "this search is finished, see search.json and best.yaml; a new one needs another --name"
            say(console, f"{folder.path}: {text}")
            return 0
        data = check(spec.base, options.seed)
        if state == "new":
            folder.clear()
        else:
            refuse_other_data(folder, data)
        folder.write_json(PARAMS, params | {"data": data})
        demand = _largest_demand([trial.options for trial in samples])
        at_once = min(spec.options["max_concurrent"] or _trials_at_once(demand), spec.trials)
        shared = _shared_settings(spec, options.seed, folder, imports or {}, build)
        return _Search(spec, shared, folder, draws, console).run(at_once, demand["CPU"], prepare)


def search_name(spec: SearchSpec, options: TrainOptions, params: Mapping[str, Any]) -> str:
    """The name of the search's folder; `params` are those of `search_params`."""
    return options.name or choose_name(options.storage_path, spec.base.name, params, options.resume, SearchFolder)


def _largest_demand(trials: Iterable[RunOptions]) -> dict[str, float]:
    """Cores and GPUs of the largest of some trials, with its env runners and learners."""
    from sharegrpo_rl.learners.placement import demand

    demands = [demand(options) for options in trials]
    return {"CPU": 1 + max(d.get("CPU", 0) for d in demands), "GPU": max(d.get("GPU", 0) for d in demands)}


def _trials_at_once(needed: Mapping[str, float]) -> int:
    """How many trials this machine holds; at least one. UserError if it lacks the GPUs for one."""
    from sharegrpo_rl.learners.placement import available_cores

    fitting = available_cores() // needed["CPU"]
    if needed["GPU"]:
        import torch

        available = torch.cuda.device_count()
        if available < needed["GPU"]:
            raise UserError(
                f"num_gpus_per_learner, num_gpus_per_env_runner: a trial asks for {needed['GPU']:g} GPUs, and this machine "
                f"has {available}"
            )
        fitting = min(fitting, available // needed["GPU"])
    return max(1, int(fitting))


def _shared_settings(
    spec: SearchSpec, seed: int, folder: SearchFolder, imports: Mapping[str, str], build: BuildAlgorithm
) -> SharedSettings:
    keep = spec.base.config["checkpoints_to_keep"]
    if spec.options["scheduler"] == "pbt":
        # A donor's checkpoint must outlast the round after it, in which its taker may yet start.
        interval = spec.options["scheduler_options"]["perturbation_interval"]
        keep = max(keep, 2 * (interval + spec.base.config["evaluation_interval"]) + 1)
    return SharedSettings(
        name=spec.base.name,
        tree=spec.tree,
        paths=tuple(key.path for key in spec.space),
        metric=spec.options["metric"],
        seed=seed,
        folder=str(folder.path.absolute()),
        keep=keep,
        imports=dict(imports),
        import_paths=tuple(user_code.IMPORTED),
        build=build,
    )


class _Search:
    """One process's work on a claimed folder."""

    def __init__(
        self,
        spec: SearchSpec,
        shared: SharedSettings,
        folder: SearchFolder,
        draws: PlannedDraws,
        console: Console,
    ) -> None:
        self.spec, self.shared, self.folder, self.draws = spec, shared, folder, draws
        self.journal = Journal(folder.path / EVENTS, spec.base.iterations)
        self.journal.repair()
        self.display = SearchDisplay(console, self.journal, spec)
        self.interruption = Interruption()

    def run(self, at_once: int, cores: float, prepare: PrepareWarmStart | None) -> int:
        """Search to the end, the budget's end, or a signal; the exit code."""
        spec = self.spec
        where = f"{spec.base.run} on {spec.base.env}, seed {self.shared.seed}, in {self.folder.path}"
        state = "new search"
        if self.journal.events:
            state = f"continuing: {self.journal.trials_over} of {spec.trials} trials are over"
        self.display.line(f"{where}: {spec.trials} trials, {state}")
        os.environ.update(TUNE_SETTINGS)
        quiet_libraries()
        with self.interruption:
            try:
                with _local_ray(at_once, cores), tempfile.TemporaryDirectory(prefix="sharegrpo_rl-") as scratch:
                    if prepare is not None:
                        self._prepare(prepare)
                    if self.interruption.code is None:
                        self._tune(scratch, at_once)
            except KeyboardInterrupt:
                self.interruption.code = self.interruption.code or 130
            finally:
                self.display.close()
        return self._finish(self.interruption.code)

    def _prepare(self, prepare: PrepareWarmStart) -> None:
        """Once, before trials could make it side by side; all of them have the search's seed."""
        config = self.spec.base.config
        if not (config["warm_start"] or config["model"] == "tiny"):
            return
        self.display.line("preparing the warm start that the trials share")
        task = ray.remote(num_cpus=1, max_retries=0)(prepare)
        try:
            ray.get(task.remote(self.spec.base, self.shared.seed, tuple(user_code.IMPORTED)))
        except RayTaskError as error:
            raise error.cause if isinstance(error.cause, UserError) else error from None

    def _tune(self, scratch: str, at_once: int) -> None:
        """Hand trials and scheduler to Ray Tune. What it writes is scratch; the folder is written by the trials."""
        spec, shared = self.spec, self.shared
        scheduler = JournaledScheduler(make_scheduler(spec, shared), self.journal, self.shared.seed)
        tune.run(
            SearchTrial,
            name="search",
            storage_path=scratch,
            search_alg=TrialSource(shared, self.draws, scheduler, spec.trials, at_once),
            scheduler=scheduler,
            stop=_EndOfSearch(lambda: self.interruption.code is not None or self._budget_is_spent()),
            callbacks=[self.display],
            max_failures=spec.options["max_failures"],
            reuse_actors=True,
            raise_on_failed_trial=False,
            verbose=0,
        )

    def _budget_is_spent(self) -> bool:
        budget = {"seconds": None, "completions": None, **(self.spec.options["budget"] or {})}
        spent = {"seconds": self.journal.elapsed(), "completions": self.journal.completions}
        return any(limit is not None and spent[key] >= limit for key, limit in budget.items())

    def _finish(self, code: int | None) -> int:
        trials, total, say_line = self.journal.trials.values(), self.spec.trials, self.display.line
        if not any(trial.iterations or trial.is_over for trial in trials):
            say_line("stopped before the first iteration; nothing was kept. Start again with the same command")
            return code or 0
        complete = len(trials) == total == self.journal.trials_over
        ended = ALL_TRIALS if complete else INTERRUPTED if code else BUDGET
        write_results(self.spec, self.shared.seed, self.folder, self.journal, ended, self.display.console)
        if not complete:
            why = "stopped" if code else "the budget is spent"
            command = f"the same command with --name {self.folder.path.name} --resume auto"
            say_line(f"{why}. To continue: {command}{'' if code else ' and a larger tune.budget'}")
            return code or 0
        if all(trial.score is None for trial in trials):
            say_line(f"no trial came to a result; {self.folder.path / 'errors'} says why")
            return 1
        return 0


class _EndOfSearch(tune.Stopper):
    """Ends all trials once `is_over` says so."""

    def __init__(self, is_over: Callable[[], bool]) -> None:
        self.is_over = is_over

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.is_over()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # for Tune's own snapshots, from which nothing is ever restored


@contextlib.contextmanager
def _local_ray(at_once: int, cores: float) -> Iterator[None]:
    """Ray on this machine, with a slot for each trial at once."""
    if ray.is_initialized():
        raise RuntimeError("a search starts its own Ray; call ray.shutdown() first")
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # paths in a YAML are relative to where the search was started
    start_local(
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
