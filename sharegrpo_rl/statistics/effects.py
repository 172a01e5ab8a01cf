"""Effect sizes of two groups of seeds, and the correction for many comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, isnan, lgamma, log, sqrt

import numpy as np
from numpy.typing import ArrayLike


def hedges_g(a: ArrayLike, b: ArrayLike) -> float:
    """Difference of means in pooled standard deviations of the seeds, corrected for small samples; NaN without spread."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    degrees = len(x) + len(y) - 2
    if min(len(x), len(y)) < 2:
        return float("nan")
    pooled = sqrt(((len(x) - 1) * x.var(ddof=1) + (len(y) - 1) * y.var(ddof=1)) / degrees)
    if pooled == 0:
        return float("nan")
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
