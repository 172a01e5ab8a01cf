"""The tables of a comparison, from the figures of `analysis.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sharegrpo_rl.reports.pages import Table, make_table
from sharegrpo_rl.statistics.formatting import (
    NONE,
    gigabytes,
    interval,
    number,
    p_value,
    percent,
    seed_list,
    short,
)

Analysis = Mapping[str, Any]


def final_table(analysis: Analysis) -> Table:
    """One row a method: the metric with its intervals, before, blind."""
    share = analysis["metric"] != "gain"

    def final(method: Mapping[str, Any], key: str) -> Any:
        return method["final"][key] if method["final"] else None

    columns = {
        "method": lambda m: m["label"],
        f"{100 * analysis['confidence']:g} % over seeds": lambda m: (
            interval(final(m, "seeds"), share=share, signed=not share) if m["final"] else "no finished run"
        ),
        "other questions too": lambda m: interval(final(m, "other_questions")),
        "interquartile mean": lambda m: interval(final(m, "interquartile_mean"), share=share),
        "sd of seeds": lambda m: percent(final(m, "standard_deviation")),
        "before": lambda m: percent(m["accuracy_before"]),
        "blind": lambda m: percent(m["blind"]["value"] if m["blind"] else None),
        "seeds": lambda m: seed_list(m["seeds"]),
    }
    title = "Final accuracy" if analysis["metric"].startswith("accuracy") else "Final figures"
    note = f"Percent, {analysis['metric_meaning']}. Blind: the same questions with swapped images."
    return make_table(title, columns, analysis["methods"], note)


def pair_table(analysis: Analysis) -> Table | None:
    """One row a pair: difference over seeds, p-values, effect sizes."""
    columns = {
        "pair": _pair_name,
        "difference, points": lambda p: interval(p["difference"], share=False, signed=True),
        "p": lambda p: p_value(p["difference"]["p_value"]),
        "p corrected": lambda p: p_value(p["p_corrected"]),
        "Hedges' g": lambda p: number(p["hedges_g"], "+.2f"),
        "probability of improvement, %": lambda p: interval(p["probability_of_improvement"]),
        "other questions too": lambda p: interval(p["other_questions"], share=False, signed=True),
        "seeds": lambda p: (
            f"{' and '.join(dict.fromkeys(map(str, p['seeds'])))}, {'paired' if p['paired_by_seed'] else 'not paired'}"
        ),
    }
    note = "Over training seeds: this is the test of the methods."
    return _unless_empty(make_table("Pairs of methods", columns, analysis["comparisons"], note))


def question_table(analysis: Analysis) -> Table | None:
    """The paired test per question of these trained models."""
    columns = {
        "pair": _pair_name,
        "difference, points": lambda p: interval(p["these_models"], share=False, signed=True),
        "p": lambda p: p_value(p["these_models"]["p_value"]),
        "p corrected": lambda p: p_value(p["p_corrected_these_models"]),
        "only the first right, %": lambda p: percent(p["right_only"][0]),
        "only the second right, %": lambda p: percent(p["right_only"][1]),
    }
    note = (
        f"Paired by question, clustered by image ({number(analysis['test_set']['images'])} images). Of these trained "
        "models, not of the methods."
    )
    pairs = [p for p in analysis["comparisons"] if p["these_models"]]
    return _unless_empty(make_table("The same questions, one by one", columns, pairs, note))


def wall_time_table(analysis: Analysis) -> Table | None:
    """Accuracy at the smallest final wall time."""
    wall = analysis["wall_time"]
    if not wall:
        return None
    columns = {"method": lambda item: item[0], "greedy accuracy, %": lambda item: interval(item[1])}
    note = (
        f"Every curve is read at {number(wall['seconds'])} seconds of training, where the fastest run ended, on a straight "
        "line between evaluations. Seconds count only where the runs had the machine alike."
    )
    return make_table("At equal wall time", columns, list(wall["accuracy"].items()), note)


def kind_table(analysis: Analysis) -> Table | None:
    """Before, after and blind: one row a kind of question, as there may be many."""
    kinds = sorted({kind for m in analysis["methods"] for kind in m["kinds"]})
    if not kinds or kinds == [""]:
        return None
    columns = {"kind": lambda kind: kind or "(unnamed)"}
    columns |= {m["label"]: lambda kind, m=m: _before_after(m["kinds"].get(kind)) for m in _finished(analysis)}
    note = "Percent, before → after (blind after), means over seeds."
    return make_table("By kind of question", columns, kinds, note)


def signal_table(analysis: Analysis) -> Table:
    """The training signal and the cost, means over seeds."""
    columns = {
        "method": lambda m: m["label"],
        "valid-advantage ratio, %": lambda m: percent(m["signal"]["valid_advantage_ratio"]),
        "reward density, %": lambda m: percent(m["signal"]["reward_density"]),
        "solved ratio, %": lambda m: percent(m["signal"]["solved_ratio"]),
        "completions": lambda m: number(m["cost"]["completions"]),
        "tokens": lambda m: number(m["cost"]["sampled_tokens"]),
        "seconds of training": lambda m: number(m["cost"]["seconds_of_training"]),
        "seconds with evaluations": lambda m: number(m["cost"]["seconds_without_warm_start"]),
        "peak memory, GB": lambda m: gigabytes(m["cost"]["peak_memory_bytes"]),
    }
    note = "Means over seeds; ratios are means over all iterations."
    return make_table("Signal and cost", columns, _finished(analysis), note)


def zero_gradient_table(analysis: Analysis) -> Table | None:
    """Share of groups that teach nothing, by kind, the hardest first."""
    entries = [{"method": label, **e} for label, kinds in analysis["zero_gradient"].items() for e in kinds]
    columns = {
        "method": lambda e: e["method"],
        "kind": lambda e: e["kind"],
        "accuracy before, %": lambda e: percent(e["before"]),
        "all wrong, %": lambda e: percent(e["all_wrong"]),
        "all right, %": lambda e: percent(e["all_right"]),
        "no gradient, %": lambda e: percent(e["all_wrong"] + e["all_right"]),
        "groups": lambda e: number(e["groups"]),
    }
    note = "Difficulty is the greedy accuracy of that kind before training; the hardest kind comes first."
    return _unless_empty(make_table("Questions without a gradient", columns, entries, note))


def run_table(analysis: Analysis) -> Table:
    """Every run: where it stopped and what it reached."""
    runs = [{"method": m["label"], **run} for m in analysis["methods"] for run in m["runs"]]
    columns = {
        "run": lambda r: f"{r['method']}, seed {r['seed']}",
        "state": lambda r: "finished" if r["finished"] else "unfinished",
        "iterations": lambda r: f"{number(r['iterations'])} of {number(r['planned_iterations'])}",
        "completions": lambda r: number(r["completions"]),
        "before": lambda r: percent(r["before"]),
        "after": lambda r: percent(r["after"]),
        "blind": lambda r: percent(r["blind"]),
        "seconds of training": lambda r: number(r["seconds"]),
    }
    return make_table("Runs", columns, runs)


def settings_table(analysis: Analysis) -> Table:
    """Options that differ between methods."""
    differences = analysis["config_differences"]
    columns = {"option": lambda d: d["option"]}
    labels = [m["label"] for m in analysis["methods"] if m["runs"]]
    columns |= {label: lambda d, label=label: _setting(d["values"][label]) for label in labels}
    note = "All other options are the same." if differences else "No option differs."
    return make_table("Settings that differ", columns, differences, note, text=True)


def version_table(analysis: Analysis) -> Table:
    """Versions of the packages that numbers depend on."""
    columns = {"package": lambda item: item[0], "version": lambda item: ", ".join(item[1])}
    mixed = any(len(each) > 1 for each in analysis["versions"].values())
    note = "Runs were made with different versions." if mixed else "The same for all runs."
    return make_table("Versions", columns, list(analysis["versions"].items()), note, text=True)


def _setting(value: Any) -> str:
    return "null" if value is None else short(value, 6)


def _pair_name(pair: Mapping[str, Any]) -> str:
    return f"{pair['a']} minus {pair['b']}"


def _before_after(entry: Mapping[str, Any] | None) -> str:
    if not entry:
        return NONE
    return f"{percent(entry['before'])} → {percent(entry['after'])} ({percent(entry['blind'])})"


def _finished(analysis: Analysis) -> list[Mapping[str, Any]]:
    return [m for m in analysis["methods"] if m["final"]]


def _unless_empty(table: Table) -> Table | None:
    return table if table.rows else None
