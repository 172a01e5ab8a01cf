"""What a person sees while a run goes on: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn


def say(console: Console, text: str) -> None:
    """A line as it is; a reader that went away ends nothing."""
    with suppress(BrokenPipeError):
        console.print(text, markup=False, highlight=False, soft_wrap=True)


class Display:
    """Reports iterations: number, reward, accuracy, valid-advantage ratio, tokens a second, time left."""

    def __init__(self, console: Console, iterations: int, done: int) -> None:
        self._console = console
        self._iterations = iterations
        self._first = done
        self._started = time.monotonic()
        self._last_line = float("-inf")
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[text]}"),
                console=console,
            )
            self._task = self._bar.add_task("train", total=iterations, completed=done, text="")
            self._bar.start()

    def update(self, result: Mapping[str, Any]) -> None:
        """Show one iteration; plain lines come at most once a second, the first and the last always."""
        iteration = int(result["training_iteration"])
        text = describe(result)
        now = time.monotonic()
        left = (now - self._started) / max(1, iteration - self._first) * (self._iterations - iteration)
        text += f"  {clock(left)} left"
        if self._bar is not None:
            self._bar.update(self._task, completed=iteration, text=text)
        elif now - self._last_line >= 1 or iteration == self._iterations:
            self._last_line = now
            self.line(f"iteration {iteration}/{self._iterations}  {text}")

    def line(self, text: str) -> None:
        """A plain line, above the bar where there is one."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def describe(result: Mapping[str, Any]) -> str:
    """The few numbers of an iteration that are watched."""
    runners, groups = result.get("env_runners", {}), result.get("groups", {})
    if "taught_tokens_per_second" in result:
        update = result.get("learners", {}).get("default_policy", {})
        parts = [f"loss {_number(update.get('policy_loss'), '.4f')}"]
        parts.append(f"{_number(result.get('taught_tokens_per_second'), ',.0f')} tok/s")
        return "  ".join(parts + _evaluated(result))
    parts = [
        f"reward {_number(runners.get('reward_mean'), '.3f')}",
        f"accuracy {_number(runners.get('accuracy'), '.3f')}",
        f"valid {_number(groups.get('valid_advantage_ratio'), '.2f')}",
        f"{_number(result.get('tokens_per_second'), ',.0f')} tok/s",
    ]
    return "  ".join(parts + _evaluated(result))


def _evaluated(result: Mapping[str, Any]) -> list[str]:
    accuracy = result.get("evaluation", {}).get("accuracy")
    return [] if accuracy is None else [f"greedy {accuracy:.3f}"]


def _number(value: Any, form: str) -> str:
    return format(value, form) if isinstance(value, int | float) else "-"


def clock(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
