"""The report of a comparison: report.json, report.md, report.html and pictures, all from the same figures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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
from sharegrpo_rl.statistics.formatting import is_known, number, p_value, span

Analysis = Mapping[str, Any]


def write_report(methods: Sequence[Method], settings: Settings, out: Path, command: str = "") -> dict[str, Any]:
    """Check, analyse, draw, write; returns the content of report.json. UserError where there is nothing to compare.

    `command` makes the report again; it is shown verbatim.
    """
    check_methods(methods, settings.metric, settings.confidence)
    analysis = analyse(methods, settings)
    shown = [m for m in methods if m.runs]
    samples = sample_answers(shown)
    differing = disagreements(shown, analysis["comparisons"])
    examples = [*samples, *(e for d in differing for e in (*d.only_a, *d.only_b))]
    finished = next(run for m in methods for run in m.finished)
    images, problem = question_images(finished, list(dict.fromkeys(e.question_id for e in examples)))
    notes = method_notes(analysis) + ([problem] if problem else [])
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        pictures = draw_all(shown, analysis, out)
        report: dict[str, Any] = as_json(
            {
                "title": make_title(methods, analysis),
                "partial": bool(partial_notes(analysis)),
                "partial_notes": partial_notes(analysis),
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
            "facts": _facts(analysis),
            "tables": _tables(analysis),
            "samples": samples,
            "disagreements": differing,
            "images": images,
            "pictures": [{**vars(p), "source": data_uri((out / p.name).read_bytes(), "png")} for p in pictures],
        }
        write_atomically(out / "report.json", json.dumps(report, indent=2, allow_nan=False) + "\n")
        write_atomically(out / "report.md", render("comparison.md", **content))
        write_atomically(out / "report.html", render("comparison.html", **content))
    return report


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


def findings(analysis: Analysis) -> list[str]:
    """One sentence for each pair of methods, the surest first."""
    pairs = sorted(analysis["comparisons"], key=lambda p: p["p_corrected"] if is_known(p["p_corrected"]) else 2)
    return [_finding(pair, analysis) for pair in pairs]


def _finding(pair: Mapping[str, Any], analysis: Analysis) -> str:
    difference, p = pair["difference"], pair["p_corrected"]
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
    low, high = sorted(100 * sign * difference[end] for end in ("low", "high"))
    figures = f"{_confidence(analysis)} interval {low:+.1f} to {high:+.1f}, p = {p_value(p)} after correction"
    if is_known(p) and p < 1 - analysis["confidence"]:
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
