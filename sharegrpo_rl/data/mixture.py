"""Several banks as one: an epoch that holds them in the ratio of their weights, in an order that never changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from sharegrpo_rl.data.bank_check import question_location
from sharegrpo_rl.data.types import QuestionBank, SeedQuestion
from sharegrpo_rl.data.variants import derive_seed
from sharegrpo_rl.errors import UserError

LONGEST_EPOCH = 10_000_000  # questions; the order of an epoch is kept in memory
Rows: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class MixedSet:
    """One bank of a mixture. `key` names it in errors, `label` prefixes its questions' ids."""

    bank: QuestionBank
    key: str
    label: str


@dataclass(frozen=True)
class Order:
    """The questions of an epoch [L]: each one's set, its row there, and how often it came before."""

    sets: Rows
    rows: Rows
    passes: Rows


class MixtureBank:
    """A QuestionBank over several banks. Ids are unique: `label/id`, with the suffix `~2` where a row comes again."""

    def __init__(self, split: str, sets: Sequence[MixedSet], order: Order) -> None:
        self.name = " + ".join(mixed.label for mixed in sets)
        self.split = split
        self.sets = tuple(sets)
        self._order = order

    def __len__(self) -> int:
        return len(self._order.sets)

    def __getitem__(self, index: int) -> SeedQuestion:
        number, row = self.source(index)
        question = self.sets[number].bank[row]
        passes = int(self._order.passes[index])
        suffix = f"~{passes + 1}" if passes else ""
        return replace(question, id=f"{self.sets[number].label}/{question.id}{suffix}")

    def source(self, index: int) -> tuple[int, int]:
        """(set, row of its bank) of a question."""
        if not 0 <= index < len(self):
            raise IndexError(f"question {index} of {len(self)}")
        return int(self._order.sets[index]), int(self._order.rows[index])

    def location(self, index: int) -> str:
        """Where the question comes from (file and row), for error messages."""
        number, row = self.source(index)
        return question_location(self.sets[number].bank, row)


def mix_train(
    sets: Sequence[MixedSet],
    weights: Sequence[float] | None,
    *,
    seed: int = 0,
    skip: int = 0,
    limit: int | None = None,
) -> MixtureBank:
    """One epoch of training questions: at most `limit` of them, without the first `skip`.

    Every row occurs, and the sets are in the ratio of their weights (None = of their sizes): exactly over an epoch,
    nearly in every part of it. A set too small for its weight repeats, each time as a seeded permutation of all its
    rows. Rows among the skipped questions occur nowhere else; UserError where that leaves a set without rows.
    """
    sizes = [len(mixed.bank) for mixed in sets]
    counts = epoch_counts(sizes, weights)
    length = sum(counts)
    if length > LONGEST_EPOCH:
        raise UserError(
            f"env_config.data: with these weights an epoch that holds every row has {length:,} questions, "
            f"and {LONGEST_EPOCH:,} is the most; give the large sets more weight, or a smaller max_questions"
        )
    set_of = interleave(counts, derive_seed("mixture", "train", seed))
    skipped = np.bincount(set_of[:skip], minlength=len(sets))
    for mixed, size, lost in zip(sets, sizes, skipped, strict=True):
        if lost >= size:
            raise UserError(
                f"{mixed.key}: all its {size} questions are among the first {skip}, which are left out for the warm start "
                "(warm_start.rows, env_config.skip_questions): none remains; lower these, or the set's weight"
            )
    walks = [
        _walk(size, count, int(lost), derive_seed("mixture", seed, number))
        for number, (size, count, lost) in enumerate(zip(sizes, counts, skipped, strict=True))
    ]
    return MixtureBank("train", sets, _order(set_of, walks, skip, limit))


def mix_test(sets: Sequence[MixedSet]) -> MixtureBank:
    """Every test question once, each set in its own order; every first part has the sets in the ratio of their sizes.

    The order of the sets is drawn, the same in every run: strictly alternating two sets would ask one of them in its
    even wordings only.
    """
    sizes = [len(mixed.bank) for mixed in sets]
    walks = [(np.arange(size), np.zeros(size, np.int64)) for size in sizes]
    return MixtureBank("test", sets, _order(interleave(sizes, derive_seed("mixture", "test")), walks))


def epoch_counts(sizes: Sequence[int], weights: Sequence[float] | None) -> list[int]:
    """Questions of each set in an epoch: the shortest one that holds every row and keeps the ratio, rounded."""
    if weights is None:
        return list(sizes)
    scale = max(size / weight for size, weight in zip(sizes, weights, strict=True))
    return [max(size, round(scale * weight)) for size, weight in zip(sizes, weights, strict=True)]


def interleave(counts: Sequence[int], seed: int) -> Rows:
    """The set of each question [sum of counts]: a set's k-th one falls into the k-th of `count` equal parts, at random."""
    rng = np.random.default_rng(seed)
    times = [(np.arange(count) + rng.random(count)) / count for count in counts]
    sets = np.repeat(np.arange(len(counts)), counts)
    return sets[np.argsort(np.concatenate(times), kind="stable")]


def _walk(size: int, count: int, skipped: int, seed: int) -> tuple[Rows, Rows]:
    """Rows [count] in a set's order, and how often each came before [count]; the first `skipped` rows never return."""
    rng = np.random.default_rng(seed)
    first = rng.permutation(size)
    kept = first[skipped:]
    more = -(-(count - size) // len(kept))  # passes after the first one
    repeats = rng.permuted(np.tile(kept, (more, 1)), axis=1).ravel()
    passes = np.concatenate([np.zeros(size, np.int64), np.repeat(np.arange(1, more + 1), len(kept))])
    return np.concatenate([first, repeats])[:count], passes[:count]


def _order(sets: Rows, walks: Sequence[tuple[Rows, Rows]], start: int = 0, stop: int | None = None) -> Order:
    """The walks of all sets, dealt out in the order of `sets` [L]; of that the questions `start` to `stop`."""
    rows, passes = np.empty(len(sets), np.int64), np.empty(len(sets), np.int64)
    for number, (set_rows, set_passes) in enumerate(walks):
        rows[sets == number], passes[sets == number] = set_rows, set_passes
    return Order(sets[start:stop], rows[start:stop], passes[start:stop])
