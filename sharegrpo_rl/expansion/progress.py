"""How far the questions are, on standard error: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 10.0


class QuestionCounter:
    """Told of each question that is done, with how many variants were kept and rejected of it."""

    def __init__(self, console: Console, total: int, bar: Progress | None) -> None:
        self._console, self._bar, self._total = console, bar, total
        self._task = bar.add_task("expand", total=total, text="") if bar else None
        self._done = self._kept = self._rejected = 0
        self._last = time.monotonic()

    def done(self, kept: int, rejected: int) -> None:
        """One question more."""
        self._done, self._kept, self._rejected = self._done + 1, self._kept + kept, self._rejected + rejected
        text = f"{self._kept} kept, {self._rejected} rejected"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._done, text=text)
        elif time.monotonic() - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            self._console.print(f"{self._done} of {self._total} questions, {text}", highlight=False, soft_wrap=True)


@contextmanager
def counting(console: Console, total: int) -> Iterator[QuestionCounter]:
    """A counter of `total` questions; the bar goes away at the end."""
    if not console.is_terminal:
        yield QuestionCounter(console, total, None)
        return
    columns = (MofNCompleteColumn(), BarColumn(bar_width=24), TextColumn("{task.fields[text]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        yield QuestionCounter(console, total, bar)
