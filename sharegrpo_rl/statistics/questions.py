"""Figures over questions: their intervals, two models on the same ones, several samples of each.

Questions that share an image are not independent samples: `clusters [questions]` numbers the images. Variances are those
of resampling whole images, in closed form with the usual factor C / (C - 1), so that reports have no resampling noise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import comb, hypot, nan, sqrt
from statistics import NormalDist  # the standard library's
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharegrpo_rl.statistics.seeds import (
    Estimate,
    from_variance,
    paired_difference,
    student_quantile,
    t_interval,
    welch_difference,
)

Values = NDArray[np.float64]  # one each question [questions], or verdicts [seeds, questions]
Clusters = NDArray[np.int64]


def image_clusters(image_keys: Sequence[Sequence[str]]) -> Clusters:
    """A cluster number for each question [N]: those that share an image, directly or through others, have the same.

    A question without images is its own cluster.
    """
    parent = list(range(len(image_keys)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first: dict[str, int] = {}
    for index, keys in enumerate(image_keys):
        for key in keys:
            if key in first:
                parent[root(index)] = root(first[key])
            else:
                first[key] = index
    roots = [root(index) for index in range(len(image_keys))]
    return np.unique(roots, return_inverse=True)[1] if roots else np.empty(0, np.int64)


def share_interval(values: Values, clusters: Clusters, confidence: float = 0.95) -> tuple[tuple[float, float], str]:
    """Interval of the share of right answers (values 0 or 1), and how it was made.

    Wilson's; where questions share an image, at the number of independent questions that carry as much information.
    """
    number, groups = len(values), int(clusters.max()) + 1
    if groups == number:
        return wilson_interval(float(values.sum()), number, confidence), "Wilson"
    effective = _effective_number(values, clusters)
    interval = wilson_interval(float(values.mean()) * effective, effective, confidence)
    return interval, f"Wilson, clustered by image ({groups} clusters, as much as {effective:.0f} independent questions)"


def _effective_number(values: Values, clusters: Clusters) -> float:
    """Between 1 and N; the number of clusters where all answers are alike and nothing can be estimated."""
    share, groups = float(values.mean()), int(clusters.max()) + 1
    variance = clustered_error(values, clusters) ** 2
    if variance == 0 or share in (0.0, 1.0):
        return float(groups)
    return float(np.clip(share * (1 - share) / variance, 1.0, len(values)))


def mean_interval(values: Values, clusters: Clusters, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a mean of values in 0..1 that need not be 0 or 1: Student's t on the clustered error.

    Where the values do not differ no error can be estimated: Wilson's at the number of clusters then.
    """
    mean, groups = float(values.mean()), int(clusters.max()) + 1
    error = clustered_error(values, clusters)
    if error == 0:
        return wilson_interval(mean * groups, groups, confidence)
    margin = student_quantile((1 + confidence) / 2, groups - 1) * error
    return max(0.0, mean - margin), min(1.0, mean + margin)


def wilson_interval(successes: float, trials: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share; (0, 1) without trials. Holds near 0 and 1, where the normal one fails."""
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials")
    if trials == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / trials
    scale = 1 + z * z / trials
    middle = (share + z * z / (2 * trials)) / scale
    margin = z * sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials)) / scale
    # At the ends rounding may leave a stray bit: the interval always holds the share.
    return max(0.0, min(middle - margin, share)), min(1.0, max(middle + margin, share))


def cluster_sums(values: Values, clusters: Clusters) -> Values:
    """Sum of the values [N] in each cluster [G]."""
    return np.asarray(np.bincount(clusters, weights=values), np.float64)


def clustered_error(values: Values, clusters: Clusters) -> float:
    """Standard error of the mean of values [N], clusters independent of each other; 0 with one cluster.

    The sandwich estimator with the factor G / (G - 1); with clusters of one it is the usual s / sqrt(N).
    """
    groups = int(clusters.max()) + 1
    if groups < 2:
        return 0.0
    residuals = cluster_sums(values - values.mean(), clusters)
    return float(sqrt(groups / (groups - 1) * float(residuals @ residuals)) / len(values))


def crossed_interval(verdicts: Values, clusters: Clusters, confidence: float = 0.95) -> Estimate:
    """Accuracy for other seeds on other questions of the same kind: the t interval over seeds, questions nested in it.

    `verdicts [seeds, questions]`. Seeds and questions are crossed random effects: the seeds' half-width (Student t) and
    the questions' (their variance less the interaction's, which the seeds' includes) add in quadrature. No p-value.
    """
    seeds = t_interval(verdicts.mean(1), confidence)
    return _widened(seeds, _over_questions(verdicts, clusters) - _interaction(verdicts, clusters), clusters, confidence)


def crossed_difference(a: Values, b: Values, clusters: Clusters, *, paired: bool, confidence: float = 0.95) -> Estimate:
    """Difference a - b of two methods for other seeds on other questions; `paired`: row i of both is one seed."""
    if paired:
        seeds = paired_difference(a.mean(1), b.mean(1), confidence)
        interaction = _interaction(a - b, clusters)
    else:
        seeds = welch_difference(a.mean(1), b.mean(1), confidence)
        interaction = _interaction(a, clusters) + _interaction(b, clusters)
    between = (a.mean(0) - b.mean(0))[None, :]
    return _widened(seeds, _over_questions(between, clusters) - interaction, clusters, confidence)


def question_test(a: Values, b: Values, clusters: Clusters, confidence: float = 0.95) -> Estimate:
    """Difference of these models on other questions: a t test on the differences per question, clustered by image.

    It says nothing about other seeds, so it is not a test of the methods.
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
    over_questions = student_quantile((1 + confidence) / 2, number_of_images(clusters) - 1) * sqrt(variance)
    half = hypot(seeds.high - seeds.value, over_questions)
    error = hypot(seeds.standard_error, sqrt(variance))
    return Estimate(seeds.value, seeds.value - half, seeds.value + half, error, seeds.degrees, nan)


def _interaction(verdicts: Values, clusters: Clusters) -> float:
    """The part of the mean's variance that comes from seeds and questions together."""
    seeds, questions = verdicts.shape
    images = number_of_images(clusters)
    if seeds < 2 or images < 2:
        raise ValueError(f"{seeds} seeds and {images} images: an interval over both needs two of each")
    rest = verdicts - verdicts.mean(1, keepdims=True) - verdicts.mean(0) + verdicts.mean()
    sums = _sums(rest, clusters)
    return float((sums**2).sum() * images / (images - 1) * seeds / (seeds - 1) / (seeds * questions) ** 2)


def _over_questions(values: Values, clusters: Clusters) -> float:
    """Variance of the mean of per-question values (averaged over rows) when whole images are resampled."""
    mean = values.mean(0)
    sums = _sums((mean - mean.mean())[None, :], clusters)
    images = sums.shape[1]
    return float((sums**2).sum() * images / (images - 1) / len(mean) ** 2)


def _sums(values: Values, clusters: Clusters) -> Values:
    """Sums over the questions of each image: `[rows, images]`."""
    _, index = np.unique(clusters, return_inverse=True)
    return np.stack([np.bincount(index, row) for row in values])


@dataclass(frozen=True)
class PairedComparison:
    """Accuracies in 0..1, `difference` = a - b; the four counts are questions; `clusters` share no image."""

    questions: int
    clusters: int
    accuracy_a: float
    accuracy_b: float
    difference: float
    confidence_interval: tuple[float, float]
    both_right: int
    only_a_right: int
    only_b_right: int
    both_wrong: int
    p_value: float
    test: str
    interval_method: str

    def summary(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        return {**asdict(self), "confidence_interval": list(self.confidence_interval)}


def compare_paired(
    right_a: Sequence[bool], right_b: Sequence[bool], clusters: NDArray[np.int64], confidence: float = 0.95
) -> PairedComparison:
    """Compare two models' verdicts on the same questions, in the same order (at least one)."""
    a, b = np.asarray(right_a, bool), np.asarray(right_b, bool)
    if not len(a) == len(b) == len(clusters) > 0:
        raise ValueError(f"{len(a)} and {len(b)} verdicts, {len(clusters)} clusters")
    differences = a.astype(float) - b.astype(float)
    number = int(clusters.max()) + 1
    shared = number < len(a)
    return PairedComparison(
        questions=len(a),
        clusters=number,
        accuracy_a=float(a.mean()),
        accuracy_b=float(b.mean()),
        difference=float(differences.mean()),
        confidence_interval=difference_interval(differences, clusters, confidence),
        both_right=int((a & b).sum()),
        only_a_right=int((a & ~b).sum()),
        only_b_right=int((~a & b).sum()),
        both_wrong=int((~a & ~b).sum()),
        p_value=sign_flip_p(np.rint(cluster_sums(differences, clusters)).astype(np.int64)),
        test="exact sign-flip test of image clusters" if shared else "McNemar's exact test",
        interval_method="Student's t on the error " + ("clustered by image" if shared else "of the differences"),
    )


def difference_interval(
    differences: NDArray[np.float64], clusters: NDArray[np.int64], confidence: float
) -> tuple[float, float]:
    """Interval of the mean difference, within -1..1; (-1, 1) with one cluster, from which nothing can be estimated."""
    groups = int(clusters.max()) + 1
    if groups < 2:
        return -1.0, 1.0
    mean = float(differences.mean())
    margin = student_quantile((1 + confidence) / 2, groups - 1) * clustered_error(differences, clusters)
    return max(-1.0, mean - margin), min(1.0, mean + margin)


def sign_flip_p(totals: NDArray[np.int64]) -> float:
    """Two-sided exact p-value of cluster totals [G] (right by A minus right by B), each as likely with either sign.

    With totals of 1, 0 and -1 it is McNemar's exact test. The distribution of the sum is built cluster by cluster.
    """
    sizes = np.abs(totals[totals != 0])
    largest = int(sizes.sum())
    if largest == 0:
        return 1.0
    probabilities = np.zeros(2 * largest + 1)  # of each sum from -largest to largest
    probabilities[largest] = 1.0
    for size in sizes:  # the ends are empty until the last one, so nothing wraps around
        probabilities = (np.roll(probabilities, int(size)) + np.roll(probabilities, -int(size))) / 2
    sums = np.arange(-largest, largest + 1)
    return min(1.0, float(probabilities[np.abs(sums) >= abs(int(totals.sum()))].sum()))


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Chance that at least one of k of the samples is right, drawn without replacement: unbiased for k new samples.

    1 - C(n - c, k) / C(n, k), from Chen et al. 2021 (arXiv 2107.03374).
    """
    if not (0 <= right <= samples and 1 <= k <= samples):
        raise ValueError(f"k {k}, {right} right of {samples} samples")
    return 1.0 - comb(samples - right, k) / comb(samples, k)


def mean_at_k(accuracies: Sequence[float], k: int) -> float:
    """Mean accuracy of the first k samples."""
    return float(np.mean(accuracies[:k]))


def majority_at_k(votes: Sequence[str | None], accuracies: Sequence[float], k: int) -> float:
    """Accuracy of the most frequent answer among k samples, averaged over the disjoint runs of k samples.

    A sample without an answer does not vote; tied answers share the win; without any vote the answer is wrong.
    """
    starts = range(0, len(votes) - k + 1, k)
    return float(np.mean([_majority(votes[i : i + k], accuracies[i : i + k]) for i in starts]))


def _majority(votes: Sequence[str | None], accuracies: Sequence[float]) -> float:
    counts = Counter(vote for vote in votes if vote is not None)
    if not counts:
        return 0.0
    most = max(counts.values())
    winners = [vote for vote, count in counts.items() if count == most]
    right = {vote: [a for v, a in zip(votes, accuracies, strict=True) if v == vote] for vote in winners}
    return float(np.mean([np.mean(values) for values in right.values()]))


def powers_of_two(samples: int) -> list[int]:
    """1, 2, 4, ... up to the number of samples."""
    return [2**i for i in range(samples.bit_length()) if 2**i <= samples]


def sampling_figures(
    votes: Sequence[Sequence[str | None]], accuracies: Sequence[Sequence[float]], clusters: NDArray[np.int64]
) -> dict[str, Any]:
    """{"pass@k", "mean@k", "majority@k"}: for each k {"value", "confidence_interval"}; one row of samples a question."""
    samples = len(accuracies[0])
    if any(len(row) != samples for row in accuracies):
        raise ValueError("every question needs the same number of samples")
    measures: dict[str, Callable[[int, int], float]] = {
        "pass@k": lambda i, k: pass_at_k(samples, sum(a >= 1 for a in accuracies[i]), k),
        "mean@k": lambda i, k: mean_at_k(accuracies[i], k),
        "majority@k": lambda i, k: majority_at_k(votes[i], accuracies[i], k),
    }
    return {
        name: {str(k): _estimate(measure, k, clusters) for k in powers_of_two(samples)}
        for name, measure in measures.items()
    }


def _estimate(measure: Callable[[int, int], float], k: int, clusters: NDArray[np.int64]) -> dict[str, Any]:
    values = np.array([measure(i, k) for i in range(len(clusters))])
    return {"value": float(values.mean()), "confidence_interval": list(mean_interval(values, clusters))}
