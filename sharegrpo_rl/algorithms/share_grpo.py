"""Share-GRPO (R1-ShareVL): variants of a question share completions and rewards.

A seed question is asked in m variants (other wordings S3, transformed images S4), each sampled n times. A completion is
compared with all m n of its question (global level, S5) and with the n of its own variant (local level, S6). It is then
trained under every variant's prompt: under its own with both levels added up, under a sibling's with the global one
(S7, S8).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.utils.annotations import override

from sharegrpo_rl.algorithms.grpo import GRPO, GRPOConfig
from sharegrpo_rl.config import RunOptions, ShareGRPOOptions
from sharegrpo_rl.data.types import Group, PromptPack
from sharegrpo_rl.ops.advantages import hierarchical_advantages


class ShareGRPOConfig(GRPOConfig):
    """Configures Share-GRPO.

    config = ShareGRPOConfig().environment("DrawnShapes-v0").training(num_variants=2, num_generations=6)
    """

    name: ClassVar[str] = "ShareGRPO"
    options: ClassVar[type[RunOptions]] = ShareGRPOOptions

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or ShareGRPO)


class ShareGRPO(GRPO):
    """GRPO's loop with shared credit: V packs of V n completions for each question."""

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> ShareGRPOConfig:
        return ShareGRPOConfig()

    @override(GRPO)
    def build_packs(self, groups: Sequence[Group]) -> list[PromptPack]:
        """For each question a pack per variant: all of the question's completions, native and shared (S8)."""
        return [pack for group in groups for pack in self._packs_of(group)]

    def _packs_of(self, group: Group) -> list[PromptPack]:
        c = self.config
        native, shared = (
            a.numpy()
            for a in hierarchical_advantages(
                torch.from_numpy(group.rewards),
                c.advantage_levels,
                c.scale_rewards,
                c.advantage_eps,
                c.duplicate_rewards,
                c.single_variant_doubles,
            )
        )
        packs = []
        for k, prompt in enumerate(group.prompts):
            sources = range(len(group.prompts)) if c.pairing == "all" else [k]
            packs.append(
                PromptPack(
                    group=group.group,
                    slot=group.slots[k].slot,
                    prompt=prompt,
                    completions=tuple(o for j in sources for o in group.completions[j]),
                    advantages=np.concatenate([native[j] if j == k else shared[j] for j in sources]),
                    native=np.concatenate([np.full(len(group.completions[j]), j == k) for j in sources]),
                )
            )
        return packs
