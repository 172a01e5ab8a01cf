"""From seed questions to requests, from episodes to groups `[variant][sample]`, from groups to packs and to metrics.

A question whose prompt would exceed `max_prompt_tokens` is found before training, left out and counted; prompts are never
truncated.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from sharegrpo_rl.config.run import GRPOOptions, RunOptions
from sharegrpo_rl.data.images import size_of
from sharegrpo_rl.data.transforms import TRANSFORMS, allowed_transforms
from sharegrpo_rl.data.types import Group, PromptPack, QuestionBank, SeedQuestion, SlotRequest
from sharegrpo_rl.data.variants import derive_seed, plan_slots
from sharegrpo_rl.envs.bank_view import BankView
from sharegrpo_rl.envs.multimodal_qa import MultimodalQAEnv
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.grader import errors_by_kind
from sharegrpo_rl.models.prompts import PromptEncoder, Question
from sharegrpo_rl.ops.advantages import reward_density, solved_ratio, valid_ratio, valid_slot_ratio

CHUNK = 256  # questions that are held at once


def fitting_questions(
    bank: QuestionBank, encoder: PromptEncoder, transformed: bool = False, limit: int | None = None
) -> list[int]:
    """Indices of the (first `limit`) questions that fit in every wording, and with the longest transform sentence where
    `transformed`. UserError where none does.
    """
    sentence = max((t.sentence for t in TRANSFORMS.values()), key=len) if transformed else ""
    indices: list[int] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding, resizing and tokenizing hold no lock
        start, wanted = 0, CHUNK if limit is None else min(CHUNK, limit)
        while start < len(bank) and wanted:
            chunk = range(start, min(start + wanted, len(bank)))
            fits = pool.map(lambda question: _fits(question, encoder, sentence), (bank[i] for i in chunk))
            indices += [i for i, fit in zip(chunk, fits, strict=True) if fit]
            start, wanted = chunk.stop, CHUNK if limit is None else min(CHUNK, limit - len(indices))
    if not indices:
        raise UserError(
            f"{bank.name} ({bank.split}): all {len(bank)} questions are over-long (the first is {bank[0].id}); "
            f"{encoder.make_room}"
        )
    return indices


def keep_fitting(env: MultimodalQAEnv, encoder: PromptEncoder, limit: int) -> None:
    """Reduce the environment's bank to its first `limit` questions that fit."""
    indices = fitting_questions(env.bank, encoder, limit=limit)
    if indices != list(range(len(indices))):
        env.bank = BankView(env.bank, indices)


def _fits(question: SeedQuestion, encoder: PromptEncoder, sentence: str) -> bool:
    longest = max(question.wordings, key=lambda text: len(text.encode()))
    text = f"{longest} {sentence}".strip()
    bound, limit = encoder.token_bound(text, len(question.images)), encoder.settings.max_prompt_tokens
    if bound is not None and bound <= limit:
        return True
    if (fits := encoder.fits(text, [size_of(source) for source in question.images])) is not None:
        return fits
    images = tuple(np.array(source.open(), dtype=np.uint8) for source in question.images)
    return len(encoder.token_ids(Question(text, images))) <= limit


def plan_requests(
    bank: QuestionBank,
    questions: Sequence[tuple[int, int]],
    options: RunOptions,
    seed: int,
    iteration: int,
    first_group: int = 0,
) -> list[SlotRequest]:
    """A request for each slot of each (epoch, question index); every seed is derived, none is drawn.

    Groups are numbered from `first_group`. A question comes once an epoch, so (epoch, iteration, id) is unique.
    A method that samples nothing gets one slot and one completion for each question: its target.
    """
    shape: dict[str, Any] = {"num_variants": 1, "include_original": "sampled", "strict_variants": False}
    num_generations = 1
    if isinstance(options, GRPOOptions):
        shape = {name: getattr(options, name) for name in shape}
        num_generations = options.num_generations
    requests = []
    for group, (epoch, index) in enumerate(questions, start=first_group):
        question = bank[index]
        key = (seed, epoch, iteration, question.id)
        slots = plan_slots(
            question,
            transform_probability=options.transform_probability,
            wording=options.wording,
            allowed=allowed_transforms(question, options.transforms),
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
        errors=tuple(tuple(d["error"] for d in slot) for slot in data) if _has_errors(data) else (),
    )


def _has_errors(data: list[list[dict[str, Any]]]) -> bool:
    return any(d["error"] is not None for slot in data for d in slot)


def native_packs(group: Group, advantages: NDArray[np.float64]) -> list[PromptPack]:
    """A pack for each slot of its own completions, with the group's advantages [V, N]."""
    return [
        PromptPack(group.group, slot.slot, prompt, completions, credit, np.ones(len(completions), bool))
        for slot, prompt, completions, credit in zip(
            group.slots, group.prompts, group.completions, advantages, strict=True
        )
    ]


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
        "grader_errors_by_kind": {kind.replace(" ", "_"): n for kind, n in errors_by_kind(errors).items()},
    }


def group_metrics(groups: Sequence[Group], num_variants: int) -> dict[str, Any]:
    """How much the groups can teach; `valid_advantage_ratio`, `reward_density` and `solved_ratio` look at accuracy.

    The paper's valid-advantage ratio has two readings, each under its own name: `valid_accuracy_ratio` (the value of
    `valid_advantage_ratio`) and `valid_reward_ratio`. `tasks` has figures for each task where the groups belong to
    several, `kinds` for each kind of question.
    """
    return {
        **_kind_metrics(groups),
        "valid_accuracy_ratio": valid_ratio([g.accuracies for g in groups]),
        "valid_reward_ratio": valid_ratio([g.rewards for g in groups]),
        "valid_slot_ratio": valid_slot_ratio([g.accuracies for g in groups]),
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
