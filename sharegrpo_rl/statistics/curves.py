"""Curves of several seeds on one axis: read between their points, averaged, with a band."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """One seed's points, x rising."""

    x: Numbers
    y: Numbers

    def at(self, x: float | Numbers) -> Numbers:
        """Straight lines between the points; NaN outside them, because a curve says nothing beyond its end."""
        return np.asarray(np.interp(x, self.x, self.y, left=np.nan, right=np.nan))


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
    mean = values.mean(0)
    if number < 2:
        none = np.full_like(mean, np.nan)
        return Band(x, mean, none, none, np.full(len(x), number))
    half = stats.t.ppf((1 + confidence) / 2, number - 1) * values.std(0, ddof=1) / np.sqrt(number)
    return Band(x, mean, mean - half, mean + half, np.full(len(x), number))


def smoothed(values: Sequence[float], width: int) -> Numbers:
    """Each value averaged with up to `width` - 1 before it; a gap (NaN) is left out of the average."""
    x = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(x)
    sums, counts = np.cumsum(np.where(known, x, 0.0)), np.cumsum(known)
    before = np.maximum(np.arange(len(x)) - width, -1)
    sums = sums - np.where(before >= 0, sums[before], 0.0)
    counts = counts - np.where(before >= 0, counts[before], 0)
    return np.divide(sums, counts, out=np.full(len(x), np.nan), where=counts > 0)


def _axis(curves: Sequence[Curve], points: int) -> Numbers:
    first = curves[0].x
    if all(len(c.x) == len(first) and np.allclose(c.x, first) for c in curves):
        return first
    low, high = max(c.x[0] for c in curves), min(c.x[-1] for c in curves)
    return np.linspace(low, high, points) if high > low else np.array([low])
