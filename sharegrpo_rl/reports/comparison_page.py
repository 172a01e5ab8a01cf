"""The report of a comparison: report.json, report.md, report.html and pictures, all from the same figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

from sharegrpo_rl.files import as_json, storage_errors, write_atomically
from sharegrpo_rl.reports import tables
from sharegrpo_rl.reports.analysis import analyse, check_methods
from sharegrpo_rl.reports.examples import (
    DISAGREEMENT_RULE,
    SAMPLE_RULE,
    disagreements,
    question_images,
    sample_answers,
)
from sharegrpo_rl.reports.methods import Method
from sharegrpo_rl.reports.options import Settings
from sharegrpo_rl.reports.pages import Table, data_uri, render
from sharegrpo_rl.reports.plots import draw_all
from sharegrpo_rl.statistics.formatting import interval, is_known, number, p_value, seed_list, span

Analysis = Mapping[str, Any]
SEEDS_WORTH_NAMING = 100  # nobody trains more to show a difference


def write_report(methods: Sequence[Method], settings: Settings, out: Path, command: str = "") -> dict[str, Any]:
    """Check, analyse, draw, write; returns the content of report.json. UserError where there is nothing to compare.

    `command` makes the report again; it is shown verbatim.
    """
    with storage_errors(out):
        report, content = make_report(methods, settings, out, command)
        write_atomically(out / "report.json", json.dumps(report, indent=2, allow_nan=False) + "\n")
        write_atomically(out / "report.md", render("comparison.md", **content))
        write_atomically(out / "report.html", render("comparison.html", **content))
    return report


def make_report(
    methods: Sequence[Method], settings: Settings, folder: Path, command: str = ""
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The content of report.json, and of the pages; the pictures are drawn into `folder`, and nothing else is written."""
    check_methods(methods, settings.metric, settings.confidence)
    analysis = analyse(methods, settings)
    shown = [m for m in methods if m.runs]
    samples = sample_answers(shown)
    differing = disagreements(shown, analysis["comparisons"])
    examples = [*samples, *(e for d in differing for e in (*d.only_a, *d.only_b))]
    finished = next(run for m in methods for run in m.finished)
    images, problem = question_images(finished, list(dict.fromkeys(e.question_id for e in examples)))
    notes = method_notes(analysis) + ([problem] if problem else [])
    pictures = draw_all(shown, analysis, folder)
    report: dict[str, Any] = as_json(
        {
            "title": make_title(methods, analysis),
            "partial": bool(partial_notes(analysis)),
            "partial_notes": partial_notes(analysis),
            "verdict": verdict(analysis),
            "findings": findings(analysis),
            "stopped": stop_notes(analysis),
            **analysis,
            "pictures": [vars(p) for p in pictures],
            "sample_rule": SAMPLE_RULE,
            "disagreement_rule": DISAGREEMENT_RULE,
            "disagreements": [
                {
                    "a": d.a,
                    "b": d.b,
                    "only_a": [e.question_id for e in d.only_a],
                    "only_b": [e.question_id for e in d.only_b],
                }
                for d in differing
            ],
            "notes": notes,
            "command": command,
        }
    )
    content = report | {
        "test_facts": _facts(analysis),
        "tables": _tables(analysis),
        "samples": samples,
        "disagreements": differing,
        "images": images,
        "pictures": [{**vars(p), "source": data_uri((folder / p.name).read_bytes(), "png")} for p in pictures],
        "progress": None,
    }
    return report, content


def _tables(analysis: Analysis) -> dict[str, Table | None]:
    return {
        "final": tables.final_table(analysis),
        "pairs": tables.pair_table(analysis),
        "questions": tables.question_table(analysis),
        "wall_time": tables.wall_time_table(analysis),
        "kinds": tables.kind_table(analysis),
        "signal": tables.signal_table(analysis),
        "zero_gradient": tables.zero_gradient_table(analysis),
        "runs": tables.run_table(analysis),
        "settings": tables.settings_table(analysis),
        "versions": tables.version_table(analysis),
    }


def _facts(analysis: Analysis) -> dict[str, Any]:
    """The top of the page; None is left out."""
    test_set = analysis["test_set"]
    return {
        "environment": test_set["env"],
        "data": test_set["data"],
        "test questions": number(test_set["questions"]),
        "images": number(test_set["images"]) if test_set["images"] else None,
        "answers read as": test_set["extractor"],
        "confidence": _confidence(analysis),
    }


def make_title(methods: Sequence[Method], analysis: Analysis) -> str:
    """`Share-GRPO and GRPO on DrawnShapes-v0`."""
    *names, last = [m.label for m in methods if m.control_of is None]
    data = analysis["test_set"]["data"]
    where = Path(data).name if isinstance(data, str) else analysis["test_set"]["env"]
    return f"{', '.join(names)} and {last} on {where}" if names else f"{last} on {where}"


def verdict(analysis: Analysis) -> list[str]:
    """Three sentences: who is ahead of whom, how much was spent on it and tested, what it cost and how far it holds."""
    ranked = sorted(
        (m for m in analysis["methods"] if m["final"] and m["final"]["seeds"] and m["control_of"] is None),
        key=lambda m: -m["final"]["seeds"]["value"],
    )
    pair = _pair_of(ranked[0]["label"], ranked[1]["label"], analysis) if len(ranked) > 1 else None
    if pair is None and len(ranked) == 1:  # perhaps its control is there
        pair = next(iter(analysis["comparisons"]), None)
    first = _lead(ranked, pair, analysis) if pair else _alone(ranked, analysis)
    return [first, _budget(analysis), _cost_and_reach(pair, analysis)]


def _pair_of(a: str, b: str, analysis: Analysis) -> Mapping[str, Any] | None:
    return next((p for p in analysis["comparisons"] if {p["a"], p["b"]} == {a, b}), None)


def _lead(ranked: Sequence[Mapping[str, Any]], pair: Mapping[str, Any], analysis: Analysis) -> str:
    """The two highest methods by their difference; of more than two also whom the highest is ahead of."""
    if len(ranked) < 3:
        return _finding(pair, analysis)
    highest, following = ranked[0]["label"], ranked[1]["label"]
    first = f"{highest}, the highest of {len(ranked)} methods,"
    if not is_known(pair["difference"]["low"]):
        return f"{highest} is the highest of {len(ranked)} methods; {_finding(pair, analysis)}"
    lower = [(m["label"], _pair_of(highest, m["label"], analysis)) for m in ranked[2:]]
    beaten = _listed([label for label, other in lower if other and _is_shown(other, analysis)])
    gap = f"in {analysis['metric_meaning']} ({_figures(pair, highest, analysis)})"
    size = abs(100 * pair["difference"]["value"])
    if _is_shown(pair, analysis):
        rest = f", and ahead of {beaten} too" if beaten else ""
        return f"{first} is ahead of the next, {following}, by {size:.1f} points {gap}{rest}."
    told = f"is shown to be ahead of {beaten} but not" if beaten else "is not shown to be ahead"
    return f"{first} {told} of the next, {following}: {size:+.1f} points {gap}."


def _alone(ranked: Sequence[Mapping[str, Any]], analysis: Analysis) -> str:
    """What the highest method reached, where nothing is there to compare it with."""
    if not ranked:
        return f"No finished run has a figure for the {analysis['metric_meaning']}."
    reached = interval(ranked[0]["final"]["seeds"], share=analysis["metric"] != "gain")
    return f"{ranked[0]['label']} reaches {reached} % in {analysis['metric_meaning']}; no other method is there to compare."


def _budget(analysis: Analysis) -> str:
    """Seeds, completions and test questions."""
    finished = [m for m in analysis["methods"] if m["seeds"]]
    seeds = {tuple(m["seeds"]) for m in finished}
    counts = sorted({len(each) for each in seeds})
    told = f"seeds {seed_list(next(iter(seeds)))}" if len(seeds) == 1 else f"{span(counts)} seeds"
    sampling = [m for m in finished if m["algorithm"] != "SFT"] or finished
    runs = [run for m in sampling for run in m["runs"] if run["finished"]]
    completions, iterations = (span(sorted({run[key] for run in runs})) for key in ("completions", "iterations"))
    test = analysis["test_set"]
    images = f" with {number(test['images'])} images" if test["images"] else ""
    where = Path(test["data"]).name if isinstance(test["data"], str) else test["env"]
    who = (
        "Both methods" if len(finished) == 2 else "The method" if len(finished) == 1 else f"All {len(finished)} methods"
    )
    return (
        f"{who} ran with {told}, {completions} completions and {iterations} iterations a run, and answered "
        f"{number(test['questions'])} test questions{images} of {where}."
    )


def _cost_and_reach(pair: Mapping[str, Any] | None, analysis: Analysis) -> str:
    """Seconds and memory of a run, and what would change the verdict."""
    spent = [(m["cost"]["seconds_of_training"], m["label"]) for m in analysis["methods"] if m["seeds"]]
    known = sorted((seconds, label) for seconds, label in spent if is_known(seconds))
    if not known:
        cost = "What a run cost is not known"
    elif number(known[0][0]) == number(known[-1][0]):
        cost = f"A run took {number(known[0][0])} seconds of training"
    else:
        (least, cheapest), (most, dearest) = known[0], known[-1]
        cost = f"A run took {number(least)} ({cheapest}) to {number(most)} seconds of training ({dearest})"
    return f"{cost}; {_reach(pair, analysis)}." if pair else f"{cost}."


def _reach(pair: Mapping[str, Any], analysis: Analysis) -> str:
    """How far the verdict on a pair holds, or what would change it."""
    difference, other = pair["difference"], pair["other_questions"]
    if not is_known(difference["low"]):
        return "more seeds could give a verdict"
    if _is_shown(pair, analysis):
        if not other or not is_known(other["low"]):
            return "the verdict is for other seeds on these questions"
        ends = sorted(abs(100 * other[end]) for end in ("low", "high"))
        if other["low"] * other["high"] <= 0:
            return "on other questions the order could be the other way round"
        return f"on other questions too the lead should hold, with {ends[0]:.1f} to {ends[1]:.1f} points"
    value, half = abs(difference["value"]), (difference["high"] - difference["low"]) / 2
    seeds = min(pair["seeds"])
    if half < value:
        return (
            f"without the correction for the number of pairs ({len(analysis['comparisons'])}) it would count as shown"
        )
    if value * SEEDS_WORTH_NAMING**0.5 < half * seeds**0.5:  # an interval shrinks with the root of the seeds
        return f"so small a difference would take more than {SEEDS_WORTH_NAMING} seeds to show"
    needed = max(seeds + 1, ceil(seeds * (half / value) ** 2))  # half / value is at least 1
    return f"about {needed} seeds would show a difference of this size, if it stayed with the same spread"


def _is_shown(pair: Mapping[str, Any], analysis: Analysis) -> bool:
    return is_known(pair["p_corrected"]) and pair["p_corrected"] < 1 - analysis["confidence"]


def _figures(pair: Mapping[str, Any], ahead: str, analysis: Analysis) -> str:
    """Interval and test of a difference, counted for the method that is ahead."""
    sign = 1 if pair["a"] == ahead else -1
    low, high = sorted(100 * sign * pair["difference"][end] for end in ("low", "high"))
    test = "paired t test" if pair["paired_by_seed"] else "Welch's t test"
    seeds = " and ".join(dict.fromkeys(map(str, pair["seeds"])))
    return (
        f"{_confidence(analysis)} interval {low:+.1f} to {high:+.1f}; {test} over {seeds} seeds, "
        f"p = {p_value(pair['p_corrected'])} after correction"
    )


def _listed(names: Sequence[str]) -> str:
    """`A, B and C`."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def findings(analysis: Analysis) -> list[str]:
    """One sentence for each pair of methods, the surest first."""
    pairs = sorted(analysis["comparisons"], key=lambda p: p["p_corrected"] if is_known(p["p_corrected"]) else 2)
    return [_finding(pair, analysis) for pair in pairs]


def _finding(pair: Mapping[str, Any], analysis: Analysis) -> str:
    difference = pair["difference"]
    sign = 1 if difference["value"] >= 0 else -1
    ahead, behind = (pair["a"], pair["b"])[::sign]
    size = abs(100 * difference["value"])
    what = analysis["metric_meaning"]
    if not is_known(difference["low"]):
        why = (
            "too few seeds for an interval"
            if difference["standard_error"] is None
            else "no spread over seeds to test by"
        )
        return f"{ahead} and {behind}: {size:.1f} points apart in {what}; {why}."
    figures = _figures(pair, ahead, analysis)
    if _is_shown(pair, analysis):
        return f"{ahead} is ahead of {behind} by {size:.1f} points in {what} ({figures})."
    return f"No difference shown in {what}: {ahead} minus {behind} is {size:+.1f} points ({figures})."


def partial_notes(analysis: Analysis) -> list[str]:
    """What is missing, one line a method; empty where everything is finished."""
    notes = []
    for method in analysis["methods"]:
        progress = {r["seed"]: f"{r['iterations']} of {r['planned_iterations']} iterations" for r in method["runs"]}
        missing = [
            f"seed {seed} ({method['failures'].get(seed) or progress.get(seed, 'not begun')})"
            for seed in method["missing_seeds"]
        ]
        if missing:
            notes.append(f"{method['label']} lacks {', '.join(missing)}")
    return notes


def stop_notes(analysis: Analysis) -> list[str]:
    """Where each method stopped, and whether completions are equal."""
    notes, means = [], []
    for method in analysis["methods"]:
        runs = [run for run in method["runs"] if run["finished"]]
        if not runs:
            continue
        completions, iterations = (sorted({run[key] for run in runs}) for key in ("completions", "iterations"))
        means.append(sum(run["completions"] for run in runs) / len(runs))
        unit = "taught rows (it samples nothing)" if method["algorithm"] == "SFT" else "completions"
        notes.append(f"{method['label']} stopped after {span(completions)} {unit} in {span(iterations)} iterations.")
    if means and max(means) > 1.02 * min(means):
        ratio = max(means) / max(min(means), 1)
        notes.append(f"Completions are not equal: the largest mean is {ratio:.2f} times the smallest.")
    return notes


def method_notes(analysis: Analysis) -> list[str]:
    """How the figures were made and what they cannot say."""
    notes = [
        f"Intervals are {_confidence(analysis)} Student t intervals over the means of training seeds: for other seeds on "
        "these questions. 'Other questions' adds the spread of the questions, by image, for other seeds on other questions "
        "of this kind.",
        "Pairs are tested over seeds; where both methods have the same seeds from the same warm starts, on the differences "
        "by seed, else after Welch. p-values are corrected for the number of pairs after Holm.",
        "The test per question compares these trained models, clustered by image. It knows nothing of other seeds: two runs "
        "of one method often differ by it too. It is no test of the methods.",
        "Hedges' g is the difference in standard deviations of the seeds. The interquartile mean and the probability of "
        "improvement follow rliable; their bootstrap intervals are too narrow with few seeds.",
    ]
    if any(not run["has_predictions"] for m in analysis["methods"] for run in m["runs"] if run["finished"]):
        notes.append(
            "Some runs have no predictions.jsonl (an older version made them): their questions cannot be compared one by one, "
            "so the test per question, the interval for other questions and the examples leave their methods out."
        )
    return notes


def _confidence(analysis: Analysis) -> str:
    return f"{100 * analysis['confidence']:g} %"
