"""Ray Tune's schedulers behind a journal: every decision is on disk before it takes effect, and chance comes from the seed."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from ray import tune
from ray.tune import Stopper
from ray.tune.experiment import Experiment, Trial
from ray.tune.experiment.config_parser import _create_trial_from_spec, _make_parser
from ray.tune.result import TRAINING_ITERATION
from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)
from ray.tune.search import SearchAlgorithm

from sharegrpo_rl.config.search import LISTS, SearchKey
from sharegrpo_rl.data.variants import derive_seed
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.search.file import SearchSpec, Values
from sharegrpo_rl.search.journal import FAILED, FINISHED, STOPPED, Journal
from sharegrpo_rl.search.trial import TrialPlan

# ---- Which values each trial gets: grid points in order, choices and ranges drawn from the search's seed, none twice.

ATTEMPTS = 1000  # draws for one trial before its space is taken as exhausted


def planned_values(spec: SearchSpec, seed: int) -> list[Values]:
    """The values of every trial of a random or grid search; the same list for the same file and seed."""
    planned: list[Values] = []
    seen: set[str] = set()
    grid = [key for key in spec.space if key.is_grid]
    drawn = [key for key in spec.space if not key.is_grid]
    for _ in range(spec.options["num_samples"]):
        for point in _grid_points(grid):
            values = _unseen(point, drawn, seed, len(planned), seen)
            if values is None and spec.options["scheduler"] != "pbt":
                raise UserError(
                    f"tune.num_samples: {spec.trials} trials, but the search space has only {len(seen)} different "
                    "settings for them, and the same settings give the same numbers; lower it"
                )
            planned.append(values or draw(point, drawn, seed, len(planned), 0))
    for values in planned:
        spec.trial(values)  # a combination that nobody has checked yet
    return planned


def _grid_points(grid: Sequence[SearchKey]) -> Iterator[Values]:
    if math.prod(len(key.values) for key in grid) > 100_000:
        raise UserError("config: more than 100,000 grid points; use choice and tune.num_samples instead")
    points: list[Values] = [{}]
    for key in grid:
        points = [{**point, key.path: value} for point in points for value in key.values]
    return iter(points)


def _unseen(point: Values, drawn: Sequence[SearchKey], seed: int, number: int, seen: set[str]) -> Values | None:
    for attempt in range(ATTEMPTS if drawn else 1):
        values = draw(point, drawn, seed, number, attempt)
        identity = json.dumps([[list(path), value] for path, value in values.items()])
        if identity not in seen:
            seen.add(identity)
            return values
    return None


def draw(point: Values, drawn: Sequence[SearchKey], seed: int, number: int, attempt: int) -> Values:
    """A grid point with a value for every other key; `number` is the trial's place in the search."""
    rng = np.random.default_rng(derive_seed("search", seed, number, attempt))
    return {**point, **{key.path: draw_one(key, rng) for key in drawn}}


def draw_one(key: SearchKey, rng: np.random.Generator) -> Any:
    """One value of a choice or a range."""
    if key.word == "choice":
        return key.arguments[int(rng.integers(len(key.arguments)))]
    low, high = key.arguments[:2]
    if key.word == "uniform":
        return float(rng.uniform(low, high))
    if key.word == "loguniform":
        return float(np.clip(math.exp(rng.uniform(math.log(low), math.log(high))), low, high))
    step = key.arguments[2]
    return on_step(key, int(rng.integers(round(low / step), round(high / step) + 1)) * step)


def on_step(key: SearchKey, value: float) -> float:
    """A number in the bounds of a range; of `quniform`, on a multiple of its step and whole where all of it is whole."""
    low, high = key.arguments[:2]
    value = min(max(value, low), high)
    if key.word != "quniform":
        return float(value)
    step = key.arguments[2]
    snapped = round(value / step) * step
    return int(snapped) if all(isinstance(a, int) for a in key.arguments) else float(f"{snapped:.12g}")


TIME, SCORE = "iteration", "score"  # what a trial reports


def make_scheduler(spec: SearchSpec, plan: TrialPlan) -> TrialScheduler:
    """The scheduler that the `tune:` block asks for."""
    options = spec.options["scheduler_options"]
    common = {"time_attr": TIME, "metric": SCORE, "mode": spec.options["mode"]}
    match spec.options["scheduler"]:
        case "asha":
            return ASHAScheduler(**common, **options, max_t=spec.base.iterations)
        case "median_stopping":
            # Without the endless slice it would pause trials to let others catch up.
            return MedianStoppingRule(**common, **options, min_time_slice=float("inf"))
        case "pbt":
            return SynchronousPbt(spec, plan, **common, **options)
    return FIFOScheduler()


class SynchronousPbt(PopulationBasedTraining):
    """Tune's PBT in rounds: all trials reach a round, then the worst take over. So the result hangs on no race."""

    def __init__(self, spec: SearchSpec, plan: TrialPlan, **options: Any) -> None:
        mutations = {key.key: _mutations(key) for key in spec.space}
        super().__init__(
            hyperparam_mutations=mutations,
            custom_explore_fn=self._keep_in_bounds,
            synch=True,
            require_attrs=False,
            log_config=False,
            **options,
        )
        self._space, self._plan = spec.space, plan
        self.changes: dict[str, dict[str, Any]] = {}  # of the round under way

    def begin_after(self, last_round: Mapping[str, Any] | None) -> None:
        """Go on behind a round of an earlier process."""
        self._first = last_round["iteration"] if last_round else 0
        if last_round:
            self._next_perturbation_sync = last_round["next"]

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        super().on_trial_add(tune_controller, trial)
        self._trial_state[trial].last_perturbation_time = self._first
        self._trial_state[trial].last_train_time = self._first

    @property
    def next_round(self) -> float:
        return self._next_perturbation_sync

    def _keep_in_bounds(self, config: dict[str, Any]) -> dict[str, Any]:
        """PBT multiplies by 0.8 and 1.2 without end; its values stay in the ranges that the file gives."""
        ranged = {key.key: on_step(key, config[key.key]) for key in self._space if key.word not in LISTS}
        return {**config, **ranged}

    def _get_new_config(self, trial: Trial, trial_to_clone: Trial) -> tuple[dict[str, Any], dict[str, Any]]:
        """The donor's values, varied; not varied, where options contradict each other then."""
        new, operations = super()._get_new_config(trial, trial_to_clone)
        try:
            self._plan.spec_of(new)
        except UserError:
            return dict(trial_to_clone.config), {key.key: None for key in self._space}
        return new, operations

    def _exploit(self, tune_controller: Any, trial: Trial, trial_to_clone: Trial) -> None:
        super()._exploit(tune_controller, trial, trial_to_clone)
        iteration = int(self._trial_state[trial_to_clone].last_train_time)
        adopt = {"donor": trial_to_clone.trial_id, "iteration": iteration}
        trial.set_config({**trial.config, "trial": trial.trial_id, "adopt": adopt})  # PBT has copied the donor's name
        values = {key.key: trial.config[key.key] for key in self._space}
        self.changes[trial.trial_id] = {"donor": trial_to_clone.trial_id, "values": values}


def _mutations(key: SearchKey) -> Any:
    if key.word in LISTS:
        return list(key.arguments)
    return {"uniform": tune.uniform, "loguniform": tune.loguniform, "quniform": tune.quniform}[key.word](*key.arguments)


class JournaledScheduler(TrialScheduler):
    """Passes everything on to a scheduler, and what comes of it to the journal."""

    supports_buffered_results = False

    def __init__(self, inner: TrialScheduler, journal: Journal, seed: int, clock: Callable[[], float]) -> None:
        super().__init__()
        self.inner, self.journal, self.seed, self.clock = inner, journal, seed, clock
        self._added: set[str] = set()
        if isinstance(inner, SynchronousPbt):
            inner.begin_after(journal.rounds[-1] if journal.rounds else None)

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return True

    # ---- what the controller reports

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        if trial.trial_id not in self._added:  # else the replay has
            self._added.add(trial.trial_id)
            with _seeded("add", self.seed, trial.trial_id):
                self.inner.on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        heard_of = result[TIME] <= self.journal.trials[trial.trial_id].iterations  # a trial that was started again
        if heard_of and not isinstance(self.inner, SynchronousPbt):
            return TrialScheduler.CONTINUE
        decision = self._decide(tune_controller, trial, result)
        if not heard_of:
            self.journal.append(self._result(trial, result, decision))
        return decision

    def _decide(self, controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        if SCORE not in result:
            return TrialScheduler.CONTINUE
        if not isinstance(self.inner, SynchronousPbt):
            return self.inner.on_trial_result(controller, trial, result)
        due, self.inner.changes = self.inner.next_round, {}
        with _seeded("round", self.seed, result[TIME]):
            decision = self.inner.on_trial_result(controller, trial, result)
        if self.inner.next_round > due:
            self._end_round(controller, trial, result, decision)
        return decision

    def _end_round(self, controller: Any, trial: Trial, result: dict[str, Any], decision: str) -> None:
        assert isinstance(self.inner, SynchronousPbt)
        events = [self._result(trial, result, decision)]
        if result[TIME] <= self.journal.trials[trial.trial_id].iterations:
            events = []
        iteration = int(result[TIME])
        here = {"event": "round", "iteration": iteration, "next": self.inner.next_round, "changes": self.inner.changes}
        self.journal.append(*events, {**here, "seconds": self.clock()})
        for other in controller.get_trials():
            if not other.is_finished():
                other.set_config({**other.config, "delivered": iteration})

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """A trial came to its end, or was stopped by the last decision."""
        self.inner.on_trial_complete(tune_controller, trial, result)
        record = self.journal.trials[trial.trial_id]
        events = []
        if result[TIME] > record.iterations:
            events.append(self._result(trial, result, TrialScheduler.STOP))
        status = FINISHED if result.get("done") and result[TIME] >= self.journal.planned else STOPPED
        self.journal.append(
            *events, {"event": "end", "trial": trial.trial_id, "status": status, "seconds": self.clock()}
        )

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        self.inner.on_trial_error(tune_controller, trial)
        end = {"event": "end", "trial": trial.trial_id, "status": FAILED, "error": self.why(trial.trial_id)}
        self.journal.append({**end, "seconds": self.clock()})

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        self.inner.on_trial_remove(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        return self.inner.choose_trial_to_run(tune_controller)

    def debug_string(self) -> str:
        return self.inner.debug_string()

    def why(self, trial: str) -> str:
        """The last line of a trial's last traceback."""
        path = Path(self.journal.path).parent / "errors" / f"{trial}.txt"
        lines = path.read_text().strip().splitlines() if path.exists() else []
        return lines[-1] if lines else "its process died"

    def _result(self, trial: Trial, result: Mapping[str, Any], decision: str) -> dict[str, Any]:
        figures = {TIME: result[TIME], SCORE: result.get(SCORE), "completions": result["completions"]}
        return {"event": "result", "trial": trial.trial_id, **figures, "decision": decision, "seconds": self.clock()}

    # ---- resumption

    def replay(self, event: Mapping[str, Any], trial: Trial) -> None:
        """Take in an event of an earlier process, as it was taken in then. PBT begins behind its last round instead."""
        if isinstance(self.inner, SynchronousPbt):
            return
        if event["event"] == "trial":
            self.on_trial_add(None, trial)
        elif event["event"] == "result" and event["score"] is not None and event[TIME] < self.journal.planned:
            self.inner.on_trial_result(None, trial, _reported(event))
        elif event["event"] == "end" and event["status"] != FAILED:
            self.inner.on_trial_complete(None, trial, _last_result(self.journal, trial.trial_id))
        elif event["event"] == "end":
            self.inner.on_trial_error(None, trial)


class EndOfSearch(Stopper):
    """Ends all trials once a question is answered with yes."""

    def __init__(self, is_over: Callable[[], bool]) -> None:
        self.is_over = is_over

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self.is_over()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # for Tune's own snapshots, from which nothing is ever restored


def _reported(event: Mapping[str, Any]) -> dict[str, Any]:
    score = {} if event["score"] is None else {SCORE: event["score"]}
    return {TIME: event[TIME], "completions": event["completions"], **score}


def _last_result(journal: Journal, trial: str) -> dict[str, Any]:
    return _reported([e for e in journal.events if e["event"] == "result" and e["trial"] == trial][-1])


@contextmanager
def _seeded(*parts: str | int) -> Iterator[None]:
    """Tune's schedulers use the global generators; for a moment these follow from the parts."""
    states = random.getstate(), np.random.get_state()
    seed = derive_seed(*parts)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


# ---- Where Ray Tune gets its trials from: first those that an earlier process left unfinished, then new ones in order.


class PlannedDraws:
    """Random and grid search: the values are known from the beginning."""

    def __init__(self, values: Sequence[Values]) -> None:
        self._values = values

    def suggest(self, number: int) -> dict[str, Any]:
        """Values of trial `number` (from 0), by dotted key."""
        return {".".join(path): value for path, value in self._values[number].items()}

    def on_trial_result(self, trial: str, result: Mapping[str, Any]) -> None:
        """Draws follow from the seed alone."""

    def on_trial_complete(self, trial: str, result: Mapping[str, Any] | None, error: bool) -> None:
        """Draws follow from the seed alone."""


class OptunaDraws:
    """Optuna through Tune's integration: the first trials are random, the later ones learn from their results."""

    def __init__(self, spec: SearchSpec, seed: int) -> None:
        import optuna
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space = {key.key: key for key in spec.space}
        space = OptunaSearch.convert_search_space({name: _domain(key) for name, key in self._space.items()})
        self._optuna = OptunaSearch(space=space, metric=SCORE, mode=spec.options["mode"], seed=seed)

    def suggest(self, number: int) -> dict[str, Any]:
        """Values of trial `number` (from 0), by dotted key."""
        drawn = self._optuna.suggest(trial_name(number)) or {}
        return {name: _value(self._space[name], drawn[name]) for name in self._space}

    def on_trial_result(self, trial: str, result: Mapping[str, Any]) -> None:
        if SCORE in result:
            self._optuna.on_trial_result(trial, {SCORE: result[SCORE], TRAINING_ITERATION: result[TIME]})

    def on_trial_complete(self, trial: str, result: Mapping[str, Any] | None, error: bool) -> None:
        known = {SCORE: result[SCORE]} if result and SCORE in result else None
        self._optuna.on_trial_complete(trial, known, error)


def _domain(key: SearchKey) -> Any:
    if key.word in LISTS:
        return tune.choice(list(range(len(key.arguments))))  # by place: Optuna takes no lists for values
    return {"uniform": tune.uniform, "loguniform": tune.loguniform, "quniform": tune.quniform}[key.word](*key.arguments)


def _value(key: SearchKey, drawn: Any) -> Any:
    return key.arguments[drawn] if key.word in LISTS else on_step(key, drawn)


def trial_name(number: int) -> str:
    """`0001` for the first trial, which is also its folder."""
    return f"{number + 1:04d}"


class TrialSource(SearchAlgorithm):
    """Hands out at most `at_once` unfinished trials; all of them for PBT, whose trials wait for each other."""

    def __init__(
        self,
        plan: TrialPlan,
        draws: PlannedDraws | OptunaDraws,
        scheduler: JournaledScheduler,
        total: int,
        at_once: int,
        clock: Callable[[], float],
    ) -> None:
        self.plan, self.draws, self.scheduler, self.total, self.clock = plan, draws, scheduler, total, clock
        self.journal: Journal = scheduler.journal
        self.pbt = isinstance(scheduler.inner, SynchronousPbt)
        self._at_once = total if self.pbt else at_once
        self._waiting: list[Trial] = []
        self._out: set[str] = set()
        self._last: dict[str, dict[str, Any]] = {}

    @property
    def total_samples(self) -> int:
        return self.total

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict, **spec: Any) -> bool:
        return True

    def add_configurations(self, experiments: Any) -> None:
        """Tune's start signal: trials can be made now."""
        (self._experiment,) = [experiments] if isinstance(experiments, Experiment) else experiments
        self._parser = _make_parser()
        self.begin()

    def begin(self) -> None:
        """Play what an earlier process has seen to scheduler and searcher; its unfinished trials come first."""
        trials = {name: self._trial(name) for name in self.journal.trials}
        for event in self.journal.events:
            if "trial" in event:
                self._replay(event, trials[event["trial"]])
        self._waiting = [trials[name] for name, record in self.journal.trials.items() if not record.is_over]

    def _replay(self, event: Mapping[str, Any], trial: Trial) -> None:
        self.scheduler.replay(event, trial)
        name, kind = trial.trial_id, event["event"]
        if kind == "trial":
            drawn = self.draws.suggest(int(name) - 1)
            if drawn != event["values"] and not self.pbt:
                raise UserError(
                    f"{self.journal.path}: trial {name} has other values than this version draws for it; "
                    "go on with the versions in search_params.json, or begin a new search with another --name"
                )
        elif kind == "result":
            self._last[name] = _report(event)
            if event["decision"] != "STOP":
                self.draws.on_trial_result(name, self._last[name])
        elif kind == "end":
            failed = event["status"] == FAILED
            self.draws.on_trial_complete(name, None if failed else self._last.get(name), failed)

    def next_trial(self) -> Trial | None:
        """The next trial that may start, if one may."""
        running = sum(not self.journal.trials[name].is_over for name in self._out)
        if self._finished or running >= self._at_once:
            return None
        if self._waiting:
            trial = self._waiting.pop(0)
        elif len(self.journal.trials) < self.total:
            number = len(self.journal.trials)
            name, values = trial_name(number), self.draws.suggest(number)
            self.journal.append({"event": "trial", "trial": name, "values": values, "seconds": self.clock()})
            trial = self._trial(name)
        else:
            return None
        self._out.add(trial.trial_id)
        return trial

    def _trial(self, name: str) -> Trial:
        record = self.journal.trials[name]
        last_round = self.journal.rounds[-1]["iteration"] if self.journal.rounds else 0
        config = {"plan": self.plan, "trial": name, "delivered": last_round if self.pbt else record.iterations}
        if record.adopted:
            config["adopt"] = {part: record.adopted[-1][part] for part in ("donor", "iteration")}
        spec = {**self._experiment.spec, "config": {**config, **record.values}}
        return _create_trial_from_spec(spec, self._parser, evaluated_params={}, experiment_tag=name, trial_id=name)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self.draws.on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.draws.on_trial_complete(trial_id, result, error)

    def is_finished(self) -> bool:
        return self._finished or (not self._waiting and len(self.journal.trials) >= self.total)


def _report(event: Mapping[str, Any]) -> dict[str, Any]:
    return {TIME: event[TIME]} | ({} if event["score"] is None else {SCORE: event["score"]})
