"""Where Ray Tune gets its trials from: first those that an earlier process left unfinished, then new ones in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray import tune
from ray.tune.experiment import Experiment, Trial
from ray.tune.experiment.config_parser import _create_trial_from_spec, _make_parser
from ray.tune.result import TRAINING_ITERATION
from ray.tune.search import SearchAlgorithm

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.tune.search_draw import on_step
from sharegrpo_rl.tune.search_file import SearchSpec, Values
from sharegrpo_rl.tune.search_journal import FAILED, Journal
from sharegrpo_rl.tune.search_scheduler import SCORE, TIME, JournaledScheduler, SynchronousPbt
from sharegrpo_rl.tune.search_space import LISTS, SearchKey
from sharegrpo_rl.tune.search_trial import TrialPlan


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
