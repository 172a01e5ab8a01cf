"""What a run shows: a live bar or plain lines while it trains, `summary.json` and a closing table at its end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from sharegrpo_rl.runs.journal import ResultLog
from sharegrpo_rl.runs.run_file import RunSpec
from sharegrpo_rl.statistics.formatting import clock, number, percent_sign


def say(console: Console, text: str) -> None:
    """Print a line without markup; a reader that went away (`| head`) does not end the run."""
    with suppress(BrokenPipeError):
        console.print(text, markup=False, highlight=False, soft_wrap=True)


class Display:
    """Reports iterations: number, reward, accuracy, valid-advantage ratio, tokens a second, time left."""

    def __init__(self, console: Console, iterations: int, done: int) -> None:
        self._console, self._iterations, self._first = console, iterations, done
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
            say(self._console, f"iteration {iteration}/{self._iterations}  {text}")

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def describe(result: Mapping[str, Any]) -> str:
    """The few numbers of an iteration to watch: of supervised training its loss, else rewards and their signal."""

    def shown(form: str, *path: str) -> str:
        value: Any = result
        for key in path:
            value = value.get(key, {})
        return number(value, form)

    if "taught_tokens_per_second" in result:
        parts = [f"loss {shown('.4f', 'learners', 'default_policy', 'policy_loss')}"]
        parts.append(f"{shown(',.0f', 'taught_tokens_per_second')} tok/s")
    else:
        parts = [
            f"reward {shown('.3f', 'env_runners', 'reward_mean')}",
            f"accuracy {shown('.3f', 'env_runners', 'accuracy')}",
            f"valid {shown('.2f', 'groups', 'valid_advantage_ratio')}",
            f"{shown(',.0f', 'tokens_per_second')} tok/s",
        ]
    if (accuracy := result.get("evaluation", {}).get("accuracy")) is not None:
        parts.append(f"greedy {accuracy:.3f}")
    return "  ".join(parts)


def build_summary(
    spec: RunSpec,
    seed: int,
    results: ResultLog,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    blind: Mapping[str, Any],
    seconds: float,
) -> dict[str, Any]:
    """The figures of a finished run; ratios are means over all iterations, completions are unique sampled ones."""
    tokens = sum(results.values("env_runners", "sampled_tokens"))
    training_seconds = sum(results.values("iteration_seconds"))
    first = before["evaluation"]
    return {
        "algorithm": spec.run,
        "env": spec.env,
        "seed": seed,
        "iterations": len(results),
        "seconds": seconds,
        "seconds_without_warm_start": seconds - before["warm_start_seconds"],
        "seconds_of_training": training_seconds,
        "accuracy_before": first["accuracy"],
        "accuracy_after": after["accuracy"],
        "gain": after["accuracy"] - first["accuracy"],
        "confidence_interval_after": after["confidence_interval"],
        "blind_accuracy_after": blind["accuracy"],
        "accuracy_by_kind": _before_and_after("by_kind", first, after, blind),
        "accuracy_by_task": _before_and_after("by_task", first, after, blind),
        "format_rate_before": first["format_rate"],
        "format_rate_after": after["format_rate"],
        "test_questions": after["questions"],
        "extractor": after["extractor"],
        "valid_advantage_ratio": results.mean("groups", "valid_advantage_ratio"),
        "reward_density": results.mean("groups", "reward_density"),
        "solved_ratio": results.mean("groups", "solved_ratio"),
        "completions": int(sum(results.values("env_runners", "num_completions"))),
        "sampled_tokens": int(tokens),
        "tokens_per_second": tokens / training_seconds if training_seconds else None,
        "peak_memory_bytes": max(results.values("peak_memory_bytes"), default=None),
        "peak_gpu_memory_bytes": max(results.values("peak_gpu_memory_bytes"), default=None),
        "warm_start": before["warm_start"],
    }


def _before_and_after(
    part: str, first: Mapping[str, Any], after: Mapping[str, Any], blind: Mapping[str, Any]
) -> dict[str, Any]:
    """Before, after and blind for each kind (`by_kind`) or task (`by_task`)."""

    def accuracy(report: Mapping[str, Any], name: str) -> float | None:
        found: float | None = report.get(part, {}).get(name, {}).get("accuracy")
        return found

    return {
        name: {
            "questions": entry["questions"],
            "before": accuracy(first, name),
            "after": entry["accuracy"],
            "blind": accuracy(blind, name),
        }
        for name, entry in after[part].items()
    }


def closing_table(summary: Mapping[str, Any]) -> Table:
    """Greedy accuracy before, after and blind: all test questions, then each task where there are several, then each kind."""
    table = Table(title=f"{summary['algorithm']} on {summary['env']}, seed {summary['seed']}", title_justify="left")
    table.add_column("greedy accuracy")
    for heading in ("questions", "before", "after", "blind"):
        table.add_column(heading, justify="right")
    entries = {
        "all": {
            "questions": summary["test_questions"],
            "before": summary["accuracy_before"],
            "after": summary["accuracy_after"],
            "blind": summary["blind_accuracy_after"],
        }
    }
    entries |= summary["accuracy_by_task"]
    kinds = summary["accuracy_by_kind"]
    if len(kinds) > 1 or "" not in kinds:
        entries |= {kind or "(unnamed)": entry for kind, entry in kinds.items()}
    for name, entry in entries.items():
        numbers = [percent_sign(entry[key]) for key in ("before", "after", "blind")]
        table.add_row(name, str(entry["questions"]), *numbers)
    return table


def signal_line(summary: Mapping[str, Any]) -> str:
    """One line on the training signal and the cost."""
    parts = [f"{summary['completions']:,} completions in {summary['iterations']} iterations"]
    names = {
        "valid_advantage_ratio": "valid-advantage ratio",
        "reward_density": "reward density",
        "solved_ratio": "solved ratio",
    }
    parts += [f"{label} {number(summary[key], '.3f')}" for key, label in names.items() if summary[key] is not None]
    parts.append(
        f"format rate {percent_sign(summary['format_rate_before'])} -> {percent_sign(summary['format_rate_after'])}"
    )
    if summary["tokens_per_second"]:
        parts.append(f"{summary['tokens_per_second']:,.0f} sampled tokens a second")
    return "; ".join(parts)
