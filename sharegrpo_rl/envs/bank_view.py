"""Some questions of a bank, in an order of their own, each prepared when it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from sharegrpo_rl.data.types import QuestionBank, SeedQuestion
from sharegrpo_rl.data.variants import derive_seed

# ---- Which question's images stand in for a question's own, to measure what the text alone earns.

DRAWS = 200  # random candidates; then the neighbours, for kinds that are rare
NEIGHBOURS = 2000


def blind_partner(bank: QuestionBank, index: int) -> int | None:
    """A fixed question of the same kind, with as many images but other ones; None where there is none.

    Drawn at random, though from the index alone: the answers behind the borrowed images are spread like the kind's,
    and the choice depends neither on a run's seed nor on how many questions are evaluated. Where the kind has no other
    image, another kind lends one.
    """
    question = bank[index]
    shown = _fingerprints(question)
    lender = None
    for candidate in _candidates(bank, index):
        other = bank[candidate]
        if len(other.images) != len(question.images) or shown & _fingerprints(other):
            continue
        if (other.task, other.subtask) == (question.task, question.subtask):
            return candidate
        lender = candidate if lender is None else lender
    return lender


def _candidates(bank: QuestionBank, index: int) -> Iterator[int]:
    for draw in range(DRAWS):
        yield derive_seed("blind", bank.split, index, draw) % len(bank)
    for step in range(1, min(len(bank), NEIGHBOURS + 1)):
        yield (index + step) % len(bank)


def _fingerprints(question: SeedQuestion) -> set[str]:
    return {image.fingerprint() for image in question.images}


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
