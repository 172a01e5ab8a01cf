"""Share-GRPO (R1-ShareVL): variants of a question share completions and rewards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from ray.rllib.utils.annotations import override

from sharegrpo_rl.algorithms.grpo import GRPO
from sharegrpo_rl.algorithms.registry import register_algorithm
from sharegrpo_rl.config import ShareGRPOOptions
from sharegrpo_rl.data.types import Group, PromptPack
from sharegrpo_rl.ops.advantages import hierarchical_advantages


@register_algorithm("ShareGRPO")
class ShareGRPO(GRPO):
    """GRPO's loop with shared credit: V packs of V n completions for each question.

    A seed question is asked in m variants (other wordings S3, transformed images S4), each sampled n times. A completion is
    compared with all m n of its question (global level, S5) and with the n of its own variant (local level, S6). It is then
    trained under every variant's prompt: under its own with both levels added up, under a sibling's with the global one
    (S7, S8).

    >>> ShareGRPO.Config().training(num_variants=3).num_generations
    6
    """

    Options: TypeAlias = ShareGRPOOptions
    options: ShareGRPOOptions

    @override(GRPO)
    def build_packs(self, groups: Sequence[Group]) -> list[PromptPack]:
        """For each question a pack per variant: all of the question's completions, native and shared (S8)."""
        return [pack for group in groups for pack in self._shared_packs(group)]

    def _shared_packs(self, group: Group) -> list[PromptPack]:
        options = self.options
        native, shared = (
            advantages.numpy()
            for advantages in hierarchical_advantages(
                torch.from_numpy(group.rewards),
                options.advantage_levels,
                options.scale_rewards,
                options.advantage_eps,
                options.duplicate_rewards,
                options.single_variant_doubles,
            )
        )
        packs = []
        for k, prompt in enumerate(group.prompts):
            sources = range(len(group.prompts)) if options.pairing == "all" else [k]
            packs.append(
                PromptPack(
                    group=group.group,
                    slot=group.slots[k].slot,
                    prompt=prompt,
                    completions=tuple(completion for j in sources for completion in group.completions[j]),
                    advantages=np.concatenate([native[j] if j == k else shared[j] for j in sources]),
                    native=np.concatenate([np.full(len(group.completions[j]), j == k) for j in sources]),
                )
            )
        return packs
