"""The stages of a reward, in their order; each is named by an option and logged as a reward part.

1. the rubric: accuracy, format, steps and a user's own rewards, weighed (`rewards`; `rewards/rubric.py`)
2. a penalty on completions that come close to the length limit (`overlong_buffer`, `overlong_weight`)
3. the KL to the reference policy (`kl_in_reward`)
4. the control: rewards shuffled inside each group (`shuffle_rewards`)

The first two look at one completion and are applied where it is graded, in the env runner; `Group.rewards` holds their
result, which selection and metrics see. The others look at whole groups, on the driver, before credit is assigned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sharegrpo_rl.config.run import GRPOOptions
from sharegrpo_rl.data.types import Completion, Group
from sharegrpo_rl.data.variants import derive_seed
from sharegrpo_rl.rewards.rubric import Score

ReferenceKL = Callable[[Sequence[Group]], tuple[float, list[NDArray[np.float64]]]]
"""Groups -> the KL's weight, and for each slot of each group the KL of its completions, [N] nats, summed over tokens."""
RewardStage = Callable[[list[Group]], list[Group]]
"""Groups -> the same groups with other rewards [V, N], and a reward part for what was added."""


def penalize_length(score: Score, completion: Completion, options: GRPOOptions) -> Score:
    """The score with DAPO's soft penalty as the part `overlong`; unchanged where `overlong_buffer` is 0."""
    if not options.overlong_buffer:
        return score
    penalty = overlong_penalty(len(completion.token_ids), options.max_completion_tokens, options.overlong_buffer)
    total = float(score.total) + options.overlong_weight * penalty
    return replace(score, total=total, parts={**score.parts, "overlong": penalty})


def overlong_penalty(length: int, max_length: int, buffer: int) -> float:
    """0 up to max_length - buffer tokens, then falling linearly to -1 at max_length (DAPO, eq. 13)."""
    if not 0 < buffer <= max_length:
        raise ValueError(f"the buffer must be between 1 and {max_length} tokens, not {buffer}")
    return min(0.0, (max_length - buffer - length) / buffer)


def group_stages(options: GRPOOptions, seed: int, reference_kl: ReferenceKL | None) -> list[RewardStage]:
    """The stages over whole groups that a run has switched on, in order.

    `seed` is the iteration's own; `reference_kl` is None where the run uses no reference.
    """
    stages: list[RewardStage] = []
    if options.kl_in_reward and reference_kl is not None:
        stages.append(lambda groups: penalize_kl(groups, reference_kl))
    if options.shuffle_rewards:
        stages.append(lambda groups: [shuffle_rewards(g, seed) for g in groups])
    return stages


def penalize_kl(groups: Sequence[Group], reference_kl: ReferenceKL) -> list[Group]:
    """The groups with reward - weight x KL, and each completion's KL as the reward part `kl`.

    It is the KL of the policy that sampled, under each completion's own prompt.
    """
    weight, values = reference_kl(groups)
    remaining = iter(values)
    penalized = []
    for group in groups:
        kl = np.stack([next(remaining) for _ in group.slots])
        parts = {**group.reward_parts, "kl": kl}
        penalized.append(replace(group, rewards=group.rewards - weight * kl, reward_parts=parts))
    return penalized


def shuffle_rewards(group: Group, seed: int) -> Group:
    """The control: rewards shuffled inside the group, so that they say nothing about the completions."""
    rng = np.random.default_rng(derive_seed("permute", seed, group.group, group.question_id))
    order = rng.permutation(group.rewards.size)
    return replace(group, rewards=group.rewards.ravel()[order].reshape(group.rewards.shape))
