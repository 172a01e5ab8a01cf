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

    `tasks` has the figures of each task, where the groups belong to several; `kinds` those of each kind of question.
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
        **_by("tasks", [g.task for g in groups], groups, _task_metrics),
        **_by("kinds", [g.subtask for g in groups], groups, _kind_metrics),
    }


def _by(
    part: str, names: Sequence[str], groups: Sequence[Group], figures: Callable[[Sequence[Group]], dict[str, float]]
) -> dict[str, dict[str, dict[str, float]]]:
    parts: dict[str, list[Group]] = {}
    for name, group in zip(names, groups, strict=True):
        parts.setdefault(name, []).append(group)
    if len(parts) < 2:
        return {}
    return {part: {name or "unnamed": figures(own) for name, own in sorted(parts.items())}}


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
