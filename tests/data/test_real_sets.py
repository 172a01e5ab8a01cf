"""The eight image sets load as they are, both splits; skipped where the data is not beside the repository."""

import re
from pathlib import Path

import pytest

from sharegrpo_rl.data.bank_check import check_bank
from sharegrpo_rl.data.loading import TableBank, load_bank

DATA = Path(__file__).parents[2].parent / "shared" / "data"
ROWS = {
    "blindtest": (1146, 375),
    "counting_clevr": (1279, 520),
    "easy_vqa": (9192, 1837),
    "geometry_formalgeo7k": (1500, 300),
    "mnist_pairs": (14679, 2443),
    "nlvr": (5934, 1934),
    "puzzlevqa": (765, 191),
    "shapes": (1728, 512),
}


def bank_of(name: str, split: str, **settings) -> TableBank:
    if not (DATA / name).is_dir():
        pytest.skip(f"{DATA / name} is not there")
    return load_bank(str(DATA / name), split, **settings)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", ROWS)
def test_a_set_loads_as_it_is(name: str, split: str) -> None:
    bank = bank_of(name, split)
    assert len(bank) == ROWS[name][split == "test"]
    ids: set[str] = set()
    check_bank(bank, lambda question: ids.add(question.id))
    assert len(ids) == len(bank)
    assert all(len(bank[index].images) == 1 for index in range(0, len(bank), 50))


def test_each_subtask_of_mnist_pairs_has_its_wordings() -> None:
    bank = bank_of("mnist_pairs", "test")
    assert all(len(bank[index].wordings) == 3 for index in range(0, len(bank), 7))


def test_puzzles_show_their_choices() -> None:
    bank = bank_of("puzzlevqa", "test", template_wordings=True)
    for index in range(len(bank)):
        question = bank[index]
        assert all(f"({question.answer}) {question.extra['answer_text']}" in wording for wording in question.wordings)


def test_the_chinese_question_is_no_wording() -> None:
    bank = bank_of("geometry_formalgeo7k", "test", template_wordings=True)
    for index in range(len(bank)):
        assert len(bank[index].wordings) == 4
        assert not any(re.search(r"[\u4e00-\u9fff]", wording) for wording in bank[index].wordings)


def test_statements_and_choices_of_nlvr() -> None:
    bank = bank_of("nlvr", "test")
    for index in range(0, len(bank), 20):
        assert ("Choices:" in bank[index].question) is False
        assert bool(bank[index].variants) == (bank[index].answer_type == "numeric")


def test_rewordings_of_easy_vqa_are_true() -> None:
    """What an image shows is known from its colour and shape questions; "no", "not" and "without" turn the answer."""
    bank = bank_of("easy_vqa", "train", template_wordings=True)
    questions = [bank[index] for index in range(len(bank))]
    shown: dict[str, set[str]] = {}
    for question in questions:
        facts = shown.setdefault(question.images[0].fingerprint(), set())
        if question.answer_type == "word":
            named = re.search(r"(?:the (\w+)\?|the (\w+) shape\?)$", question.question)
            facts |= {question.answer, *([word for word in named.groups() if word] if named else [])}
    judged = 0
    for question in questions:
        facts = shown[question.images[0].fingerprint()]
        if question.answer_type != "yes_no" or len(facts & COLORS) != 1 or len(facts & FORMS) != 1:
            continue
        for wording in question.wordings:
            thing = next(word for word in re.findall(r"\w+", wording) if word in COLORS | FORMS)
            negated = re.search(r"\b(?:no|not|without)\b", wording) is not None
            assert ((thing in facts) != negated) == (question.answer == "yes"), wording
            judged += 1
    assert judged > 5000


COLORS = {"black", "blue", "brown", "gray", "green", "red", "teal", "yellow"}
FORMS = {"circle", "rectangle", "triangle"}
