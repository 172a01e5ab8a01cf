"""The report's tables as plain text cells, for HTML and Markdown alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sharegrpo_rl.reports import wording as say

Analysis = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """Rows of text; the first column names the row, the others are figures unless `text`."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    text: bool = False


def final_table(analysis: Analysis) -> Table:
    """One row a method: the metric with its intervals, before, blind."""
    level = say.confidence_text(analysis)
    share = analysis["metric"] != "gain"
    rows = []
    for m in analysis["methods"]:
        if not (final := m["final"]):
            rows.append((m["label"], "no finished run", *[say.NONE] * 6))
            continue
        rows.append(
            (
                m["label"],
                say.interval(final["seeds"], share=share, signed=not share),
                say.interval(final["other_questions"]),
                say.interval(final["interquartile_mean"], share=share),
                say.percent(final["standard_deviation"]),
                say.percent(m["accuracy_before"]),
                say.percent(m["blind"]["value"] if m["blind"] else None),
                say.seed_list(m["seeds"]),
            )
        )
    header = (
        "method",
        f"{level} over seeds",
        "other questions too",
        "interquartile mean",
        "sd of seeds",
        "before",
        "blind",
        "seeds",
    )
    note = f"Percent, {analysis['metric_meaning']}. Blind: the same questions with swapped images."
    return Table(
        "Final accuracy" if analysis["metric"].startswith("accuracy") else "Final figures", header, tuple(rows), note
    )


def pair_table(analysis: Analysis) -> Table:
    """One row a pair: difference over seeds, p-values, effect sizes."""
    rows = []
    for p in analysis["comparisons"]:
        seeds = f"{p['seeds'][0]}" if p["seeds"][0] == p["seeds"][1] else f"{p['seeds'][0]} and {p['seeds'][1]}"
        g = p["hedges_g"]
        rows.append(
            (
                f"{p['a']} minus {p['b']}",
                say.interval(p["difference"], share=False, signed=True),
                say.p_value(p["difference"]["p_value"]),
                say.p_value(p["p_corrected"]),
                f"{g:+.2f}" if say.known(g) else say.NONE,
                say.interval(p["probability_of_improvement"]),
                say.interval(p["other_questions"], share=False, signed=True),
                f"{seeds}, {'paired' if p['paired_by_seed'] else 'not paired'}",
            )
        )
    header = (
        "pair",
        "difference, points",
        "p",
        "p corrected",
        "Hedges' g",
        "probability of improvement, %",
        "other questions too",
        "seeds",
    )
    return Table("Pairs of methods", header, tuple(rows), "Over training seeds: this is the test of the methods.")


def question_table(analysis: Analysis) -> Table | None:
    """The paired test per question of these trained models."""
    rows = tuple(
        (
            f"{p['a']} minus {p['b']}",
            say.interval(p["these_models"], share=False, signed=True),
            say.p_value(p["these_models"]["p_value"]),
            say.p_value(p["p_corrected_these_models"]),
            say.percent(p["right_only"][0]),
            say.percent(p["right_only"][1]),
        )
        for p in analysis["comparisons"]
        if p["these_models"]
    )
    header = ("pair", "difference, points", "p", "p corrected", "only the first right, %", "only the second right, %")
    images = analysis["test_set"]["images"]
    note = f"Paired by question, clustered by image ({say.number(images)} images). Of these trained models, not of the methods."
    return Table("The same questions, one by one", header, rows, note) if rows else None


def wall_time_table(analysis: Analysis) -> Table | None:
    """Accuracy at the smallest final wall time."""
    wall = analysis["wall_time"]
    if not wall:
        return None
    rows = tuple((label, say.interval(estimate)) for label, estimate in wall["accuracy"].items())
    note = (
        f"Every curve is read at {wall['seconds']:,.0f} seconds of training, where the fastest run ended, on a straight line "
        "between evaluations. Seconds count only where the runs had the machine alike."
    )
    return Table("At equal wall time", ("method", "greedy accuracy, %"), rows, note)


def kind_table(analysis: Analysis) -> Table | None:
    """Before, after and blind by kind of question."""
    kinds = sorted({kind for m in analysis["methods"] for kind in m["kinds"]})
    if not kinds or kinds == [""]:
        return None
    rows = tuple(
        (m["label"], *(_before_after(m["kinds"].get(kind)) for kind in kinds))
        for m in analysis["methods"]
        if m["final"]
    )
    note = "Percent, before → after (blind after), means over seeds."
    return Table("By kind of question", ("method", *kinds), rows, note)


def _before_after(entry: Mapping[str, Any] | None) -> str:
    if not entry:
        return say.NONE
    return f"{say.percent(entry['before'])} → {say.percent(entry['after'])} ({say.percent(entry['blind'])})"


def signal_table(analysis: Analysis) -> Table:
    """The training signal and the cost, means over seeds."""
    rows = tuple(
        (
            m["label"],
            *(say.percent(m["signal"][key]) for key in ("valid_advantage_ratio", "reward_density", "solved_ratio")),
            say.number(m["cost"]["completions"]),
            say.number(m["cost"]["sampled_tokens"]),
            say.number(m["cost"]["seconds_of_training"]),
            say.number(m["cost"]["seconds_without_warm_start"]),
            say.gigabytes(m["cost"]["peak_memory_bytes"]),
        )
        for m in analysis["methods"]
        if m["final"]
    )
    header = (
        "method",
        "valid-advantage ratio, %",
        "reward density, %",
        "solved ratio, %",
        "completions",
        "tokens",
        "seconds of training",
        "seconds with evaluations",
        "peak memory, GB",
    )
    return Table("Signal and cost", header, rows, "Means over seeds; ratios are means over all iterations.")


def zero_gradient_table(analysis: Analysis) -> Table | None:
    """Share of groups that teach nothing, by kind, the hardest first."""
    rows = tuple(
        (
            label,
            e["kind"],
            say.percent(e["before"]),
            say.percent(e["all_wrong"]),
            say.percent(e["all_right"]),
            say.percent(e["all_wrong"] + e["all_right"]),
            say.number(e["groups"]),
        )
        for label, entries in analysis["zero_gradient"].items()
        for e in entries
    )
    header = ("method", "kind", "accuracy before, %", "all wrong, %", "all right, %", "no gradient, %", "groups")
    note = "Difficulty is the greedy accuracy of that kind before training; the hardest kind comes first."
    return Table("Questions without a gradient", header, rows, note) if rows else None


def run_table(analysis: Analysis) -> Table:
    """Every run: where it stopped and what it reached."""
    rows = tuple(
        (
            f"{m['label']}, seed {r['seed']}",
            "finished" if r["finished"] else "unfinished",
            f"{r['iterations']:,} of {r['planned_iterations']:,}",
            f"{r['completions']:,}",
            say.percent(r["before"]),
            say.percent(r["after"]),
            say.percent(r["blind"]),
            say.number(r["seconds"]),
        )
        for m in analysis["methods"]
        for r in m["runs"]
    )
    header = ("run", "state", "iterations", "completions", "before", "after", "blind", "seconds of training")
    return Table("Runs", header, rows)


def settings_table(analysis: Analysis) -> Table:
    """Options that differ between methods."""
    labels = [m["label"] for m in analysis["methods"] if m["runs"]]
    rows = tuple(
        (d["option"], *(_value(d["values"].get(label)) for label in labels)) for d in analysis["config_differences"]
    )
    note = "All other options are the same." if rows else "No option differs."
    return Table("Settings that differ", ("option", *labels), rows, note, text=True)


def version_table(analysis: Analysis) -> Table:
    """Versions of the packages that numbers depend on."""
    rows = tuple((name, ", ".join(found)) for name, found in analysis["versions"].items())
    mixed = any(len(found) > 1 for found in analysis["versions"].values())
    note = "Runs were made with different versions." if mixed else "The same for all runs."
    return Table("Versions", ("package", "version"), rows, note, text=True)


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "null" if value is None else str(value)


def present(*tables: Table | None) -> Sequence[Table]:
    """Those that have something to say."""
    return [table for table in tables if table is not None]
