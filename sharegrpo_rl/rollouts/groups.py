"""From seed questions to requests, from episodes to groups `[variant][sample]`, and from groups to packs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from sharegrpo_rl.data.transforms import allowed_transforms
from sharegrpo_rl.data.types import Group, PromptPack, QuestionBank, SlotRequest
from sharegrpo_rl.data.variants import derive_seed, plan_slots


def plan_requests(
    bank: QuestionBank,
    questions: Sequence[tuple[int, int]],
    config: Any,
    iteration: int,
    first_group: int = 0,
    single: bool = False,
) -> list[SlotRequest]:
    """A request for each slot of each (epoch, question index); every seed is derived, none is drawn.

    Groups are numbered from `first_group`. A question comes once an epoch, so (epoch, iteration, id) is never twice.
    `single`: one slot and one completion for each question, whatever the group size (supervised targets).
    """
    shape: dict[str, Any] = {"num_variants": 1, "include_original": "sampled", "strict_variants": False}
    if not single:
        shape = {name: getattr(config, name) for name in shape}
    num_generations = 1 if single else config.num_generations
    requests = []
    for group, (epoch, index) in enumerate(questions, start=first_group):
        question = bank[index]
        key = (config.seed or 0, epoch, iteration, question.id)
        slots = plan_slots(
            question,
            transform_probability=config.transform_probability,
            wording=config.wording,
            allowed=allowed_transforms(question, config.transforms),
            seed=derive_seed("plan", *key),
            **shape,
        )
        requests += [
            SlotRequest(group, index, slot, num_generations, derive_seed("sample", *key, slot.slot)) for slot in slots
        ]
    return requests


def group_episodes(episodes: Sequence[SingleAgentEpisode]) -> list[Group]:
    """Episodes by group, slot and sample; keys decide, never the order in which episodes come."""
    by_group: dict[int, dict[int, dict[int, SingleAgentEpisode]]] = {}
    for episode in episodes:
        data = episode.custom_data
        request: SlotRequest = data["request"]
        slots = by_group.setdefault(request.group, {})
        slots.setdefault(request.slot.slot, {})[data["sample"]] = episode
    return [
        _group([[samples[i] for i in sorted(samples)] for _, samples in sorted(slots.items())])
        for _, slots in sorted(by_group.items())
    ]


def _group(episodes: list[list[SingleAgentEpisode]]) -> Group:
    """The group of episodes `[slot][sample]`."""
    data = [[e.custom_data for e in slot] for slot in episodes]
    first = [slot[0] for slot in data]
    names = sorted({name for slot in data for d in slot for name in d["reward_parts"]})

    return Group(
        group=first[0]["request"].group,
        question_id=first[0]["question_id"],
        question_index=first[0]["request"].question_index,
        slots=tuple(d["request"].slot for d in first),
        prompts=tuple(d["prompt"] for d in first),
        completions=tuple(tuple(d["completion"] for d in slot) for slot in data),
        rewards=np.array([[e.get_return() for e in slot] for slot in episodes], np.float64),
        reward_parts={
            n: np.array([[d["reward_parts"].get(n, np.nan) for d in slot] for slot in data], np.float64) for n in names
        },
        subtask=first[0]["subtask"],
        task=first[0]["task"],
        weights_version=min(d["weights_seq_no"] for slot in data for d in slot),
    )


def native_packs(group: Group, advantages: NDArray[np.float64]) -> list[PromptPack]:
    """A pack for each slot of its own completions, with the group's advantages [V, N]."""
    return [
        PromptPack(group.group, slot.slot, prompt, completions, credit, np.ones(len(completions), bool))
        for slot, prompt, completions, credit in zip(
            group.slots, group.prompts, group.completions, advantages, strict=True
        )
    ]
