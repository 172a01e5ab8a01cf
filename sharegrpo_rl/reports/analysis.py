"""From methods to the figures of report.json: all shares in 0..1, null where an interval cannot be had."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import fmean
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sharegrpo_rl.config.names import suggestion
from sharegrpo_rl.data.variants import derive_seed
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.reports.methods import Method, Run, differing_options, flat_config, same_start
from sharegrpo_rl.reports.options import ACCURACY, Settings
from sharegrpo_rl.statistics.questions import (
    crossed_difference,
    crossed_interval,
    image_clusters,
    number_of_images,
    question_test,
)
from sharegrpo_rl.statistics.seeds import (
    Estimate,
    fewest_seeds,
    hedges_g,
    holm,
    improvement_interval,
    interquartile_mean_interval,
    paired_difference,
    t_interval,
    welch_difference,
)

Comparison: TypeAlias = dict[str, Any]  # a pair of methods: labels, difference over seeds, tests, effect sizes
METRICS = {
    "accuracy_after": "greedy accuracy after training",
    "gain": "gain in greedy accuracy",
    "blind_accuracy_after": "greedy accuracy with swapped images",
    "format_rate_after": "share of answers in the required format",
    "valid_advantage_ratio": "valid-advantage ratio, mean over training",
    "reward_density": "reward density, mean over training",
    "solved_ratio": "solved ratio, mean over training",
}
SIGNALS = ("valid_advantage_ratio", "reward_density", "solved_ratio")
COSTS = ("completions", "sampled_tokens", "seconds_of_training", "seconds_without_warm_start", "peak_memory_bytes")


def check_metric(metric: str) -> None:
    """UserError for a metric that no comparison knows."""
    if metric not in METRICS:
        raise UserError(f"--metric {metric}: no such metric{suggestion(metric, METRICS)} (known: {', '.join(METRICS)})")


def check_confidence(confidence: float, seeds: int) -> None:
    """UserError where so few seeds give no usable interval at this confidence."""
    if not 0.5 <= confidence < 1:
        raise UserError(f"--confidence {confidence:g}: expected a share of at least 0.5 and below 1, such as 0.95")
    if seeds < (needed := fewest_seeds(confidence)):
        raise UserError(
            f"{seeds} seed{'s are' if seeds > 1 else ' is'} too few for {100 * confidence:g} % confidence, which takes "
            f"{needed}; raise --seeds or lower --confidence"
        )


def check_methods(methods: Sequence[Method], metric: str, confidence: float) -> None:
    """UserError where the methods cannot be compared; seeds that are planned and still missing are no error."""
    finished = [run for method in methods for run in method.finished]
    if not finished:
        raise UserError("no finished run among those given (a finished run has summary.json); train them to their end")
    for method in methods:
        if not method.seeds:
            if not method.finished:
                raise UserError(f"{method.label}: no finished run ({method.runs[0].path}); train it or leave it out")
            try:
                check_confidence(confidence, len(method.finished))
            except UserError as error:
                raise UserError(f"{method.label}: {error}") from None
    if all(run.summary is not None and run.summary.get(metric) is None for run in finished):
        raise UserError(f"--metric {metric}: none of these runs has it")
    check_test_sets(finished)


def check_test_sets(runs: Sequence[Run]) -> None:
    """UserError naming two runs that were tested on different questions."""
    predicted = [run for run in runs if run.predictions is not None]
    _all_alike(predicted, questions_asked, "other questions")
    if len(predicted) < len(runs):  # then settings must tell
        _all_alike(runs, _test_settings, "other settings of environment or evaluation")


def questions_asked(run: Run) -> list[tuple[str, str, str]]:
    """Every test question of a run as (id, wording, gold answer), in order."""
    return [(r["question_id"], r.get("question", ""), r["gold"]) for r in run.predictions or []]


def _test_settings(run: Run) -> str:
    config: dict[str, Any] = run.params["config"]
    count = (run.summary or {}).get("test_questions")
    return json.dumps([run.params["env"], config["env_config"], config["evaluation_questions"], count], sort_keys=True)


def _all_alike(runs: Sequence[Run], key: Any, what: str) -> None:
    for run in runs[1:]:
        if key(run) != key(runs[0]):
            raise UserError(
                f"{run.path} was tested on a different test set than {runs[0].path} ({what}); compare runs with one test set"
            )


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


def compare_pairs(methods: Sequence[Method], settings: Settings) -> list[dict[str, Any]]:
    """Every pair of methods (a control only with its own method), p-values corrected over all of them after Holm."""
    having = [m for m in methods if len(metric_values(m.finished, settings.metric)) == len(m.finished)]
    pairs = [(a, b) for a, b in combinations(having, 2) if _comparable(a, b)]
    found = [_pair(a, b, settings) for a, b in pairs]
    for key, target in (("difference", "p_corrected"), ("these_models", "p_corrected_these_models")):
        raw = [f[key]["p_value"] if f[key] and f[key]["p_value"] is not None else float("nan") for f in found]
        for entry, corrected in zip(found, holm(raw), strict=True):
            entry[target] = corrected
    return found


def _comparable(a: Method, b: Method) -> bool:
    if a.control_of is None and b.control_of is None:
        return True
    return a.control_of == b.label or b.control_of == a.label


def shared_seeds(a: Method, b: Method) -> list[int]:
    """Seeds that both finished from the same start; empty where the runs cannot be paired."""
    seeds = sorted({run.seed for run in a.finished} & {run.seed for run in b.finished})
    return seeds if all(same_start(a.run(s), b.run(s)) for s in seeds) else []


def _pair(a: Method, b: Method, settings: Settings) -> dict[str, Any]:
    needed = fewest_seeds(settings.confidence)
    seeds = shared_seeds(a, b)
    paired = len(seeds) >= 2 and len(seeds) >= min(needed, len(a.finished), len(b.finished))
    left, right = ([m.run(s) for s in seeds] if paired else m.finished for m in (a, b))
    x, y = (np.array(metric_values(runs, settings.metric)) for runs in (left, right))
    enough = min(len(x), len(y)) >= needed
    test = paired_difference if paired else welch_difference
    entry: dict[str, Any] = {
        "a": a.label,
        "b": b.label,
        "paired_by_seed": paired,
        "seeds": [len(x), len(y)],
        "difference": as_dict(test(x, y, settings.confidence), enough),
        "hedges_g": hedges_g(x, y),
        "probability_of_improvement": None,
        "other_questions": None,
        "these_models": None,
        "right_only": None,
    }
    entry["probability_of_improvement"] = _improvement(left, right, a, b, settings, enough)
    if settings.metric == ACCURACY and all(run.predictions for run in (*left, *right)):
        first, second, clusters = verdicts(left), verdicts(right), images(left[0])
        entry["right_only"] = _right_only(first, second)
        if number_of_images(clusters) > 1:
            entry["these_models"] = as_dict(question_test(first, second, clusters, settings.confidence))
            if enough:
                other = crossed_difference(first, second, clusters, paired=paired, confidence=settings.confidence)
                entry["other_questions"] = share_as_dict(other)
    return entry


def _improvement(
    left: Sequence[Run], right: Sequence[Run], a: Method, b: Method, settings: Settings, enough: bool
) -> dict[str, Any]:
    if settings.metric == ACCURACY:
        x, y = task_scores(left), task_scores(right)
    else:
        x, y = (np.array(metric_values(runs, settings.metric))[:, None] for runs in (left, right))
    seed = derive_seed("improvement", a.label, b.label)
    found: dict[str, Any] = improvement_interval(x, y, seed, settings.confidence).as_dict()
    return found if enough else {**found, "low": None, "high": None}


def _right_only(a: NDArray[np.float64], b: NDArray[np.float64]) -> list[float]:
    """Share of questions that one seed's run of the one gets right and of the other not, over all pairs of runs."""
    right, left = (a >= 1).astype(float), (b >= 1).astype(float)
    only_a = np.einsum("iq,jq->", right, 1 - left) / (len(a) * len(b) * a.shape[1])
    only_b = np.einsum("iq,jq->", 1 - right, left) / (len(a) * len(b) * a.shape[1])
    return [float(only_a), float(only_b)]


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


def metric_values(runs: Sequence[Run], metric: str) -> list[float]:
    """A metric of summary.json for each run that has it."""
    return [float(run.summary[metric]) for run in runs if run.summary and run.summary.get(metric) is not None]


def task_scores(runs: Sequence[Run]) -> NDArray[np.float64]:
    """Final accuracies `[runs, tasks]`: of each task of a mixture, or of the whole test set where it is one task."""
    summaries = [run.summary or {} for run in runs]
    tasks = sorted(summaries[0].get("accuracy_by_task") or {})
    if not tasks:
        return np.array([[s["accuracy_after"]] for s in summaries])
    return np.array([[s["accuracy_by_task"][task]["after"] for task in tasks] for s in summaries])


def verdicts(runs: Sequence[Run]) -> NDArray[np.float64]:
    """Accuracy of each prediction: `[runs, questions]`."""
    return np.array([[float(row["accuracy"]) for row in run.predictions or []] for run in runs])


def images(run: Run) -> NDArray[np.int64]:
    """The cluster of each test question: those that share an image have the same number."""
    return image_clusters([row.get("image_keys") or () for row in run.predictions or []])


def as_dict(estimate: Estimate, enough: bool = True) -> dict[str, Any]:
    """An estimate for JSON; with too few seeds only its value."""
    found: dict[str, Any] = estimate.as_dict()
    return found if enough else {key: value if key == "value" else None for key, value in found.items()}


def share_as_dict(estimate: Estimate, enough: bool = True) -> dict[str, Any]:
    """The same for a share, which nobody tests against 0."""
    return {key: value for key, value in as_dict(estimate, enough).items() if key != "p_value"}
