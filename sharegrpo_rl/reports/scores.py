"""Scores of runs as arrays, and how a comparison is made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharegrpo_rl.evaluation.intervals import image_clusters
from sharegrpo_rl.reports.checks import ACCURACY
from sharegrpo_rl.reports.run_reading import Run
from sharegrpo_rl.statistics.seeds import Estimate


@dataclass(frozen=True)
class Settings:
    """How a comparison is made."""

    metric: str = ACCURACY
    confidence: float = 0.95


def task_scores(runs: Sequence[Run]) -> NDArray[np.float64]:
    """Final accuracies `[runs, tasks]`: of each task of a mixture, or of the whole test set where it is one task."""
    summaries = [run.summary or {} for run in runs]
    tasks = sorted(summaries[0].get("accuracy_by_task") or {})
    if not tasks:
        return np.array([[s["accuracy_after"]] for s in summaries])
    return np.array([[s["accuracy_by_task"][task]["after"] for task in tasks] for s in summaries])


def verdicts(runs: Sequence[Run]) -> NDArray[np.float64]:
    """Accuracy of each prediction: `[runs, questions]`."""
    return np.array([[float(row["accuracy"]) for row in run.predictions or []] for run in runs])


def images(run: Run) -> NDArray[np.int64]:
    """The cluster of each test question: those that share an image have the same number."""
    return image_clusters([row.get("image_keys") or () for row in run.predictions or []])


def as_dict(estimate: Estimate, enough: bool = True) -> dict[str, Any]:
    """An estimate for JSON; with too few seeds only its value."""
    found: dict[str, Any] = estimate.as_dict()
    return found if enough else {key: value if key == "value" else None for key, value in found.items()}


def share_as_dict(estimate: Estimate, enough: bool = True) -> dict[str, Any]:
    """The same for a share, which nobody tests against 0."""
    return {key: value for key, value in as_dict(estimate, enough).items() if key != "p_value"}


def metric_values(runs: Sequence[Run], metric: str) -> list[float]:
    """A metric of summary.json for each run that has it."""
    return [float(run.summary[metric]) for run in runs if run.summary and run.summary.get(metric) is not None]
