"""`summary.json` and the closing table: before and after, by kind of question, and the training signal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from sharegrpo_rl.tune.result_log import ResultLog
from sharegrpo_rl.tune.run_file import RunSpec


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
    tokens = results.total("env_runners", "sampled_tokens")
    training_seconds = results.total("iteration_seconds")
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
        "completions": int(results.total("env_runners", "num_completions")),
        "sampled_tokens": int(tokens),
        "tokens_per_second": tokens / training_seconds if training_seconds else None,
        "peak_memory_bytes": results.highest("peak_memory_bytes"),
        "peak_gpu_memory_bytes": results.highest("peak_gpu_memory_bytes"),
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
