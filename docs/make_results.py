"""Markdown tables from finished runs: `uv run python docs/make_results.py RUN_FOLDER ...`, one row a run and one a method.

Runs are grouped by algorithm, environment data and control; means carry the spread over seeds (smallest to largest).
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

Summary = dict[str, Any]


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def spread(values: list[float], scale: float = 100) -> str:
    """Mean and range."""
    return f"{scale * mean(values):.1f} ({scale * min(values):.1f} to {scale * max(values):.1f})"


def method(folder: Path, summary: Summary) -> str:
    """What distinguishes a run's group: the algorithm, and the control where there is one."""
    params = (folder / "params.json").read_text()
    return f"{summary['algorithm']}, shuffled rewards" if '"shuffle_rewards": true' in params else summary["algorithm"]


def accuracy_table(groups: dict[str, list[Summary]]) -> str:
    lines = [
        "| method | seed | before | after | gain | blind | format before | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, runs in groups.items():
        for s in sorted(runs, key=lambda s: s["seed"]):
            gain = s["accuracy_after"] - s["accuracy_before"]
            cells = [
                s["accuracy_before"],
                s["accuracy_after"],
                gain,
                s["blind_accuracy_after"],
                s["format_rate_before"],
            ]
            lines.append(f"| {name} | {s['seed']} | " + " | ".join(map(percent, cells)) + f" | {s['seconds']:.0f} |")
        gains = [s["accuracy_after"] - s["accuracy_before"] for s in runs]
        columns = [[s[k] for s in runs] for k in ("accuracy_before", "accuracy_after")]
        cells = [*columns, gains, [s["blind_accuracy_after"] for s in runs], [s["format_rate_before"] for s in runs]]
        seconds = spread([s["seconds"] for s in runs], 1)
        lines.append(f"| **{name}** | mean | " + " | ".join(f"**{spread(c)}**" for c in cells) + f" | {seconds} |")
    return "\n".join(lines)


def signal_table(groups: dict[str, list[Summary]]) -> str:
    lines = [
        "| method | completions | valid-advantage ratio | reward density | solved ratio |",
        "|---|---|---|---|---|",
    ]
    for name, runs in groups.items():
        cells = [spread([s[k] for s in runs]) for k in ("valid_advantage_ratio", "reward_density", "solved_ratio")]
        lines.append(f"| {name} | {runs[0]['completions']:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def kind_table(groups: dict[str, list[Summary]]) -> str:
    """Accuracy by kind of question, before -> after (blind), means over seeds."""
    kinds = sorted({kind for runs in groups.values() for s in runs for kind in s["accuracy_by_kind"]})
    lines = ["| method | " + " | ".join(kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
    for name, runs in groups.items():
        cells = []
        for kind in kinds:
            figures = [mean(s["accuracy_by_kind"][kind][when] for s in runs) for when in ("before", "after", "blind")]
            cells.append(f"{percent(figures[0])} -> {percent(figures[1])} ({percent(figures[2])})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(folders: list[str]) -> None:
    groups: dict[str, list[Summary]] = defaultdict(list)
    for folder in map(Path, folders):
        summary = json.loads((folder / "summary.json").read_text())
        groups[method(folder, summary)].append(summary)
    for table in (accuracy_table, kind_table, signal_table):
        print(table(groups), end="\n\n")


if __name__ == "__main__":
    main(sys.argv[1:])
