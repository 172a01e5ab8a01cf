"""From methods to figures: what report.json holds. All shares in 0..1; an interval that cannot be had is null."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharegrpo_rl.data.seeding import derive_seed
from sharegrpo_rl.reports.checks import ACCURACY, METRICS
from sharegrpo_rl.reports.methods import Method, differing_options, flat_config
from sharegrpo_rl.reports.pairs import compare_pairs
from sharegrpo_rl.reports.run_reading import Run
from sharegrpo_rl.reports.scores import Settings, images, metric_values, share_as_dict, task_scores, verdicts
from sharegrpo_rl.statistics.questions import crossed_interval, number_of_images
from sharegrpo_rl.statistics.robust import interquartile_mean_interval
from sharegrpo_rl.statistics.seeds import fewest_seeds, t_interval

SIGNALS = ("valid_advantage_ratio", "reward_density", "solved_ratio")
COSTS = ("completions", "sampled_tokens", "seconds_of_training", "seconds_without_warm_start", "peak_memory_bytes")


def analyse(methods: Sequence[Method], settings: Settings) -> dict[str, Any]:
    """All figures of a comparison but the curves."""
    shown = [m for m in methods if m.finished]
    comparisons = compare_pairs(shown, settings)
    return {
        "metric": settings.metric,
        "metric_meaning": METRICS[settings.metric],
        "confidence": settings.confidence,
        "test_set": test_set(shown),
        "methods": [_method(m, settings) for m in methods],
        "comparisons": comparisons,
        "wall_time": wall_time(shown, settings.confidence),
        "zero_gradient": {m.label: zero_gradient(m) for m in shown},
        "config_differences": config_differences(methods),
        "versions": versions(methods),
    }


# ---- one method


def _method(method: Method, settings: Settings) -> dict[str, Any]:
    summaries = [run.summary for run in method.finished if run.summary is not None]
    first = method.runs[0] if method.runs else None
    return {
        "label": method.label,
        "control_of": method.control_of,
        "algorithm": first.params["run"] if first else None,
        "env": first.params["env"] if first else None,
        "runs": [_run(run) for run in method.runs],
        "seeds": [run.seed for run in method.finished],
        "missing_seeds": method.missing,
        "failures": method.failures,
        "final": _final(method, settings) if summaries else None,
        "kinds": _kinds(summaries),
        "signal": {key: _mean(summaries, key) for key in SIGNALS},
        "accuracy_before": _mean(summaries, "accuracy_before"),
        "blind": _seeds(summaries, "blind_accuracy_after", settings.confidence),
        "cost": {key: _mean(summaries, key) for key in COSTS},
    }


def _run(run: Run) -> dict[str, Any]:
    summary = run.summary or {}
    return {
        "seed": run.seed,
        "path": str(run.path),
        "finished": run.finished,
        "iterations": len(run.rows),
        "planned_iterations": run.planned_iterations,
        "completions": int(run.axes["completions"][-1]),
        "seconds": float(run.axes["seconds"][-1]),
        "before": summary.get("accuracy_before"),
        "after": summary.get("accuracy_after"),
        "blind": summary.get("blind_accuracy_after"),
        "has_predictions": run.predictions is not None,
    }


def _final(method: Method, settings: Settings) -> dict[str, Any]:
    values = metric_values(method.finished, settings.metric)
    enough = len(values) >= fewest_seeds(settings.confidence)
    found: dict[str, Any] = {
        "seeds": share_as_dict(t_interval(values, settings.confidence), enough) if values else None,
        "values": values,
        "standard_deviation": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        "other_questions": None,
        "interquartile_mean": None,
    }
    if values and settings.metric != ACCURACY:
        found["interquartile_mean"] = _iqm(np.array(values)[:, None], method.label, settings, enough)
    if settings.metric == ACCURACY and values:
        scores = task_scores(method.finished)
        found["interquartile_mean"] = _iqm(scores, method.label, settings, enough)
        if enough and all(run.predictions for run in method.finished):
            grid, clusters = verdicts(method.finished), images(method.finished[0])
            if number_of_images(clusters) > 1:
                found["other_questions"] = share_as_dict(crossed_interval(grid, clusters, settings.confidence))
    return found


def _iqm(scores: NDArray[np.float64], label: str, settings: Settings, enough: bool) -> dict[str, Any]:
    found: dict[str, Any] = interquartile_mean_interval(
        scores, derive_seed("iqm", label), settings.confidence
    ).as_dict()
    return found if enough else {**found, "low": None, "high": None}


def _kinds(summaries: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    names = sorted({name for s in summaries for name in s["accuracy_by_kind"]})
    found: dict[str, dict[str, float | None]] = {}
    for name in names:
        entries = [s["accuracy_by_kind"][name] for s in summaries if name in s["accuracy_by_kind"]]
        found[name] = {key: _mean(entries, key) for key in ("questions", "before", "after", "blind")}
    return found


def _mean(entries: Sequence[Mapping[str, Any]], key: str) -> float | None:
    values = [e[key] for e in entries if e.get(key) is not None]
    return fmean(values) if values else None


def _seeds(summaries: Sequence[Mapping[str, Any]], key: str, confidence: float) -> dict[str, Any] | None:
    values = [s[key] for s in summaries if s.get(key) is not None]
    return share_as_dict(t_interval(values, confidence), len(values) >= fewest_seeds(confidence)) if values else None


# ---- what concerns all


def wall_time(methods: Sequence[Method], confidence: float) -> dict[str, Any] | None:
    """Greedy accuracy of each method at the smallest final wall time of any run, read between evaluations."""
    curves = {m.label: [c for run in m.finished if (c := run.greedy("seconds"))] for m in methods}
    ends = [float(c.x[-1]) for each in curves.values() for c in each]
    if not ends:
        return None
    at = min(ends)
    estimates = {
        label: share_as_dict(
            t_interval([float(c.at(at)) for c in each], confidence), len(each) >= fewest_seeds(confidence)
        )
        for label, each in curves.items()
        if each
    }
    return {"seconds": at, "accuracy": estimates}


def zero_gradient(method: Method) -> list[dict[str, Any]]:
    """Per kind of question, hardest first: share of groups all wrong, all right, and the accuracy before training."""
    totals: dict[str, list[float]] = {}
    for run in method.finished:
        for row in run.rows:
            for kind, figures in row.get("groups", {}).get("kinds", {}).items():
                if not (n := figures["num_groups"]):  # null where the iteration asked nothing of this kind
                    continue
                sums = totals.setdefault(kind, [0.0, 0.0, 0.0])
                sums[0] += n
                sums[1] += n * (1 - figures["solved_ratio"])
                sums[2] += n * (figures["solved_ratio"] - figures["valid_advantage_ratio"])
    kinds = _kinds([run.summary for run in method.finished if run.summary is not None])
    found = [
        {
            "kind": kind,
            "before": kinds.get(kind, {}).get("before"),
            "groups": int(n),
            "all_wrong": wrong / n,
            "all_right": right / n,
        }
        for kind, (n, wrong, right) in totals.items()
    ]
    return sorted(found, key=lambda e: (e["before"] is None, e["before"], e["kind"]))


def test_set(methods: Sequence[Method]) -> dict[str, Any]:
    """What all runs were tested on."""
    first = methods[0].finished[0]
    summary = first.summary or {}
    return {
        "env": first.params["env"],
        "data": first.params["config"]["env_config"].get("data"),
        "questions": summary.get("test_questions"),
        "images": number_of_images(images(first)) if first.predictions else None,
        "extractor": summary.get("extractor"),
    }


def config_differences(methods: Sequence[Method]) -> list[dict[str, Any]]:
    """Options that are not the same for all methods, with each method's value."""
    named = [m for m in methods if m.runs]
    params = [m.runs[0].params for m in named]
    flat = {m.label: flat_config(p) for m, p in zip(named, params, strict=True)}
    return [
        {"option": key, "values": {label: values.get(key, "no such option") for label, values in flat.items()}}
        for key in differing_options(params)
    ]


def versions(methods: Sequence[Method]) -> dict[str, list[str]]:
    """Versions of each package over all runs: one entry where they agree."""
    found: dict[str, set[str]] = {}
    for run in (run for m in methods for run in m.runs):
        for name, version in run.params.get("versions", {}).items():
            found.setdefault(name, set()).add(str(version or "missing"))
    return {name: sorted(each) for name, each in sorted(found.items())}
