"""`kl_in: reward`: the KL to the reference policy is taken off each completion's reward, before credit is assigned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from sharegrpo_rl.data.types import Group, PromptPack

ReferenceKL = Callable[[Sequence[PromptPack]], tuple[float, list[np.ndarray]]]


def kl_penalized(groups: Sequence[Group], reference_kl: ReferenceKL) -> list[Group]:
    """The groups with reward - weight x KL, and the KL of each completion as the reward part `kl`.

    The KL is that of the policy that sampled, under each completion's own prompt, summed over its tokens.
    """
    packs = [pack for group in groups for pack in native_packs(group)]
    weight, sums = reference_kl(packs)
    rest = iter(sums)
    penalized = []
    for group in groups:
        kl = np.stack([next(rest) for _ in group.slots])
        parts = {**group.reward_parts, "kl": kl}
        penalized.append(replace(group, rewards=group.rewards - weight * kl, reward_parts=parts))
    return penalized


def native_packs(group: Group) -> list[PromptPack]:
    """A pack for each slot, of its own completions, without credit."""
    return [
        PromptPack(group.group, slot.slot, prompt, answers, np.zeros(len(answers)), np.ones(len(answers), bool))
        for slot, prompt, answers in zip(group.slots, group.prompts, group.completions, strict=True)
    ]
