"""Interquartile mean and probability of improvement over runs and tasks, as Agarwal et al. (2021, rliable) define them.

Scores come as `[runs, tasks]`. Intervals are percentiles of a bootstrap that draws runs anew within each task; with
three to five runs they are too narrow, which a report has to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Scores = NDArray[np.float64]
RESAMPLES = 2000


@dataclass(frozen=True)
class Resampled:
    """A figure with the percentiles of its bootstrap."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, Any]:
        return dict(vars(self))


def interquartile_mean(scores: Scores) -> float:
    """Mean of the middle half of all scores: floor(n / 4) are cut at either end."""
    return float(stats.trim_mean(scores, proportiontocut=0.25, axis=None))


def probability_of_improvement(a: Scores, b: Scores) -> float:
    """Chance that a run of `a` beats one of `b` on a task, ties counted half, averaged over tasks."""
    beats = (a[:, None, :] > b[None, :, :]) + 0.5 * (a[:, None, :] == b[None, :, :])
    return float(beats.mean(axis=(0, 1)).mean())


def interquartile_mean_interval(scores: Scores, seed: int, confidence: float = 0.95) -> Resampled:
    """The interquartile mean with its bootstrap interval."""
    drawn = _draw(scores, np.random.default_rng(seed)).reshape(RESAMPLES, -1)
    cut = drawn.shape[1] // 4
    middle = np.sort(drawn, axis=1)[:, cut : drawn.shape[1] - cut].mean(1)
    return _percentiles(interquartile_mean(scores), middle, confidence)


def improvement_interval(a: Scores, b: Scores, seed: int, confidence: float = 0.95) -> Resampled:
    """The probability of improvement with its bootstrap interval; the runs of both are drawn independently."""
    random = np.random.default_rng(seed)
    x, y = _draw(a, random)[:, :, None, :], _draw(b, random)[:, None, :, :]
    drawn = ((x > y) + 0.5 * (x == y)).mean(axis=(1, 2, 3))
    return _percentiles(probability_of_improvement(a, b), drawn, confidence)


def _draw(scores: Scores, random: np.random.Generator) -> Scores:
    """`[resamples, runs, tasks]`: runs drawn with replacement, for each task on its own."""
    runs, tasks = scores.shape
    chosen = random.integers(runs, size=(RESAMPLES, runs, tasks))
    return np.take_along_axis(scores[None], chosen, axis=1)


def _percentiles(value: float, drawn: Scores, confidence: float) -> Resampled:
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Resampled(value, float(low), float(high))
