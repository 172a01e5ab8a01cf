"""Which checkpoint of a run is its best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.tune.metric_names import is_open, known_metrics, value_of
from sharegrpo_rl.tune.peer_names import suggestion

SMOOTHED = 10  # iterations that a training accuracy is averaged over when no evaluation ranks the checkpoints


def check_best_metric(config: Mapping[str, Any]) -> None:
    """UserError where `best_metric` is none of the run's figures."""
    metric = config["best_metric"]
    known = known_metrics(config, config["rewards"])
    if metric is not None and metric not in known and not is_open(metric):
        raise UserError(f"config.best_metric: this run reports no {metric!r}{suggestion(metric, known)}")


def best_iteration(
    rows: Sequence[Mapping[str, Any]], candidates: Sequence[int], config: Mapping[str, Any]
) -> int | None:
    """The best of the saved iterations, the earliest of equal ones; None where none of them was measured."""
    sign = 1 if config["best_mode"] == "max" else -1
    scores = {i: sign * value for i in candidates if (value := _score(rows, i, config)) is not None}
    return max(scores, key=lambda i: (scores[i], -i)) if scores else None


def _score(rows: Sequence[Mapping[str, Any]], iteration: int, config: Mapping[str, Any]) -> float | None:
    if config["best_metric"] is not None or config["evaluation_interval"] > 0:
        return value_of(rows[iteration - 1], config["best_metric"] or "evaluation/accuracy")
    recent = [value_of(row, "env_runners/accuracy") for row in rows[max(0, iteration - SMOOTHED) : iteration]]
    known = [value for value in recent if value is not None]
    return sum(known) / len(known) if known else None
