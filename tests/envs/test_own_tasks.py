"""A task of one's own with a bank of its own: skipping, limits and checks are the base class's work."""

from dataclasses import replace

import pytest

from sharegrpo_rl.data.types import SeedQuestion
from sharegrpo_rl.envs.multimodal_qa import EnvOptions, MultimodalQAEnv
from sharegrpo_rl.errors import UserError


class ListedBank:
    """The least that a bank must have."""

    name = "a list"

    def __init__(self, split, questions):
        self.split = split
        self._questions = questions

    def __len__(self):
        return len(self._questions)

    def __getitem__(self, index):
        return self._questions[index]


class SquaresEnv(MultimodalQAEnv):
    """Squares of small numbers."""

    id = "Squares-v0"
    rows = tuple(SeedQuestion(str(n), f"What is {n} * {n}?", str(n * n), answer_type="numeric") for n in range(20))

    @classmethod
    def questions(cls, options, split):
        return ListedBank(split, cls.rows)


def train_ids(**options):
    bank = SquaresEnv.load_bank(EnvOptions(**options), "train")
    return [bank[index].id for index in range(len(bank))]


def test_a_bank_of_four_things_is_skipped_and_limited():
    whole = [question.id for question in SquaresEnv.rows]
    assert train_ids() == whole
    assert train_ids(skip_questions=5) == whole[5:]
    drawn, other = train_ids(max_questions=8), train_ids(max_questions=8, subset_seed=1)
    assert len(drawn) == 8
    assert drawn == sorted(drawn, key=int) != other
    assert train_ids(max_questions=8, skip_questions=3) == drawn[3:]
    assert len(SquaresEnv.load_bank(EnvOptions(max_questions=8, skip_questions=3), "test")) == 20
    with pytest.raises(UserError, match=r"a list \(train\) has 8 questions .*first 8 are left out .*none remains"):
        train_ids(max_questions=8, skip_questions=8)


def test_its_questions_are_checked_when_loading(monkeypatch):
    bad = replace(SquaresEnv.rows[3], answer="a lot")
    monkeypatch.setattr(SquaresEnv, "rows", (*SquaresEnv.rows[:3], bad))
    with pytest.raises(UserError, match=r"a list \(train\) question 3, id 3: .*a lot"):
        SquaresEnv(split="train")
    assert len(SquaresEnv(split="train", check=False).bank) == 4
