"""Ray Tune's schedulers behind a journal: every decision is on disk before it takes effect, and chance comes from the seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import ray
from ray.tune.experiment import Experiment, Trial
from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)
from ray.tune.search import SearchAlgorithm

from sharegrpo_rl.config.search import LISTS
from sharegrpo_rl.data.variants import derive_seed
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.search.draws import PlannedDraws, on_step, trial_name, tune_domain
from sharegrpo_rl.search.file import SearchSpec
from sharegrpo_rl.search.journal import FAILED, FINISHED, ITERATION, SCORE, STOPPED, Journal
from sharegrpo_rl.search.trial import SharedSettings

PRIVATE = ("_exploit", "_get_new_config")
"""Methods of Tune's PBT that rounds override, without a public way to the same."""


class TrialSource(SearchAlgorithm):
    """Where Tune gets its trials from: first those that an earlier process left unfinished, then new ones in order.

    Hands out at most `at_once` unfinished trials; all of them for PBT, whose trials wait for each other.
    """

    def __init__(
        self, shared: SharedSettings, draws: PlannedDraws, scheduler: JournaledScheduler, total: int, at_once: int
    ) -> None:
        self.shared, self.draws, self.scheduler, self.total = shared, draws, scheduler, total
        self.journal = scheduler.journal
        self._at_once = total if scheduler.pbt else at_once
        self._waiting: list[Trial] = []
        self._started: set[str] = set()

    @property
    def total_samples(self) -> int:
        return self.total

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    def add_configurations(self, experiments: Any) -> None:
        """Tune's start signal: trials can be made now."""
        (self._experiment,) = [experiments] if isinstance(experiments, Experiment) else experiments
        self.replay()

    def replay(self) -> None:
        """Replay what an earlier process has seen to scheduler and searcher; its unfinished trials come first."""
        trials = {name: self._trial(name) for name in self.journal.trials}
        last: dict[str, dict[str, Any]] = {}  # report of each trial
        for event in self.journal.events:
            if "trial" not in event:
                continue
            name, kind = event["trial"], event["event"]
            self.scheduler.replay(event, trials[name])
            if kind == "trial":
                if self.draws.suggest(int(name) - 1) != event["values"] and not self.scheduler.pbt:
                    raise UserError(
                        f"{self.journal.path}: trial {name} has other values than this version draws for it; continue "
                        "with the versions in search_params.json, or begin a new search with another --name"
                    )
            elif kind == "result":
                last[name] = _report(event)
                if event["decision"] != "STOP":
                    self.draws.on_trial_result(name, last[name])
            elif kind == "end":
                failed = event["status"] == FAILED
                self.draws.on_trial_complete(name, None if failed else last.get(name), failed)
        self._waiting = [trials[name] for name, record in self.journal.trials.items() if not record.is_over]

    def next_trial(self) -> Trial | None:
        """The next trial that may start, if one may."""
        records = self.journal.trials
        running = sum(not records[name].is_over for name in self._started)
        if self._finished or running >= self._at_once:
            return None
        if self._waiting:
            trial = self._waiting.pop(0)
        elif len(records) < self.total:
            name, values = trial_name(len(records)), self.draws.suggest(len(records))
            self.journal.append({"event": "trial", "trial": name, "values": values})
            trial = self._trial(name)
        else:
            return None
        self._started.add(trial.trial_id)
        return trial

    def _trial(self, name: str) -> Trial:
        record, delivered = self.journal.trials[name], self.journal.trials[name].iterations
        if self.scheduler.pbt:
            delivered = self.journal.rounds[-1][ITERATION] if self.journal.rounds else 0
        config = {"shared": self.shared, "trial": name, "delivered": delivered}
        if record.adopted:
            config["adopt"] = {part: record.adopted[-1][part] for part in ("donor", ITERATION)}
        spec = self._experiment.spec  # what `tune.run` was given
        return Trial(
            spec["run"],
            config={**config, **record.values},
            trial_id=name,
            experiment_tag=name,
            evaluated_params={},
            stopping_criterion=spec["stop"],
            checkpoint_config=spec["checkpoint_config"],
            max_failures=spec["max_failures"],
            storage=spec["storage"],
        )

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self.draws.on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.draws.on_trial_complete(trial_id, result, error)

    def is_finished(self) -> bool:
        return self._finished or (not self._waiting and len(self.journal.trials) >= self.total)


class JournaledScheduler(TrialScheduler):
    """Passes everything on to a scheduler of Tune's, and its decisions to the journal."""

    supports_buffered_results = False

    def __init__(self, inner: TrialScheduler, journal: Journal, seed: int) -> None:
        super().__init__()
        self.inner, self.journal, self.seed = inner, journal, seed
        self.pbt = inner if isinstance(inner, SynchronousPbt) else None
        self._added: set[str] = set()
        if self.pbt and journal.rounds:
            self.pbt.begin_after(journal.rounds[-1])

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        return True

    def replay(self, event: Mapping[str, Any], trial: Trial) -> None:
        """Take in an event of an earlier process, as it was taken in then. PBT begins after its last round instead."""
        kind = event["event"]
        if self.pbt:
            return
        if kind == "trial":
            self.on_trial_add(None, trial)
        elif kind == "result" and event[SCORE] is not None and event[ITERATION] < self.journal.planned:
            self.inner.on_trial_result(None, trial, _report(event))
        elif kind == "end" and event["status"] == FAILED:
            self.inner.on_trial_error(None, trial)
        elif kind == "end":
            results = [e for e in self.journal.events if e["event"] == "result" and e["trial"] == trial.trial_id]
            self.inner.on_trial_complete(None, trial, _report(results[-1]))

    # What the controller reports

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        if trial.trial_id not in self._added:  # else `replay` has added it
            self._added.add(trial.trial_id)
            with _seeded("add", self.seed, trial.trial_id):
                self.inner.on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        is_new = self._is_new(trial, result)  # else the trial was started again
        if self.pbt and SCORE in result:
            return self._on_pbt_result(self.pbt, tune_controller, trial, result)
        if not is_new or SCORE not in result:
            decision = TrialScheduler.CONTINUE
        else:
            decision = self.inner.on_trial_result(tune_controller, trial, result)
        if is_new:
            self.journal.append(_result_event(trial, result, decision))
        return decision

    def _on_pbt_result(self, pbt: SynchronousPbt, controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        due, pbt.changes = pbt.next_round, {}
        with _seeded("round", self.seed, result[ITERATION]):
            decision = pbt.on_trial_result(controller, trial, result)
        events = [_result_event(trial, result, decision)] if self._is_new(trial, result) else []
        round_over, iteration = pbt.next_round > due, int(result[ITERATION])
        if round_over:
            events.append({"event": "round", ITERATION: iteration, "next": pbt.next_round, "changes": pbt.changes})
        if events:
            self.journal.append(*events)
        for other in controller.get_trials() if round_over else ():
            if not other.is_finished():
                other.set_config({**other.config, "delivered": iteration})
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """A trial ran to its end, or was stopped by the last decision."""
        self.inner.on_trial_complete(tune_controller, trial, result)
        events = [_result_event(trial, result, TrialScheduler.STOP)] if self._is_new(trial, result) else []
        status = FINISHED if result.get("done") and result[ITERATION] >= self.journal.planned else STOPPED
        self.journal.append(*events, {"event": "end", "trial": trial.trial_id, "status": status})

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        self.inner.on_trial_error(tune_controller, trial)
        name = trial.trial_id
        self.journal.append({"event": "end", "trial": name, "status": FAILED, "error": self.journal.last_error(name)})

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        self.inner.on_trial_remove(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        return self.inner.choose_trial_to_run(tune_controller)

    def debug_string(self) -> str:
        return self.inner.debug_string()

    def _is_new(self, trial: Trial, result: Mapping[str, Any]) -> bool:
        return result[ITERATION] > self.journal.trials[trial.trial_id].iterations


def make_scheduler(spec: SearchSpec, shared: SharedSettings) -> TrialScheduler:
    """The scheduler that the `tune:` block asks for."""
    options = spec.options["scheduler_options"]
    common = {"time_attr": ITERATION, "metric": SCORE, "mode": spec.options["mode"]}
    match spec.options["scheduler"]:
        case "asha":
            return ASHAScheduler(**common, **options, max_t=spec.base.iterations)
        case "median_stopping":
            # Without the endless slice it would pause trials to let others catch up.
            return MedianStoppingRule(**common, **options, min_time_slice=float("inf"))
        case "pbt":
            return SynchronousPbt(spec, shared, **common, **options)
    return FIFOScheduler()


class SynchronousPbt(PopulationBasedTraining):
    """Tune's PBT in rounds: all trials reach a round, then the worst take over. So the result depends on no race."""

    def __init__(self, spec: SearchSpec, shared: SharedSettings, **options: Any) -> None:
        if lacking := [name for name in PRIVATE if not callable(getattr(PopulationBasedTraining, name, None))]:
            raise UserError(
                f"tune.scheduler: pbt: Ray {ray.__version__} has no PopulationBasedTraining.{lacking[0]}, which rounds need; "
                "take asha, or a Ray that `sharegrpo-rl doctor` says nothing about"
            )
        super().__init__(
            hyperparam_mutations={key.key: tune_domain(key) for key in spec.space},
            custom_explore_fn=self._keep_in_bounds,
            synch=True,
            require_attrs=False,
            log_config=False,
            **options,
        )
        self._space, self._shared = spec.space, shared
        self._first = 0
        self.changes: dict[str, dict[str, Any]] = {}  # of the round under way

    def begin_after(self, last_round: Mapping[str, Any]) -> None:
        """Continue after a round of an earlier process."""
        self._first, self._next_perturbation_sync = last_round[ITERATION], last_round["next"]

    @property
    def next_round(self) -> float:
        return self._next_perturbation_sync

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        super().on_trial_add(tune_controller, trial)
        self._trial_state[trial].last_perturbation_time = self._first
        self._trial_state[trial].last_train_time = self._first

    def _keep_in_bounds(self, config: dict[str, Any]) -> dict[str, Any]:
        """PBT multiplies by 0.8 and 1.2 without end; its values stay in the ranges that the file gives."""
        ranged = {key.key: on_step(key, config[key.key]) for key in self._space if key.word not in LISTS}
        return {**config, **ranged}

    def _get_new_config(self, trial: Trial, trial_to_clone: Trial) -> tuple[dict[str, Any], dict[str, Any]]:
        """The donor's values, varied; not varied where the options would contradict each other."""
        new, operations = super()._get_new_config(trial, trial_to_clone)
        try:
            self._shared.spec_of(new)
        except UserError:
            return dict(trial_to_clone.config), {key.key: None for key in self._space}
        return new, operations

    def _exploit(self, tune_controller: Any, trial: Trial, trial_to_clone: Trial) -> None:
        super()._exploit(tune_controller, trial, trial_to_clone)
        iteration = int(self._trial_state[trial_to_clone].last_train_time)
        adopt = {"donor": trial_to_clone.trial_id, ITERATION: iteration}
        trial.set_config({**trial.config, "trial": trial.trial_id, "adopt": adopt})  # PBT has copied the donor's name
        values = {key.key: trial.config[key.key] for key in self._space}
        self.changes[trial.trial_id] = {"donor": trial_to_clone.trial_id, "values": values}


def _result_event(trial: Trial, result: Mapping[str, Any], decision: str) -> dict[str, Any]:
    figures = {ITERATION: result[ITERATION], SCORE: result.get(SCORE), "completions": result["completions"]}
    return {"event": "result", "trial": trial.trial_id, **figures, "decision": decision}


def _report(event: Mapping[str, Any]) -> dict[str, Any]:
    """What the trial had reported."""
    score = {} if event[SCORE] is None else {SCORE: event[SCORE]}
    return {ITERATION: event[ITERATION], "completions": event["completions"], **score}


@contextmanager
def _seeded(*parts: str | int) -> Iterator[None]:
    """Tune's schedulers use the global generators; meanwhile these follow from the parts."""
    states = random.getstate(), np.random.get_state()
    seed = derive_seed(*parts)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
