"""Views of a bank: some of its questions, prepared when read; those that train; those that lend their images; a lock."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random
from threading import Lock

from sharegrpo_rl.data.bank_check import question_location
from sharegrpo_rl.data.types import QuestionBank, SeedQuestion
from sharegrpo_rl.data.variants import derive_seed
from sharegrpo_rl.envs.generated import GeneratedBank
from sharegrpo_rl.errors import UserError

RANDOM_CANDIDATES = 200  # tried first as a blind partner; then the neighbours, for kinds that are rare
NEIGHBOURS = 2000


class BankView:
    """`view[i]` is `bank[indices[i]]` after `prepare`; nothing is copied."""

    def __init__(
        self,
        bank: QuestionBank,
        indices: Sequence[int],
        prepare: Callable[[SeedQuestion], SeedQuestion] | None = None,
    ) -> None:
        self.name = bank.name
        self.split = bank.split
        self._bank = bank
        self._indices = indices
        self._prepare = prepare

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> SeedQuestion:
        if not 0 <= index < len(self._indices):
            raise IndexError(f"question {index} of {len(self._indices)}")
        question = self._bank[self._indices[index]]
        return question if self._prepare is None else self._prepare(question)

    def original(self, index: int) -> SeedQuestion:
        """The question before any view prepared it."""
        bank, inner = self._bank, self._indices[index]
        return bank.original(inner) if isinstance(bank, BankView) else bank[inner]

    def location(self, index: int) -> str:
        """Where the question comes from (file and row), for error messages."""
        return question_location(self._bank, self._indices[index])


class LockedBank:
    """A bank that several threads read, one question at a time."""

    def __init__(self, bank: QuestionBank) -> None:
        self.name = bank.name
        self.split = bank.split
        self._bank = bank
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._bank)

    def __getitem__(self, index: int) -> SeedQuestion:
        with self._lock:
            return self._bank[index]


def training_questions(bank: QuestionBank, limit: int | None, skip: int = 0, subset_seed: int = 0) -> QuestionBank:
    """What RL uses of a train split: at most `limit` questions, without the first `skip`.

    `subset_seed` draws the questions that `limit` keeps, in the bank's order. A generated bank follows that
    seed by itself and has no end. UserError where nothing remains.
    """
    where = f"{bank.name} ({bank.split})"
    if isinstance(bank, GeneratedBank):
        if limit is not None:
            check_skip(skip, limit, where)
        return bank.part(skip, limit)
    indices: Sequence[int] = range(len(bank))
    if limit is not None and limit < len(indices):
        indices = sorted(Random(derive_seed("subset", subset_seed)).sample(indices, limit))
    check_skip(skip, len(indices), where)
    return BankView(bank, indices[skip:])


def check_skip(skip: int, questions: int, where: str) -> None:
    """UserError where leaving out the first `skip` of `questions` leaves none."""
    if skip >= questions:
        raise UserError(
            f"{where} has {questions} questions to train on, and the first {skip} are left out for the warm start "
            "(warm_start.rows, env_config.skip_questions): none remains; lower these, raise max_questions or add rows"
        )


def blind_partner(bank: QuestionBank, index: int) -> int | None:
    """The question whose images replace a question's own, to measure what the text alone earns.

    A fixed question of the same kind with as many images but other ones; where its kind has none, one of another kind;
    None where there is none at all. It is drawn at random from the index alone: the answers behind the borrowed images
    are distributed like the kind's, and neither a run's seed nor the number of evaluated questions matters.
    """
    question = bank[index]
    fingerprints = _fingerprints(question)
    fallback = None
    for candidate in _candidates(bank, index):
        other = bank[candidate]
        if len(other.images) != len(question.images) or fingerprints & _fingerprints(other):
            continue
        if (other.task, other.subtask) == (question.task, question.subtask):
            return candidate
        fallback = candidate if fallback is None else fallback
    return fallback


def _candidates(bank: QuestionBank, index: int) -> Iterator[int]:
    for draw in range(RANDOM_CANDIDATES):
        yield derive_seed("blind", bank.split, index, draw) % len(bank)
    for step in range(1, min(len(bank), NEIGHBOURS + 1)):
        yield (index + step) % len(bank)


def _fingerprints(question: SeedQuestion) -> set[str]:
    return {image.fingerprint() for image in question.images}
