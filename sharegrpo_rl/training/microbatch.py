"""Cutting packs into minibatches of whole questions and micro-batches of a token budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

import numpy as np

from sharegrpo_rl.data.types import PromptPack


class Grouped(Protocol):
    """What belongs to a seed question: a pack."""

    @property
    def group(self) -> int: ...


G = TypeVar("G", bound=Grouped)


def minibatches(packs: Sequence[G], questions: int | None) -> list[list[G]]:
    """Packs by seed question, `questions` of them in each minibatch (None = all); a question is never split."""
    by_group: dict[int, list[G]] = {}
    for pack in packs:
        by_group.setdefault(pack.group, []).append(pack)
    groups = list(by_group.values())
    size = questions or max(1, len(groups))
    return [[p for g in groups[i : i + size] for p in g] for i in range(0, len(groups), size)]


def micro_batches(packs: Sequence[PromptPack], token_budget: int) -> list[list[PromptPack]]:
    """Packs in order, as many as fit the budget; a pack that does not fit is cut into sub-packs that repeat its prompt."""
    batches: list[list[PromptPack]] = []
    room = 0
    for pack in (part for p in packs for part in cut(p, token_budget)):
        size = num_tokens(pack)
        if size > room:
            batches.append([])
            room = token_budget
        batches[-1].append(pack)
        room -= size
    return batches


def cut(pack: PromptPack, token_budget: int) -> list[PromptPack]:
    """The pack itself where it fits, else sub-packs; a single completion is never cut, even where it alone is too long."""
    if num_tokens(pack) <= token_budget:
        return [pack]
    prompt, size = len(pack.prompt.input_ids), 0
    parts: list[list[int]] = []
    current: list[int] = []
    for i, completion in enumerate(pack.completions):
        length = len(completion.token_ids)
        if current and prompt + size + length > token_budget:
            parts.append(current)
            current, size = [], 0
        current.append(i)
        size += length
    return [select(pack, rows) for rows in [*parts, current]]


def select(pack: PromptPack, rows: Sequence[int]) -> PromptPack:
    """The pack with some of its completions; their credit goes with them unchanged."""
    index = np.asarray(rows, dtype=np.int64)
    return replace(
        pack,
        completions=tuple(pack.completions[i] for i in rows),
        advantages=pack.advantages[index],
        native=pack.native[index],
        old_logprobs=None if pack.old_logprobs is None else tuple(pack.old_logprobs[i] for i in rows),
    )


def num_tokens(pack: PromptPack) -> int:
    """Tokens that run through the model: the prompt once and every completion once."""
    return len(pack.prompt.input_ids) + sum(len(c.token_ids) for c in pack.completions)
