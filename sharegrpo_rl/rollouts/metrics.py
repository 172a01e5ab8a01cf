"""What is logged about an iteration's completions and groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sharegrpo_rl.data.types import Group
from sharegrpo_rl.ops.advantages import reward_density, solved_ratio, valid_ratio, valid_slot_ratio


def completion_metrics(groups: Sequence[Group], errors: Sequence[str | None]) -> dict[str, Any]:
    """Means over all sampled completions; lengths in tokens."""
    completions = [c for g in groups for slot in g.completions for c in slot]
    lengths = np.array([len(c.token_ids) for c in completions])
    rewards = np.concatenate([g.rewards.ravel() for g in groups])
    names = sorted({n for g in groups for n in g.reward_parts})
    parts = {
        n: float(np.nanmean(np.concatenate([g.reward_parts[n].ravel() for g in groups if n in g.reward_parts])))
        for n in names
    }
    return {
        "reward_mean": float(rewards.mean()),
        "reward_std": float(rewards.std()),
        "accuracy": parts["accuracy"],
        "format": parts["format"],
        "reward_parts": parts,
        "completion_length_mean": float(lengths.mean()),
        "completion_length_max": int(lengths.max()),
        "prompt_length_mean": float(np.mean([len(p.input_ids) for g in groups for p in g.prompts])),
        "truncated_rate": float(np.mean([c.truncated for c in completions])),
        "num_completions": len(completions),
        "sampled_tokens": int(lengths.sum()),
        "grader_errors": sum(e is not None for e in errors),
    }


def group_metrics(groups: Sequence[Group], num_variants: int) -> dict[str, Any]:
    """How much the groups can teach; `valid_advantage_ratio`, `reward_density` and `solved_ratio` look at accuracy.

    `tasks` has figures for each task where the groups belong to several, `kinds` for each kind of question.
    """
    accuracies = [g.accuracies for g in groups]
    rewards = [g.rewards for g in groups]
    return {
        "valid_advantage_ratio": valid_ratio(accuracies),
        "valid_reward_ratio": valid_ratio(rewards),
        "valid_slot_ratio": valid_slot_ratio(accuracies),
        "reward_density": reward_density(accuracies),
        "solved_ratio": solved_ratio(accuracies),
        "num_groups": len(groups),
        "shrunk_groups": sum(len(g.slots) < num_variants for g in groups),
        "transformed_slots": sum(s.transform is not None for g in groups for s in g.slots),
        **_breakdown("tasks", groups, lambda g: g.task, _task_metrics),
        **_breakdown("kinds", groups, lambda g: g.subtask, _kind_metrics),
    }


def _breakdown(
    key: str,
    groups: Sequence[Group],
    name_of: Callable[[Group], str],
    figures: Callable[[Sequence[Group]], dict[str, float]],
) -> dict[str, dict[str, dict[str, float]]]:
    """{key: {name: figures}} where the groups have several names, else nothing."""
    by_name: dict[str, list[Group]] = {}
    for group in groups:
        by_name.setdefault(name_of(group), []).append(group)
    if len(by_name) < 2:
        return {}
    return {key: {name or "unnamed": figures(members) for name, members in sorted(by_name.items())}}


def _kind_metrics(groups: Sequence[Group]) -> dict[str, float]:
    accuracies = [g.accuracies for g in groups]
    return {
        "num_groups": len(groups),
        "valid_advantage_ratio": valid_ratio(accuracies),
        "reward_density": reward_density(accuracies),
        "solved_ratio": solved_ratio(accuracies),
    }


def _task_metrics(groups: Sequence[Group]) -> dict[str, float]:
    accuracies = [g.accuracies for g in groups]
    return {
        "accuracy": float(np.concatenate([a.ravel() for a in accuracies]).mean()),
        "reward_mean": float(np.concatenate([g.rewards.ravel() for g in groups]).mean()),
        "valid_advantage_ratio": valid_ratio(accuracies),
        "reward_density": reward_density(accuracies),
    }
