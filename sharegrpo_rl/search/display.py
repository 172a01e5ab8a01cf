"""What a person sees while a search runs: trials running and over, the best so far; a bar on a terminal, else lines."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ray.tune import Callback
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from sharegrpo_rl.runs.display import say
from sharegrpo_rl.search.file import SearchSpec
from sharegrpo_rl.search.journal import FAILED, Journal
from sharegrpo_rl.search.results import best_trial
from sharegrpo_rl.statistics.formatting import clock, short

_SECONDS_BETWEEN_LINES = 10


class SearchDisplay(Callback):
    """Reports starts, ends and failures of trials as Tune announces them, and on a terminal every iteration."""

    def __init__(self, console: Console, journal: Journal, spec: SearchSpec) -> None:
        self.console, self.journal, self.spec = console, journal, spec
        self._running: set[str] = set()
        self._announced = {name for name, record in journal.trials.items() if record.is_over}
        self._rounds = len(journal.rounds)
        self._last_line = time.monotonic()
        self._bar: Progress | None = None
        if console.is_terminal:
            total = spec.trials * spec.base.iterations
            self._bar = Progress(BarColumn(bar_width=24), TextColumn("{task.fields[text]}"), console=console)
            self._task = self._bar.add_task("search", total=total, text="")
            self._bar.start()

    def line(self, text: str) -> None:
        """A plain line, above the bar where there is one."""
        self._last_line = time.monotonic()
        say(self.console, text)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    # Tune's hooks

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        name, record = trial.trial_id, self.journal.trials[trial.trial_id]
        if name not in self._announced:
            self._announced.add(name)
            resumed = f", continues after iteration {record.iterations}" if record.iterations else ""
            self.line(f"trial {name} starts{resumed}: {_short_values(record.values)}")
        self._running.add(name)
        self._refresh()

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        name, record = trial.trial_id, self.journal.trials[trial.trial_id]
        for finished_round in self.journal.rounds[self._rounds :]:
            for taker, change in finished_round["changes"].items():
                self.line(
                    f"trial {taker} continues from {change['donor']} at iteration {finished_round['iteration']}: "
                    f"{_short_values(change['values'])}"
                )
        self._rounds = len(self.journal.rounds)
        self._running.add(name)
        if self._bar is None and time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            score = "" if record.score is None else f", {self.spec.options['metric']} {short(record.score)}"
            self.line(f"trial {name} {record.iterations}/{self.journal.planned}{score}; {self._state()}")
        self._refresh()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        name, record = trial.trial_id, self.journal.trials[trial.trial_id]
        self._running.discard(name)
        if record.is_over:
            why = f" ({record.error})" if record.status == FAILED else ""
            score = "no result" if record.score is None else f"{self.spec.options['metric']} {short(record.score)}"
            text = f"trial {name} {record.status} after iteration {record.iterations}: {score}{why}"
            self.line(f"{text}; {self._state()}; {clock(self.journal.elapsed())}")
        self._refresh()

    on_trial_error = on_trial_complete

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        name, error = trial.trial_id, self.journal.last_error(trial.trial_id)
        self.journal.append({"event": "failure", "trial": name, "error": error})
        self._running.discard(name)
        self.line(f"trial {name} failed ({error}) and starts again from its checkpoint")

    def _state(self) -> str:
        """`2 running, 3 of 8 over, best evaluation/accuracy 0.612 in 0003`."""
        best = best_trial(self.journal, self.spec.options["mode"])
        best_text = "" if best is None else f", best {self.spec.options['metric']} {short(best.score)} in {best.name}"
        return f"{len(self._running)} running, {self.journal.trials_over} of {self.spec.trials} over{best_text}"

    def _refresh(self) -> None:
        if self._bar is not None:
            records = self.journal.trials.values()
            done = sum(self.journal.planned if record.is_over else record.iterations for record in records)
            self._bar.update(self._task, completed=done, text=self._state())


def _short_values(values: Mapping[str, Any]) -> str:
    """`clip_high 0.28, kl_coeff 0.01`."""
    return ", ".join(f"{key.removeprefix('config.')} {short(value)}" for key, value in values.items())
