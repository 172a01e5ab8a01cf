"""Does `compare` call two equal methods different? Simulated A/A experiments, and a real one from finished runs.

python benchmarks/aa_experiments.py                            # 2,000 experiments at 3, 5 and 10 seeds
python benchmarks/aa_experiments.py --experiments 20000        # the same with a third of the sampling error
python benchmarks/aa_experiments.py --runs runs/aa-*           # real: one method's runs, split into halves in every way

The model: the log-odds of a right answer are those of the question, plus those of the warm start (which two methods
with one seed share), plus those of the run. Spreads over seeds are given in points of accuracy.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from itertools import combinations
from math import sqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sharegrpo_rl.statistics.questions import crossed_difference, crossed_interval, question_test
from sharegrpo_rl.statistics.seeds import paired_difference, t_interval, welch_difference

Verdicts = NDArray[np.float64]


@dataclass(frozen=True)
class Spread:
    """Where accuracies come from: `level` and the two standard deviations over seeds in shares, questions in log-odds."""

    level: float = 0.6
    warm_start: float = 0.04
    run: float = 0.03
    questions: float = 2.0
    images: float = 0.5
    test_questions: int = 500
    questions_an_image: int = 1


# Standard deviations over seeds 0-2 as in docs/results.md: drawn shapes before RL 3.9 points, Share-GRPO after it 1.6,
# easy_vqa 7.2, mnist_pairs 3.0; GRPO on drawn shapes 15.9, and over seeds 0-11 of the shorter runs in docs/compare.md 10.2.
SETTINGS = {
    "drawn shapes, Share-GRPO": Spread(0.896, warm_start=0.008, run=0.013),
    "easy_vqa": Spread(0.545, warm_start=0.05, run=0.05, questions_an_image=2),
    "mnist_pairs": Spread(0.474, warm_start=0.02, run=0.02, questions_an_image=4),
    "drawn shapes, GRPO": Spread(0.777, warm_start=0.04, run=0.154),
    "drawn shapes, GRPO, 12 seeds": Spread(0.734, warm_start=0.04, run=0.094, test_questions=300),
}


class Experiments:
    """Draws verdicts of two equal methods, and knows the accuracy that they aim at."""

    def __init__(self, spread: Spread, seeds: int, random: np.random.Generator) -> None:
        self.spread, self.seeds, self.random = spread, seeds, random
        self.clusters = np.arange(spread.test_questions) // spread.questions_an_image
        nodes, weights = np.polynomial.hermite_e.hermegauss(31)
        self.nodes, self.weights = nodes, weights / weights.sum()
        self.per_point = 1 / self._slope(0.0)
        self.centre = self._solve()
        self.per_point = 1 / self._slope(self.centre)

    def draw(self) -> tuple[Verdicts, Verdicts, Verdicts, Verdicts]:
        """Verdicts `[seeds, questions]` of a, b (a's warm starts), c (warm starts of its own); the questions' log-odds."""
        s, random = self.spread, self.random
        image = random.normal(0, s.images, self.clusters[-1] + 1)[self.clusters]
        hard = self.centre + random.normal(0, s.questions, s.test_questions) + image
        shared, other = (random.normal(0, s.warm_start * self.per_point, (self.seeds, 1)) for _ in range(2))
        runs = [start + random.normal(0, s.run * self.per_point, (self.seeds, 1)) for start in (shared, shared, other)]
        a, b, c = ((random.random((self.seeds, s.test_questions)) < _share(hard + run)).astype(float) for run in runs)
        return a, b, c, hard

    def truth(self, hard: Verdicts) -> float:
        """Accuracy expected over seeds on these questions."""
        spread = sqrt(self.spread.warm_start**2 + self.spread.run**2) * self.per_point
        return float(_share(hard[None, :] + spread * self.nodes[:, None]).mean(1) @ self.weights)

    def _population(self, centre: float) -> float:
        """Accuracy expected over seeds and questions."""
        s = self.spread
        total = sqrt(s.questions**2 + s.images**2 + (s.warm_start**2 + s.run**2) * self.per_point**2)
        return float(_share(centre + total * self.nodes) @ self.weights)

    def _slope(self, centre: float) -> float:
        """Points of accuracy that one unit of log-odds gives over all questions."""
        spread = sqrt(self.spread.questions**2 + self.spread.images**2)
        share = _share(centre + spread * self.nodes)
        return float((share * (1 - share)) @ self.weights)

    def _solve(self) -> float:
        low, high = -10.0, 10.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self._population(middle) < self.spread.level else (low, middle)
        return low


def _share(log_odds: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-log_odds))


def simulate(spread: Spread, seeds: int, experiments: int, seed: int = 0, confidence: float = 0.95) -> dict[str, float]:
    """Shares of the experiments: false positives of each test, true values inside each interval."""
    source = Experiments(spread, seeds, np.random.default_rng(seed))
    population = source._population(source.centre)
    counts = dict.fromkeys(NAMES, 0)
    level = 1 - confidence
    for _ in range(experiments):
        a, b, c, hard = source.draw()
        means, others = a.mean(1), b.mean(1)
        over_both = crossed_interval(a, source.clusters, confidence)
        interval = t_interval(means, confidence)
        counts["paired test"] += paired_difference(means, others, confidence).p_value < level
        counts["Welch test, other warm starts"] += welch_difference(means, c.mean(1), confidence).p_value < level
        counts["test per question"] += question_test(a, b, source.clusters, confidence).p_value < level
        counts["interval, these questions"] += interval.low <= source.truth(hard) <= interval.high
        counts["interval, other questions"] += over_both.low <= population <= over_both.high
        both = crossed_difference(a, b, source.clusters, paired=True, confidence=confidence)
        counts["difference, other questions"] += both.low <= 0 <= both.high
    return {name: count / experiments for name, count in counts.items()}


NAMES = (
    "paired test",
    "Welch test, other warm starts",
    "test per question",
    "interval, these questions",
    "interval, other questions",
    "difference, other questions",
)


def every_split(accuracies: list[float], level: float = 0.05) -> float:
    """Share of all splits of one method's seeds into two halves that Welch's test calls different."""
    seeds = range(len(accuracies))
    found = []
    for half in combinations(seeds, len(accuracies) // 2):
        rest = [accuracies[i] for i in seeds if i not in half][: len(half)]
        found.append(welch_difference([accuracies[i] for i in half], rest).p_value < level)
    return float(np.mean(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiments", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 5, 10])
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--runs", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    if options.runs:
        accuracies = [json.loads((p / "summary.json").read_text())["accuracy_after"] for p in options.runs]
        normal = stats.shapiro(accuracies).pvalue
        print(json.dumps({"runs": len(accuracies), "rejected": every_split(accuracies), "shapiro_p": float(normal)}))
        return
    print("| setting | seeds | " + " | ".join(NAMES) + " |\n" + "|---" * (len(NAMES) + 2) + "|")
    for name in options.settings:
        for seeds in options.seeds:
            found = simulate(SETTINGS[name], seeds, options.experiments)
            print(f"| {name} | {seeds} | " + " | ".join(f"{100 * found[n]:.1f}" for n in NAMES) + " |", flush=True)
    print(json.dumps({name: asdict(SETTINGS[name]) for name in options.settings}))


if __name__ == "__main__":
    main()
