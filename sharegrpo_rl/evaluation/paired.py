"""Two models on the same questions: difference, interval, discordances, and an exact test that respects shared images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharegrpo_rl.statistics.questions import cluster_sums, clustered_error
from sharegrpo_rl.statistics.seeds import student_quantile


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
