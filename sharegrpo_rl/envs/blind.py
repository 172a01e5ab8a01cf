"""Which question's images stand in for a question's own, to measure what the text alone earns."""

from __future__ import annotations

from collections.abc import Iterator

from sharegrpo_rl.data.seeding import derive_seed
from sharegrpo_rl.data.types import QuestionBank, SeedQuestion

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
