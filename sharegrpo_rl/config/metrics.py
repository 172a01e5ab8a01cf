"""The metrics that every iteration reports, by their path in `result.json`, and which checkpoint is best by them.

docs/metrics.md says what each means.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sharegrpo_rl.config.names import suggestion
from sharegrpo_rl.config.run import GRPOOptions, RunOptions
from sharegrpo_rl.errors import UserError

Row = Mapping[str, Any]

_EVALUATION = ("accuracy", "format_rate", "truncated_rate", "mean_length")
_SAMPLING = (
    "reward_mean",
    "reward_std",
    "accuracy",
    "format",
    "completion_length_mean",
    "completion_length_max",
    "truncated_rate",
    "prompt_length_mean",
)
_GROUPS = (
    "valid_advantage_ratio",
    "valid_accuracy_ratio",
    "valid_reward_ratio",
    "valid_slot_ratio",
    "reward_density",
    "solved_ratio",
)
_LEARNER = ("policy_loss", "kl", "entropy", "ratio_max_deviation", "grad_norm", "logprob_diff_mean", "logprob_diff_max")
_OPEN = re.compile(r"evaluation/by_(?:kind|wording)/[^/]+/accuracy")  # kinds and wordings are the data set's
SMOOTHED = 10  # iterations that a training accuracy is averaged over when no evaluation ranks the checkpoints


def known_metrics(options: RunOptions) -> list[str]:
    """The metrics of a run with these options; a method that samples nothing has no rewards and no groups."""
    names = [f"evaluation/{name}" for name in _EVALUATION]
    names += [f"learners/default_policy/{name}" for name in _LEARNER]
    if not isinstance(options, GRPOOptions):
        return [*names, "taught_tokens_per_second"]
    names += [f"env_runners/{name}" for name in _SAMPLING]
    names += [f"env_runners/reward_parts/{name}" for name in options.rewards]
    return [*names, *(f"groups/{name}" for name in _GROUPS), "tokens_per_second"]


def check_metric(key: str, metric: str, options: RunOptions) -> None:
    """UserError, beginning with the key that names it, where a run with these options reports no such metric."""
    known = known_metrics(options)
    # Only the data set knows its kinds of questions and its wordings.
    if metric not in known and not _OPEN.fullmatch(metric):
        raise UserError(f"{key}: this run reports no {metric!r}{suggestion(metric, known)}")


def value_of(row: Row, metric: str) -> float | None:
    """The number at a path of result.json; None where there is none. A name on the way may hold slashes itself."""
    value = row.get(metric)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    inner = (value_of(v, metric[len(k) + 1 :]) for k, v in row.items() if _leads(k, v, metric))
    return next((value for value in inner if value is not None), None)


def _leads(key: str, value: Any, metric: str) -> bool:
    return isinstance(value, Mapping) and metric.startswith(f"{key}/")


def best_iteration(rows: Sequence[Row], candidates: Sequence[int], options: RunOptions) -> int | None:
    """The best of the saved iterations, the earliest of equal ones; None where none of them was measured."""
    sign = 1 if options.best_mode == "max" else -1
    scores = {i: sign * value for i in candidates if (value := _score(rows, i, options)) is not None}
    return max(scores, key=lambda i: (scores[i], -i)) if scores else None


def _score(rows: Sequence[Row], iteration: int, options: RunOptions) -> float | None:
    if options.best_metric is not None or options.evaluation_interval > 0:
        return value_of(rows[iteration - 1], options.best_metric or "evaluation/accuracy")
    recent = [value_of(row, "env_runners/accuracy") for row in rows[max(0, iteration - SMOOTHED) : iteration]]
    measured = [value for value in recent if value is not None]
    return sum(measured) / len(measured) if measured else None
