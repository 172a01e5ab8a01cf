"""Intervals and tests over questions: crossed with seeds, and clustered by image.

Verdicts come as `[seeds, questions]`; `clusters [questions]` numbers the images, because questions on one picture are
no independent sample. Variances of a mean over questions are those that resampling whole images would give, in closed
form (the usual C / (C - 1) included), so that a report has no noise of its own.
"""

from __future__ import annotations

from math import hypot, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sharegrpo_rl.statistics.seeds import Estimate, from_variance, paired_difference, t_interval, welch_difference

Verdicts = NDArray[np.float64]
Clusters = NDArray[np.int64]


def crossed_interval(verdicts: Verdicts, clusters: Clusters, confidence: float = 0.95) -> Estimate:
    """Accuracy for other seeds on other questions of the same kind: the t interval over seeds, questions nested in it.

    Seeds and questions are crossed random effects. The seeds' half-width (Student t) and the questions' (their variance
    less that of the interaction, which the seeds' has already) add in squares. No p-value.
    """
    seeds = t_interval(verdicts.mean(1), confidence)
    return _widened(seeds, _over_questions(verdicts, clusters) - _interaction(verdicts, clusters), clusters, confidence)


def crossed_difference(
    a: Verdicts, b: Verdicts, clusters: Clusters, *, paired: bool, confidence: float = 0.95
) -> Estimate:
    """Difference a - b of two methods for other seeds on other questions; `paired`: row i of both is one seed."""
    if paired:
        seeds = paired_difference(a.mean(1), b.mean(1), confidence)
        interaction = _interaction(a - b, clusters)
    else:
        seeds = welch_difference(a.mean(1), b.mean(1), confidence)
        interaction = _interaction(a, clusters) + _interaction(b, clusters)
    between = (a.mean(0) - b.mean(0))[None, :]
    return _widened(seeds, _over_questions(between, clusters) - interaction, clusters, confidence)


def question_test(a: Verdicts, b: Verdicts, clusters: Clusters, confidence: float = 0.95) -> Estimate:
    """Difference of these very models on other questions: a t test on the differences per question, clustered by image.

    It says nothing of other seeds, so it is no test of the methods.
    """
    differences = a.mean(0) - b.mean(0)
    images = number_of_images(clusters)
    if images < 2:
        raise ValueError("a test over questions needs at least two images")
    variance = _over_questions(differences[None, :], clusters)
    return from_variance(float(differences.mean()), variance, images - 1, confidence)


def number_of_images(clusters: Clusters) -> int:
    """Distinct images."""
    return len(np.unique(clusters))


def _widened(seeds: Estimate, questions: float, clusters: Clusters, confidence: float) -> Estimate:
    variance = max(0.0, questions)
    over_questions = float(stats.t.ppf((1 + confidence) / 2, number_of_images(clusters) - 1)) * sqrt(variance)
    half = hypot(seeds.high - seeds.value, over_questions)
    error = hypot(seeds.standard_error, sqrt(variance))
    return Estimate(seeds.value, seeds.value - half, seeds.value + half, error, seeds.degrees, float("nan"))


def _interaction(verdicts: Verdicts, clusters: Clusters) -> float:
    """The part of the mean's variance that comes from seeds and questions together."""
    seeds, questions = verdicts.shape
    images = number_of_images(clusters)
    if seeds < 2 or images < 2:
        raise ValueError(f"{seeds} seeds and {images} images: an interval over both needs two of each")
    rest = verdicts - verdicts.mean(1, keepdims=True) - verdicts.mean(0) + verdicts.mean()
    sums = _sums(rest, clusters)
    return float((sums**2).sum()) * images / (images - 1) * seeds / (seeds - 1) / (seeds * questions) ** 2


def _over_questions(values: Verdicts, clusters: Clusters) -> float:
    """Variance of the mean of per-question values (averaged over rows) when whole images are drawn anew."""
    mean = values.mean(0)
    sums = _sums((mean - mean.mean())[None, :], clusters)
    images = sums.shape[1]
    return float((sums**2).sum()) * images / (images - 1) / len(mean) ** 2


def _sums(values: Verdicts, clusters: Clusters) -> Verdicts:
    """Sums over the questions of each image: `[rows, images]`."""
    _, index = np.unique(clusters, return_inverse=True)
    return np.stack([np.bincount(index, row) for row in values])
