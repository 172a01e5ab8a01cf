"""The figures that every iteration reports, by their path in `result.json`; docs/metrics.md says what each means."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

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
_GROUPS = ("valid_advantage_ratio", "valid_reward_ratio", "valid_slot_ratio", "reward_density", "solved_ratio")
_LEARNER = ("policy_loss", "kl", "entropy", "ratio_max_deviation", "grad_norm", "sampler_gap_mean", "sampler_gap_max")
_OPEN = re.compile(r"evaluation/by_(?:kind|wording)/[^/]+/accuracy")  # kinds and wordings are the data set's


def known_metrics(config: Mapping[str, object], rewards: Iterable[str]) -> list[str]:
    """The metrics of a run with this config; an algorithm that samples nothing has no rewards and no groups."""
    names = [f"evaluation/{name}" for name in _EVALUATION]
    names += [f"learners/default_policy/{name}" for name in _LEARNER]
    if "num_samples" not in config:
        return [*names, "taught_tokens_per_second"]
    names += [f"env_runners/{name}" for name in _SAMPLING]
    names += [f"env_runners/reward_parts/{name}" for name in rewards]
    return [*names, *(f"groups/{name}" for name in _GROUPS), "tokens_per_second"]


def is_open(metric: str) -> bool:
    """Is it the accuracy on a kind of question or on a wording, which only the data set knows?"""
    return _OPEN.fullmatch(metric) is not None


def value_of(row: Mapping[str, Any], metric: str) -> float | None:
    """The number at a path of result.json; None where there is none. A name on the way may hold slashes itself."""
    found = row.get(metric)
    if isinstance(found, int | float) and not isinstance(found, bool):
        return float(found)
    inner = (value_of(v, metric[len(k) + 1 :]) for k, v in row.items() if _leads(k, v, metric))
    return next((value for value in inner if value is not None), None)


def _leads(key: str, value: Any, metric: str) -> bool:
    return isinstance(value, Mapping) and metric.startswith(f"{key}/")
