"""Ray Tune's schedulers behind a journal: every decision is on disk before it takes effect, and chance comes from the seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from ray import tune
from ray.tune import Stopper
from ray.tune.experiment import Trial
from ray.tune.schedulers import (
    ASHAScheduler,
    FIFOScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    TrialScheduler,
)

from sharegrpo_rl.data.seeding import derive_seed
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.tune.search_draw import on_step
from sharegrpo_rl.tune.search_file import SearchSpec
from sharegrpo_rl.tune.search_journal import FAILED, FINISHED, STOPPED, Journal
from sharegrpo_rl.tune.search_space import LISTS, SearchKey
from sharegrpo_rl.tune.search_trial import TrialPlan

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
