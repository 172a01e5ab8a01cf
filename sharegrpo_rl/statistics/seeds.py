"""What several training seeds say: intervals, effect sizes, robust figures, curves.

The seed, not the question, is the unit that a method is judged by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import exp, isnan, lgamma, log, nan, sqrt
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Numbers = NDArray[np.float64]
WIDEST = 6.0  # standard errors that half an interval may span; above, so few seeds say nothing at this confidence
RESAMPLES = 2000  # of a bootstrap


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval; `p_value` is that of the two-sided test against 0. NaN where there is none."""

    value: float
    low: float
    high: float
    standard_error: float
    degrees: float
    p_value: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def t_interval(values: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Mean over seeds with a t interval. One seed: the value without an interval."""
    x = _finite(values)
    if len(x) < 2:
        return _without_interval(float(x[0]))
    return from_variance(float(x.mean()), float(x.var(ddof=1)) / len(x), len(x) - 1, confidence)


def paired_difference(a: ArrayLike, b: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Mean of a - b where entry i of both comes from one seed and one warm start: a t test on the differences."""
    x, y = _finite(a), _finite(b)
    if len(x) != len(y):
        raise ValueError(f"{len(x)} and {len(y)} seeds cannot be paired")
    return t_interval(x - y, confidence)


def welch_difference(a: ArrayLike, b: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Difference of the means of independent seeds, whose variances may differ (Welch's t test)."""
    x, y = _finite(a), _finite(b)
    value = float(x.mean() - y.mean())
    if min(len(x), len(y)) < 2:
        return _without_interval(value)
    parts = [(float(v.var(ddof=1)) / len(v), len(v) - 1) for v in (x, y)]
    total = sum(v for v, _ in parts)
    below = sum(v * v / d for v, d in parts)
    degrees = total * total / below if below > 0 else sum(d for _, d in parts)
    return from_variance(value, total, degrees, confidence)


def from_variance(value: float, variance: float, degrees: float, confidence: float) -> Estimate:
    """A Student t interval about a value; with a variance of 0 there is neither an interval nor a test."""
    from scipy.special import stdtr  # imported late: scipy takes long to load, and training never needs it

    error = sqrt(variance)
    if error == 0:
        return Estimate(value, nan, nan, 0.0, degrees, 1.0 if value == 0 else nan)
    half = student_quantile((1 + confidence) / 2, degrees) * error
    return Estimate(value, value - half, value + half, error, degrees, 2 * float(stdtr(degrees, -abs(value) / error)))


def student_quantile(probability: float, degrees: float) -> float:
    """Quantile of Student's t distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))


def fewest_seeds(confidence: float) -> int:
    """The fewest seeds whose t interval spans at most `WIDEST` standard errors to either side."""
    return next(n for n in range(2, 1000) if student_quantile((1 + confidence) / 2, n - 1) <= WIDEST)


def _finite(values: ArrayLike) -> Numbers:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) == 0 or not np.isfinite(x).all():
        raise ValueError(f"expected one finite number a seed, got {values!r}")
    return x


def _without_interval(value: float) -> Estimate:
    return Estimate(value, nan, nan, nan, 0.0, nan)


def hedges_g(a: ArrayLike, b: ArrayLike) -> float:
    """Difference of means in pooled standard deviations, corrected for small samples; NaN where those are 0."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    degrees = len(x) + len(y) - 2
    if min(len(x), len(y)) < 2:
        return nan
    pooled = sqrt(((len(x) - 1) * x.var(ddof=1) + (len(y) - 1) * y.var(ddof=1)) / degrees)
    if pooled == 0:
        return nan
    correction = exp(lgamma(degrees / 2) - lgamma((degrees - 1) / 2) - 0.5 * log(degrees / 2))
    return float((x.mean() - y.mean()) / pooled * correction)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's corrected p-values, in the given order; NaN (no test was possible) stays and counts for nothing."""
    order = sorted((i for i, p in enumerate(p_values) if not isnan(p)), key=lambda i: p_values[i])
    corrected = list(p_values)
    highest = 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[i]))
        corrected[i] = highest
    return corrected


@dataclass(frozen=True)
class Resampled:
    """A figure with bootstrap percentiles, runs resampled within each task: too narrow for three to five runs."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def interquartile_mean(scores: Numbers) -> float:
    """Mean of the middle half of scores [runs, tasks] (Agarwal et al. 2021): floor(n / 4) are cut at either end."""
    from scipy import stats

    return float(stats.trim_mean(scores, proportiontocut=0.25, axis=None))


def probability_of_improvement(a: Numbers, b: Numbers) -> float:
    """Chance that a run of `a` beats one of `b` on a task, ties counted half, averaged over tasks."""
    beats = (a[:, None, :] > b[None, :, :]) + 0.5 * (a[:, None, :] == b[None, :, :])
    return float(beats.mean(axis=(0, 1)).mean())


def interquartile_mean_interval(scores: Numbers, seed: int, confidence: float = 0.95) -> Resampled:
    """The interquartile mean with its bootstrap interval."""
    drawn = _draw(scores, np.random.default_rng(seed)).reshape(RESAMPLES, -1)
    cut = drawn.shape[1] // 4
    middle = np.sort(drawn, axis=1)[:, cut : drawn.shape[1] - cut].mean(1)
    return _percentiles(interquartile_mean(scores), middle, confidence)


def improvement_interval(a: Numbers, b: Numbers, seed: int, confidence: float = 0.95) -> Resampled:
    """The probability of improvement with its bootstrap interval; the runs of both are drawn independently."""
    random = np.random.default_rng(seed)
    x, y = _draw(a, random)[:, :, None, :], _draw(b, random)[:, None, :, :]
    drawn = ((x > y) + 0.5 * (x == y)).mean(axis=(1, 2, 3))
    return _percentiles(probability_of_improvement(a, b), drawn, confidence)


def _draw(scores: Numbers, random: np.random.Generator) -> Numbers:
    """`[resamples, runs, tasks]`: runs drawn with replacement, for each task on its own."""
    runs, tasks = scores.shape
    chosen = random.integers(runs, size=(RESAMPLES, runs, tasks))
    return np.take_along_axis(scores[None], chosen, axis=1)


def _percentiles(value: float, drawn: Numbers, confidence: float) -> Resampled:
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Resampled(value, float(low), float(high))


@dataclass(frozen=True)
class Curve:
    """One seed's points, x rising."""

    x: Numbers
    y: Numbers

    def at(self, x: float | Numbers) -> Numbers:
        """Straight lines between the points; NaN outside them, because a curve says nothing beyond its end."""
        return np.asarray(np.interp(x, self.x, self.y, left=nan, right=nan))


@dataclass(frozen=True)
class Band:
    """Mean over seeds at each x, with a pointwise t interval; `low` and `high` are NaN where one seed is left."""

    x: Numbers
    mean: Numbers
    low: Numbers
    high: Numbers
    seeds: NDArray[np.int64]


def make_band(curves: Sequence[Curve], confidence: float = 0.95, points: int = 200) -> Band:
    """The band over the range that all curves share, at their own points where those agree."""
    x = _axis(curves, points)
    values = np.stack([curve.at(x) for curve in curves])
    number = len(curves)
    mean, seeds = values.mean(0), np.full(len(x), number)
    if number < 2:
        unknown = np.full_like(mean, nan)
        return Band(x, mean, unknown, unknown, seeds)
    half = student_quantile((1 + confidence) / 2, number - 1) * values.std(0, ddof=1) / np.sqrt(number)
    return Band(x, mean, mean - half, mean + half, seeds)


def smoothed(values: Sequence[float], width: int) -> Numbers:
    """Each value averaged with up to `width` - 1 before it; a gap (NaN) is left out of the average."""
    x = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(x)
    sums, counts = np.cumsum(np.where(known, x, 0.0)), np.cumsum(known)
    before = np.maximum(np.arange(len(x)) - width, -1)
    sums = sums - np.where(before >= 0, sums[before], 0.0)
    counts = counts - np.where(before >= 0, counts[before], 0)
    averages: Numbers = np.divide(sums, counts, out=np.full(len(x), nan), where=counts > 0)
    return averages


def _axis(curves: Sequence[Curve], points: int) -> Numbers:
    first = curves[0].x
    if all(len(c.x) == len(first) and np.allclose(c.x, first) for c in curves):
        return first
    low, high = max(c.x[0] for c in curves), min(c.x[-1] for c in curves)
    return np.linspace(low, high, points) if high > low else np.array([low])
