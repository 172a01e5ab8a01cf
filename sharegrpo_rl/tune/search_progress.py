"""What a person sees while a search goes on: trials running and over, the best so far; a bar on a terminal, else lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from sharegrpo_rl.tune.progress import clock, say
from sharegrpo_rl.tune.search_file import SearchSpec
from sharegrpo_rl.tune.search_journal import FAILED, Journal, TrialRecord

if TYPE_CHECKING:
    from sharegrpo_rl.tune.search_scheduler import JournaledScheduler


def short_values(values: Mapping[str, Any]) -> str:
    """`clip_high 0.28, kl_coeff 0.01`."""
    return ", ".join(f"{key.removeprefix('config.')} {short(value)}" for key, value in values.items())


def short(value: Any) -> str:
    """A number in at most four digits, anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def best_trial(journal: Journal, mode: str) -> TrialRecord | None:
    """The trial with the best last score, of those that came to their end where some did; the earlier one of equals."""
    scored = [trial for trial in journal.trials.values() if trial.score is not None]
    candidates = [trial for trial in scored if trial.iterations >= journal.planned] or scored
    sign = 1 if mode == "max" else -1
    return max(candidates, key=lambda trial: sign * (trial.score or 0.0), default=None)


class SearchDisplay:
    """Reports starts, ends and failures of trials, and on a terminal every iteration."""

    def __init__(self, console: Console, journal: Journal, spec: SearchSpec) -> None:
        self.console, self.journal, self.spec = console, journal, spec
        self.running: set[str] = set()
        self._told: set[str] = {name for name, record in journal.trials.items() if record.is_over}
        self._last_line = time.monotonic()
        self._bar: Progress | None = None
        if console.is_terminal:
            total = spec.trials * spec.base.iterations
            self._bar = Progress(BarColumn(bar_width=24), TextColumn("{task.fields[text]}"), console=console)
            self._task = self._bar.add_task("search", total=total, text="")
            self._bar.start()

    def line(self, text: str) -> None:
        """A plain line, above the bar where there is one."""
        say(self.console, text)

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def state(self) -> str:
        """`2 running, 3 of 8 over, best evaluation/accuracy 0.612 in 0003`."""
        over = sum(record.is_over for record in self.journal.trials.values())
        best = best_trial(self.journal, self.spec.options["mode"])
        found = "" if best is None else f", best {self.spec.options['metric']} {short(best.score)} in {best.name}"
        return f"{len(self.running)} running, {over} of {self.spec.trials} over{found}"

    def started(self, name: str) -> None:
        record = self.journal.trials[name]
        again = f", goes on after iteration {record.iterations}" if record.iterations else ""
        if name not in self._told:
            self._told.add(name)
            self.line(f"trial {name} starts{again}: {short_values(record.values)}")
        self.running.add(name)
        self._refresh()

    def reported(self, name: str) -> None:
        self.running.add(name)
        record = self.journal.trials[name]
        if self._bar is None and time.monotonic() - self._last_line >= 10:
            self._last_line = time.monotonic()
            figure = "" if record.score is None else f", {self.spec.options['metric']} {short(record.score)}"
            self.line(f"trial {name} {record.iterations}/{self.journal.planned}{figure}; {self.state()}")
        self._refresh()

    def ended(self, name: str, seconds: float) -> None:
        self.running.discard(name)
        record = self.journal.trials[name]
        if record.is_over:
            self._last_line = time.monotonic()
            why = f" ({record.error})" if record.status == FAILED else ""
            figure = "no result" if record.score is None else f"{self.spec.options['metric']} {short(record.score)}"
            text = f"trial {name} {record.status} after iteration {record.iterations}: {figure}{why}"
            self.line(f"{text}; {self.state()}; {clock(seconds)}")
        self._refresh()

    def changed(self) -> None:
        """A round of pbt: who took over from whom."""
        last = self.journal.rounds[-1]
        for name, change in last["changes"].items():
            self.line(
                f"trial {name} goes on from {change['donor']} at iteration {last['iteration']}: "
                f"{short_values(change['values'])}"
            )

    def failed(self, name: str, error: str) -> None:
        self.running.discard(name)
        self.line(f"trial {name} failed ({error}) and starts again from its checkpoint")

    def _refresh(self) -> None:
        if self._bar is not None:
            records = self.journal.trials.values()
            done = sum(self.journal.planned if r.is_over else r.iterations for r in records)
            self._bar.update(self._task, completed=done, text=self.state())

    def callback(self, scheduler: JournaledScheduler, seconds: Callable[[], float]) -> Any:
        """This display as a callback of Tune's."""
        from ray.tune import Callback

        display = self

        class Report(Callback):
            rounds = len(display.journal.rounds)

            def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
                display.started(trial.trial_id)

            def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
                if len(display.journal.rounds) > self.rounds:
                    self.rounds = len(display.journal.rounds)
                    display.changed()
                display.reported(trial.trial_id)

            def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
                display.ended(trial.trial_id, seconds())

            def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
                display.ended(trial.trial_id, seconds())

            def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
                error = scheduler.why(trial.trial_id)
                scheduler.journal.append(
                    {"event": "failure", "trial": trial.trial_id, "error": error, "seconds": seconds()}
                )
                display.failed(trial.trial_id, error)

        return Report()
