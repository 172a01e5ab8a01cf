"""From seed questions to requests, and from episodes back to groups `[variant][sample]`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharegrpo_rl.data.seeding import derive_seed
from sharegrpo_rl.data.slots import plan_slots
from sharegrpo_rl.data.transforms import allowed_transforms
from sharegrpo_rl.data.types import Group, QuestionBank, SlotRequest


def plan_requests(
    bank: QuestionBank, picked: Sequence[tuple[int, int]], config: Any, iteration: int, first_group: int = 0
) -> list[SlotRequest]:
    """A request for each slot of each picked (epoch, question); every seed is derived, none is drawn.

    Groups are numbered from `first_group`. A question comes once an epoch, so (epoch, iteration, id) is never twice.
    """
    requests = []
    for group, (epoch, index) in enumerate(picked, start=first_group):
        question = bank[index]
        key = (config.seed or 0, epoch, iteration, question.id)
        slots = plan_slots(
            question,
            num_variants=config.num_variants,
            transform_probability=config.transform_probability,
            include_original=config.include_original,
            wording=config.wording,
            strict_variants=config.strict_variants,
            allowed=allowed_transforms(question, config.transforms),
            seed=derive_seed("plan", *key),
        )
        requests += [
            SlotRequest(group, index, slot, config.num_samples, derive_seed("sample", *key, slot.slot))
            for slot in slots
        ]
    return requests


def group_episodes(episodes: Sequence[Any]) -> list[Group]:
    """Episodes by group, slot and sample; keys decide, never the order in which episodes come."""
    by_group: dict[int, dict[int, dict[int, Any]]] = {}
    for episode in episodes:
        data = episode.custom_data
        request: SlotRequest = data["request"]
        slots = by_group.setdefault(request.group, {})
        slots.setdefault(request.slot.slot, {})[data["sample"]] = episode
    return [
        _group([[samples[i] for i in sorted(samples)] for _, samples in sorted(slots.items())])
        for _, slots in sorted(by_group.items())
    ]


def _group(episodes: list[list[Any]]) -> Group:
    first = [slot[0].custom_data for slot in episodes]
    names = sorted({name for slot in episodes for e in slot for name in e.custom_data["reward_parts"]})
    return Group(
        group=first[0]["request"].group,
        question_id=first[0]["question_id"],
        question_index=first[0]["request"].question_index,
        slots=tuple(d["request"].slot for d in first),
        prompts=tuple(d["prompt"] for d in first),
        completions=tuple(tuple(e.custom_data["completion"] for e in slot) for slot in episodes),
        rewards=_table(episodes, lambda e: e.get_return()),
        reward_parts={n: _table(episodes, lambda e, n=n: e.custom_data["reward_parts"].get(n, np.nan)) for n in names},
        subtask=first[0]["subtask"],
        task=first[0]["task"],
        weights_version=min(e.custom_data["weights_seq_no"] for slot in episodes for e in slot),
    )


def _table(episodes: list[list[Any]], value: Any) -> NDArray[np.float64]:
    return np.array([[value(e) for e in slot] for slot in episodes], dtype=np.float64)


def permuted(group: Group, seed: int) -> Group:
    """The control: rewards shuffled inside the group, so that they say nothing about the completions."""
    order = np.random.default_rng(derive_seed("permute", seed, group.group, group.question_id)).permutation(
        group.rewards.size
    )
    shuffled = group.rewards.ravel()[order].reshape(group.rewards.shape)
    return replace(group, rewards=shuffled)
