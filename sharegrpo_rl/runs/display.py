"""`summary.json` and the closing table: before and after, by kind of question, and the training signal."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from sharegrpo_rl.runs.journal import ResultLog
from sharegrpo_rl.runs.run_file import RunSpec

# ---- How much memory this process has needed at most, and how much there is.


def peak_memory() -> dict[str, int]:
    """Bytes at the highest point so far: `peak_memory_bytes` of the host, `peak_gpu_memory_bytes` where a GPU was used."""
    unit = 1 if sys.platform == "darwin" else 1024  # Linux counts in KiB
    found = {"peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        found["peak_gpu_memory_bytes"] = int(torch.cuda.max_memory_allocated())
    return found


def machine_memory() -> float:
    """Bytes of the first GPU, of the host where there is none."""
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.get_device_properties(0).total_memory)
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


# ---- What a person sees while a run goes on: a live bar on a terminal, plain lines elsewhere.


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
        "accuracy_by_kind": _by("by_kind", first, after, blind),
        "accuracy_by_task": _by("by_task", first, after, blind),
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


def _by(part: str, first: Mapping[str, Any], after: Mapping[str, Any], blind: Mapping[str, Any]) -> dict[str, Any]:
    """Before, after and blind for each kind (`by_kind`) or task (`by_task`)."""

    def accuracy(report: Mapping[str, Any], name: str) -> float | None:
        return report.get(part, {}).get(name, {}).get("accuracy")

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
        numbers = [_percent(entry[key]) for key in ("before", "after", "blind")]
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
    parts += [f"{label} {summary[key]:.3f}" for key, label in names.items() if summary[key] is not None]
    parts.append(f"format rate {_percent(summary['format_rate_before'])} -> {_percent(summary['format_rate_after'])}")
    if summary["tokens_per_second"]:
        parts.append(f"{summary['tokens_per_second']:,.0f} sampled tokens a second")
    return "; ".join(parts)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
