"""Pairs of methods: the test over seeds, paired where seeds share their start, and what goes with it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharegrpo_rl.data.seeding import derive_seed
from sharegrpo_rl.reports.checks import ACCURACY
from sharegrpo_rl.reports.methods import Method, same_start
from sharegrpo_rl.reports.run_reading import Run
from sharegrpo_rl.reports.scores import Settings, as_dict, images, metric_values, share_as_dict, task_scores, verdicts
from sharegrpo_rl.statistics.effects import hedges_g, holm
from sharegrpo_rl.statistics.questions import crossed_difference, number_of_images, question_test
from sharegrpo_rl.statistics.robust import improvement_interval
from sharegrpo_rl.statistics.seeds import fewest_seeds, paired_difference, welch_difference


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
