"""How a report says its figures: percent, intervals, p-values, and sentences on what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

NONE = "-"


def known(value: float | None) -> bool:
    """Is there a number at all?"""
    return value is not None and isfinite(value)


def percent(value: float | None, digits: int = 1) -> str:
    """A share in percent, without the sign."""
    return f"{100 * value:.{digits}f}" if value is not None and isfinite(value) else NONE


def interval(estimate: Mapping[str, Any] | None, *, share: bool = True, signed: bool = False) -> str:
    """`71.0 (69.5 to 72.5)`; a share's interval ends at 0 and 100."""
    if not estimate or not known(estimate["value"]):
        return NONE
    sign = "+" if signed else ""
    text = f"{100 * estimate['value']:{sign}.1f}"
    low, high = estimate["low"], estimate["high"]
    if not known(low) or not known(high):
        return text
    if share:
        low, high = max(0.0, low), min(1.0, high)
    return f"{text} ({100 * low:{sign}.1f} to {100 * high:{sign}.1f})"


def p_value(value: float | None) -> str:
    """Three digits, never 0."""
    if value is None or not isfinite(value):
        return NONE
    return "below 0.001" if value < 0.001 else f"{value:.3f}"


def number(value: float | None, digits: int = 0) -> str:
    """With thousands separated."""
    return f"{value:,.{digits}f}" if value is not None and isfinite(value) else NONE


def gigabytes(value: float | None) -> str:
    """Bytes as GB."""
    return f"{value / 1e9:.2f}" if value is not None else NONE


def seed_list(seeds: Sequence[int]) -> str:
    """`0, 1, 2`, or `0 to 9` where they follow each other."""
    if len(seeds) > 3 and list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds)) or NONE


def confidence_text(analysis: Mapping[str, Any]) -> str:
    """`95 %`."""
    return f"{100 * analysis['confidence']:g} %"


def findings(analysis: Mapping[str, Any]) -> list[str]:
    """One sentence for each pair of methods, the surest first."""
    pairs = sorted(analysis["comparisons"], key=lambda p: (p["p_corrected"] if known(p["p_corrected"]) else 2))
    return [_finding(pair, analysis) for pair in pairs]


def _finding(pair: Mapping[str, Any], analysis: Mapping[str, Any]) -> str:
    difference, p = pair["difference"], pair["p_corrected"]
    ahead, behind = (pair["a"], pair["b"]) if difference["value"] >= 0 else (pair["b"], pair["a"])
    size = abs(100 * difference["value"])
    what = analysis["metric_meaning"]
    if not known(difference["low"]):
        why = (
            "too few seeds for an interval"
            if difference["standard_error"] is None
            else "no spread over seeds to test by"
        )
        return f"{ahead} and {behind}: {size:.1f} points apart in {what}; {why}."
    sign = 1 if difference["value"] >= 0 else -1
    low, high = sorted(100 * sign * difference[end] for end in ("low", "high"))
    figures = f"{confidence_text(analysis)} interval {low:+.1f} to {high:+.1f}, p = {p_value(p)} after correction"
    if known(p) and p < 1 - analysis["confidence"]:
        return f"{ahead} is ahead of {behind} by {size:.1f} points in {what} ({figures})."
    return f"No difference shown in {what}: {ahead} minus {behind} is {size:+.1f} points ({figures})."


def partial_notes(analysis: Mapping[str, Any]) -> list[str]:
    """What is missing, one line a method; empty where everything is finished."""
    notes = []
    for method in analysis["methods"]:
        if not method["missing_seeds"]:
            continue
        progress = {r["seed"]: f"{r['iterations']} of {r['planned_iterations']} iterations" for r in method["runs"]}
        missing = [
            f"seed {seed} ({method['failures'].get(seed) or progress.get(seed, 'not begun')})"
            for seed in method["missing_seeds"]
        ]
        notes.append(f"{method['label']} lacks {', '.join(missing)}")
    return notes


def stop_notes(analysis: Mapping[str, Any]) -> list[str]:
    """Where each method stopped, and whether completions are equal."""
    notes, totals = [], {}
    for method in analysis["methods"]:
        done = [run for run in method["runs"] if run["finished"]]
        if not done:
            continue
        completions = sorted({run["completions"] for run in done})
        iterations = sorted({run["iterations"] for run in done})
        totals[method["label"]] = sum(run["completions"] for run in done) / len(done)
        unit = "taught rows (it samples nothing)" if method["algorithm"] == "SFT" else "completions"
        notes.append(
            f"{method['label']} stopped after {_range(completions)} {unit} in {_range(iterations)} iterations."
        )
    if totals and max(totals.values()) > 1.02 * min(totals.values()):
        ratio = max(totals.values()) / max(min(totals.values()), 1)
        notes.append(f"Completions are not equal: the largest mean is {ratio:.2f} times the smallest.")
    return notes


def _range(values: Sequence[int]) -> str:
    return f"{values[0]:,}" if len(values) == 1 else f"{values[0]:,} to {values[-1]:,}"


def method_notes(analysis: Mapping[str, Any]) -> list[str]:
    """How the figures were made and what they cannot say."""
    level = confidence_text(analysis)
    notes = [
        f"Intervals are {level} Student t intervals over the means of training seeds: for other seeds on these questions. "
        "'Other questions' adds the spread of the questions, by image, for other seeds on other questions of this kind.",
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
