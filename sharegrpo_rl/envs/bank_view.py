"""Some questions of a bank, in an order of their own, each prepared when it is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sharegrpo_rl.data.types import QuestionBank, SeedQuestion


class BankView:
    """`view[i]` is `bank[chosen[i]]` after `prepare`; nothing is copied."""

    def __init__(
        self,
        bank: QuestionBank,
        chosen: Sequence[int],
        prepare: Callable[[SeedQuestion], SeedQuestion] | None = None,
    ) -> None:
        self.name = bank.name
        self.split = bank.split
        self._bank = bank
        self._chosen = chosen
        self._prepare = prepare

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> SeedQuestion:
        if not 0 <= index < len(self._chosen):
            raise IndexError(f"question {index} of {len(self._chosen)}")
        question = self.original(index)
        return question if self._prepare is None else self._prepare(question)

    def original(self, index: int) -> SeedQuestion:
        """The question as the bank has it."""
        return self._bank[self._chosen[index]]

    def place(self, index: int) -> str:
        """Where the question comes from (file and row), for error messages."""
        inner = self._chosen[index]
        place = getattr(self._bank, "place", None)
        return place(inner) if place else f"{self.name} ({self.split}) question {inner}"
