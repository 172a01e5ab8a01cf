"""The base of banks whose questions are generated, each from its number alone."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from functools import lru_cache
from random import Random
from typing import ClassVar, Self, TypeVar

from sharegrpo_rl.data.types import SeedQuestion
from sharegrpo_rl.data.variants import derive_seed
from sharegrpo_rl.errors import UserError

Value = TypeVar("Value")


class GeneratedBank:
    """A QuestionBank without a last question: a subclass sets `name` and `task` and writes `make(number)`.

    `random` and `deal` are the only sources of chance. They depend on the split (and, in train, on `subset_seed`), so
    a question never changes. `len` counts the questions of `sizes`; `max_questions` may ask for more.
    """

    name: str  # the environment's id
    task: ClassVar[str]  # names the curve, and is part of every seed
    sizes: ClassVar[dict[str, int]] = {"train": 50_000, "test": 2_000}

    def __init__(self, split: str, *, subset_seed: int = 0, transforms: Sequence[str] | None = None) -> None:
        """`transforms` narrows what `make` allows; None = all of it."""
        if split not in self.sizes:
            raise UserError(f"{self.name} has the splits {' and '.join(self.sizes)}, not {split!r}")
        self.split = split
        self._stream = f"{split}-{subset_seed}" if split == "train" and subset_seed else split
        self._transforms = transforms
        self._start = 0
        self._length = self.sizes[split]

    def make(self, number: int) -> SeedQuestion:
        """Question `number` (0, 1, ...) of the split; equal numbers give equal questions."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> SeedQuestion:
        if not 0 <= index < self._length:
            raise IndexError(f"question {index} of {self._length}")
        question = self.make(self._start + index)
        if self._transforms is None or question.transforms is None:
            return question
        return replace(question, transforms=tuple(t for t in question.transforms if t in self._transforms))

    def part(self, start: int, stop: int | None = None) -> Self:
        """The questions from `start` up to `stop`; without `stop`, as many as this bank has."""
        bank = copy(self)
        bank._start += start
        if stop is not None:
            bank._length = stop - start
        return bank

    def question_id(self, number: int) -> str:
        """An id that differs for every question of every split and `subset_seed`."""
        return f"{self._stream}-{number}"

    def random(self, *key: str | int) -> Random:
        """A separate random generator for each key, such as `self.random("hands", number)`."""
        return Random(derive_seed(self.task, self._stream, *key))

    def deal(self, values: Sequence[Value], turn: int, *key: str | int) -> Value:
        """The value at `turn` of an endless series of shuffled passes: each comes once before any comes again."""
        cycle, position = divmod(turn, len(values))
        return values[_order(len(values), self.task, self._stream, "order", *key, cycle)[position]]


@lru_cache(maxsize=4096)  # the questions of a pass share its order
def _order(length: int, *key: str | int) -> list[int]:
    return Random(derive_seed(*key)).sample(range(length), length)
