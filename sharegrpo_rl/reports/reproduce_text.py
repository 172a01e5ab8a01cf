"""What `reproduce` prints: the tables there are, a table's plan, and our figures beside the paper's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import TYPE_CHECKING

from sharegrpo_rl.reports.paper_rows import PaperTable

if TYPE_CHECKING:
    from sharegrpo_rl.reports.reproduce import PlannedRow, ReproduceOptions

OWN = {"accuracy_before": "before training", "accuracy_after": "after"}


def index_text(tables: Mapping[str, PaperTable]) -> str:
    """All tables, a line each."""
    lines = [["table", "paper", "what it shows", "rows", "trained", "tiny twins"]]
    for name, table in tables.items():
        full, tiny = sum(r.full is not None for r in table.rows), sum(r.tiny is not None for r in table.rows)
        lines.append([name, table.paper, table.title, str(len(table.rows)), str(full), str(tiny)])
    return markdown(lines)


def plan_text(table: PaperTable, planned: Sequence[PlannedRow], tiny: bool) -> str:
    """The rows with the paper's figures, their run files, and what happens to each here."""
    figures = [f"paper: {name}" for name in table.figures]
    lines = [["", "row", *figures, "tiny twin" if tiny else "run file", "here"]]
    for p in planned:
        file = " ".join([p.recipe.file, *(f"--set {s}" for s in p.recipe.sets)]) if p.recipe else "-"
        lines.append([str(p.number), p.row.name, *_paper(p.row.paper), file, _fate(p, tiny)])
    measured = f"The paper's figures are percent by {table.measured_by}."
    return f"{table.paper}: {table.title} ({table.name})\n\n{markdown(lines)}\n\n{measured}"


def _fate(planned: PlannedRow, tiny: bool) -> str:
    if planned.obstacle:
        return planned.obstacle
    if planned.recipe:
        return "fits"
    if planned.row.base and not tiny:
        return "untrained: evaluated with --base and --benchmark"
    return "no tiny twin" if tiny and (planned.row.full or planned.row.base) else "quoted"


def result_text(
    table: PaperTable,
    planned: Sequence[PlannedRow],
    results: Mapping[str, Mapping[str, Sequence[float]]],
    options: ReproduceOptions,
    failures: Mapping[str, str],
) -> str:
    """A Markdown table: the paper's columns, then ours, each saying what it measures; then what must be known."""
    keys = list(dict.fromkeys(key for ours in results.values() for key in ours))
    keys.sort(key=lambda key: list(OWN).index(key) if key in OWN else len(OWN))
    kind = "tiny twin" if options.tiny else "our run"
    header = ["row", *(f"paper: {name}" for name in table.figures)]
    header += [f"{kind}: {OWN[key]}" if key in OWN else f"{kind}: {key}, by rules" for key in keys]
    lines = [[*header, "seeds"]]
    for p in planned:
        ours = results[p.row.name]
        seeds = max((len(values) for values in ours.values()), default=0)
        cells = [_range(ours.get(key, [])) for key in keys]
        lines.append([p.row.name, *_paper(p.row.paper), *cells, str(seeds or "-")])
    notes = [f"Paper: percent, by {table.measured_by}; copied, not measured here."]
    if options.tiny:
        notes.append(
            "Tiny twins: greedy accuracy, percent (mean, and range over seeds), of a tiny model on drawn questions. Another "
            "model, task and measure: their level says nothing about the paper's, only their order can be looked at."
        )
    else:
        notes.append(
            "Ours: greedy accuracy, percent, graded by rules: on a held-out share of the training data, and on benchmarks "
            "where given. A judge model's score is another measure."
        )
    notes += [f"{name} {why}" for name, why in failures.items()]
    return f"# {table.paper}: {table.title}\n\n{markdown(lines)}\n\n" + "\n".join(f"- {note}" for note in notes)


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table that is readable as text, too."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rows = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines]
    return "\n".join([rows[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *rows[1:]])


def _paper(values: Sequence[float | None]) -> list[str]:
    return ["-" if value is None else f"{value:.2f}".rstrip("0").rstrip(".") for value in values]


def _range(values: Sequence[float]) -> str:
    if not values:
        return "-"
    percent = [100 * value for value in values]
    spread = f" ({min(percent):.1f} to {max(percent):.1f})" if len(percent) > 1 else ""
    return f"{mean(percent):.1f}{spread}"
