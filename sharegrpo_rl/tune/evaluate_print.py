"""What `evaluate` prints: one JSON object, or short tables."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from sharegrpo_rl.tune.result_log import as_json


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object on one line."""
    sys.stdout.write(json.dumps(as_json(value), allow_nan=False) + "\n")


def print_result(result: Mapping[str, Any]) -> None:
    """Accuracy, its breakdowns, what samples say, the benchmark's own metric, and other tools' scores apart."""
    low, high = result["confidence_interval"]
    table = Table(show_header=False, box=None, padding=(0, 2))
    table.add_row("accuracy", f"{result['accuracy']:.4f}  (95 % interval {low:.4f} to {high:.4f})")
    if "clustered" in result["interval_method"]:
        table.add_row("interval", result["interval_method"])
    for name in ("questions", "format_rate", "truncated_rate", "mean_length", "extractor"):
        table.add_row(name.replace("_", " "), _shown(result[name]))
    for task, entry in result["by_task"].items():
        table.add_row(f"  {task}", _cell(entry))
    if len(result["by_kind"]) > 1:
        for kind, entry in result["by_kind"].items():
            table.add_row(f"  {kind or '(unnamed)'}", _cell(entry))
    for name, values in result.get("by_category", {}).items():
        if 1 < len(values) <= 40 and values != result["by_kind"]:
            table.add_row(f"by {name}", "")
            for value, entry in values.items():
                table.add_row(f"  {value}", _cell(entry))
    console = Console()
    console.print(table)
    if sampling := result.get("sampling"):
        console.print(_sampling_table(sampling, result["protocol"]["decoding"]["sampled"]["temperature"]))
    for name, figures in result.get("metrics", {}).items():
        console.print(_nested_table(f"{name}, rule-based", figures))
    for scores in result.get("external_scores", []):
        console.print(_nested_table(f"{scores['tool']}'s own scores, from {scores['file']}", scores["scores"]))


def print_comparison(found: Mapping[str, Any]) -> None:
    """The difference with its interval, and the counts of agreement."""
    low, high = found["confidence_interval"]
    table = Table(show_header=False, box=None, padding=(0, 2))
    for side in ("a", "b"):
        table.add_row(f"accuracy of {side.upper()}", f"{found[f'accuracy_{side}']:.4f}  {found[side]['model']}")
    table.add_row("A - B", f"{found['difference']:+.4f}  (95 % interval {low:+.4f} to {high:+.4f})")
    table.add_row("only A right", str(found["only_a_right"]))
    table.add_row("only B right", str(found["only_b_right"]))
    table.add_row("both right, both wrong", f"{found['both_right']}, {found['both_wrong']}")
    table.add_row("p-value", f"{found['p_value']:.4g}  ({found['test']})")
    table.add_row("questions", f"{found['questions']} in {found['clusters']} clusters of shared images")
    for key, (one, other) in found["protocol_differences"].items():
        table.add_row("protocols differ", f"{key}: {one!r} and {other!r}"[:200])
    Console().print(table)


def _sampling_table(sampling: Mapping[str, Any], temperature: float) -> Table:
    title = f"{sampling['samples']} samples at temperature {temperature:g}"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2))
    for heading in ("k", "pass@k", "mean@k", "majority@k"):
        table.add_column(heading)
    for k in sampling["pass@k"]:
        cells = [sampling[name][k] for name in ("pass@k", "mean@k", "majority@k")]
        table.add_row(k, *(f"{c['value']:.4f} ({_interval(c)})" for c in cells))
    return table


def _nested_table(title: str, figures: Mapping[str, Any]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2))
    for name, value in figures.items():
        shown = ", ".join(f"{k} {_shown(v)}" for k, v in value.items()) if isinstance(value, Mapping) else _shown(value)
        table.add_row(f"  {name}", shown)
    return table


def _interval(cell: Mapping[str, Any]) -> str:
    return "{:.3f} to {:.3f}".format(*cell["confidence_interval"])


def _cell(entry: Mapping[str, Any]) -> str:
    return f"{entry['accuracy']:.4f}  of {entry['questions']}"


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{k} {_shown(v)}" for k, v in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)
