"""What several samples of each question say: pass@k, mean@k, majority@k."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharegrpo_rl.statistics.questions import mean_interval


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
