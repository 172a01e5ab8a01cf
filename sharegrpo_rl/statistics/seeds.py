"""Intervals and tests over training seeds: the seed, not the question, is the unit that a method is judged by."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

WIDEST = 6.0  # standard errors that half an interval may span; above, so few seeds say nothing at this confidence


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
        return dict(vars(self))


def from_variance(value: float, variance: float, degrees: float, confidence: float) -> Estimate:
    """A Student t interval about a value; without any spread there is none, and nothing to test a difference by."""
    error = sqrt(variance)
    if error == 0:
        none = float("nan")
        return Estimate(value, none, none, 0.0, degrees, 1.0 if value == 0 else none)
    half = float(stats.t.ppf((1 + confidence) / 2, degrees)) * error
    return Estimate(
        value, value - half, value + half, error, degrees, float(2 * stats.t.sf(abs(value) / error, degrees))
    )


def t_interval(values: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Mean over seeds with a t interval. One seed: the value without an interval."""
    x = _finite(values)
    if len(x) < 2:
        return _bare(float(x[0]))
    return from_variance(float(x.mean()), float(x.var(ddof=1)) / len(x), len(x) - 1, confidence)


def paired_difference(a: ArrayLike, b: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Mean of a - b where entry i of both comes from one seed and one warm start: a t test on the differences."""
    x, y = _finite(a), _finite(b)
    if len(x) != len(y):
        raise ValueError(f"{len(x)} and {len(y)} seeds cannot be paired")
    return t_interval(x - y, confidence)


def welch_difference(a: ArrayLike, b: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Difference of the means of independent seeds, whose spreads may differ (Welch's t test)."""
    x, y = _finite(a), _finite(b)
    value = float(x.mean() - y.mean())
    if min(len(x), len(y)) < 2:
        return _bare(value)
    parts = [(float(v.var(ddof=1)) / len(v), len(v) - 1) for v in (x, y)]
    total = sum(v for v, _ in parts)
    below = sum(v * v / d for v, d in parts)
    degrees = total * total / below if below > 0 else sum(d for _, d in parts)
    return from_variance(value, total, degrees, confidence)


def fewest_seeds(confidence: float) -> int:
    """The fewest seeds whose t interval spans at most `WIDEST` standard errors to either side."""
    return next(n for n in range(2, 1000) if stats.t.ppf((1 + confidence) / 2, n - 1) <= WIDEST)


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) == 0 or not np.isfinite(x).all():
        raise ValueError(f"expected one finite number a seed, got {values!r}")
    return x


def _bare(value: float) -> Estimate:
    none = float("nan")
    return Estimate(value, none, none, none, 0.0, none)
