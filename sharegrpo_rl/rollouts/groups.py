"""From seed questions to requests, and from episodes back to groups `[variant][sample]`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharegrpo_rl.data.transforms import TRANSFORMS, allowed_transforms
from sharegrpo_rl.data.types import Group, PromptPack, QuestionBank, SeedQuestion, SlotRequest
from sharegrpo_rl.data.variants import derive_seed, plan_slots
from sharegrpo_rl.envs.bank_view import BankView
from sharegrpo_rl.envs.multimodal_qa import MultimodalQAEnv
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.models.prompts import PromptEncoder, Question

# ---- `kl_in_reward: True`: the KL to the reference policy is taken off each completion's reward, before credit is assigned.

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


# ---- Questions whose prompt would not fit `max_prompt_tokens`: found before training, left out and counted, never truncated.


def fitting_questions(
    bank: QuestionBank, encoder: PromptEncoder, transformed: bool = False, most: int | None = None
) -> list[int]:
    """Indices of the (first `most`) questions that fit in every wording, and with the longest transform sentence
    where `transformed`. UserError where none does.
    """
    sentence = max((t.sentence for t in TRANSFORMS.values()), key=len) if transformed else ""
    limit = encoder.settings.max_prompt_tokens
    chosen = list(islice((i for i in range(len(bank)) if _fits(bank[i], encoder, sentence, limit)), most))
    if not chosen:
        raise UserError(
            f"{bank.name} ({bank.split}): all {len(bank)} questions are over-long (the first is {bank[0].id}); "
            f"raise max_prompt_tokens = {limit}, or lower max_pixels = {encoder.settings.max_pixels}"
        )
    return chosen


def keep_fitting(env: MultimodalQAEnv, encoder: PromptEncoder, most: int) -> None:
    """Cut the environment's bank down to the first `most` questions that fit."""
    chosen = fitting_questions(env.bank, encoder, most=most)
    if chosen != list(range(len(chosen))):
        env.bank = BankView(env.bank, chosen)


def _fits(question: SeedQuestion, encoder: PromptEncoder, sentence: str, limit: int) -> bool:
    longest = max(question.wordings, key=lambda text: len(text.encode()))
    text = f"{longest} {sentence}".strip()
    bound = encoder.token_bound(text, len(question.images))
    if bound is not None and bound <= limit:
        return True
    if len(text) > 20 * limit:  # no tokenizer writes twenty letters of prose as one token
        return False
    pictures = tuple(np.array(source.open(), dtype=np.uint8) for source in question.images)
    return len(encoder.token_ids(Question(text, pictures))) <= limit


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
            SlotRequest(group, index, slot, config.num_generations, derive_seed("sample", *key, slot.slot))
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
