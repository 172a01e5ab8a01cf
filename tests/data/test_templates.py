import re

import pytest

from sharegrpo_rl.data.templates import template_wordings

NEGATED = re.compile(r"\b(?:no|not|without)\b")
FAMILIES = [
    ["Is there a blue rectangle?", "Is a blue rectangle present?", "Does the image contain a blue rectangle?"],
    ["Is there not a circle?", "Is no circle present?", "Does the image not contain a circle?"],
    ["What color is the shape?", "What is the color of the shape?"],
    ["What shape is present?", "What shape does the image contain?"],
    ["How many cubes are there in the image?", "How many cubes are in the image?"],
    ["Is a red shape left of above a circle?"],
    ["Is a green shape a triangle?"],
    ['Is the following statement about the image true or false? "There is 1 tower."'],
    ["As shown in the diagram, AB=2, ∠ABC=60°. Find The value of x."],
    ["What is the missing color of the part denoted with a question mark?"],
]


@pytest.mark.parametrize("questions", FAMILIES, ids=lambda questions: questions[0])
def test_equal_questions_have_equal_rewordings(questions: list[str]) -> None:
    all_wordings = [{question, *template_wordings(question)} for question in questions]
    assert all(len(wordings) >= 3 for wordings in all_wordings)
    assert set(template_wordings(questions[0])) <= {*all_wordings[-1], *questions}


@pytest.mark.parametrize("questions", FAMILIES, ids=lambda questions: questions[0])
def test_a_rewording_never_leads_to_another_question(questions: list[str]) -> None:
    family = {*questions, *(wording for question in questions for wording in template_wordings(question))}
    for wording in family:
        assert set(template_wordings(wording)) <= family


@pytest.mark.parametrize(
    "question", ["Is there not a circle?", "Is no red shape present?", "Does the image not contain a cat?"]
)
def test_a_negated_question_stays_negated(question: str) -> None:
    assert all(NEGATED.search(wording) for wording in template_wordings(question))
    assert not any(re.search(r"\b(?:no|not|without)\b.*\b(?:no|not|without)\b", w) for w in template_wordings(question))


def test_an_affirmed_question_stays_affirmed() -> None:
    wordings = template_wordings("Does the image contain an apple?")
    assert "Is there an apple in the image?" in wordings
    assert not any(NEGATED.search(wording) for wording in wordings)


@pytest.mark.parametrize(
    ("question", "kept"),
    [
        ("Is a red shape left of above a circle?", "a red shape left of above a circle"),
        ("How many small rubber cubes are there?", "small rubber cubes"),
        ('Is the following statement about the image true or false? "A is B. C is D"', '"A is B. C is D"'),
        ("As shown in the diagram, AB=4*x-17, CD=2*x-1. Find the measure of ∠HNJ.", "AB=4*x-17, CD=2*x-1"),
        ("As shown in the diagram, AB=4*x-17, CD=2*x-1. Find the measure of ∠HNJ.", "the measure of ∠HNJ"),
    ],
)
def test_what_is_asked_about_is_kept_word_for_word(question: str, kept: str) -> None:
    assert template_wordings(question)
    assert all(kept in wording for wording in template_wordings(question))


@pytest.mark.parametrize(
    "question",
    [
        "Is there a way?",
        "Is there a difference between the two?",
        "How many more cubes than spheres are there?",
        "How many cubes are there? Answer with a number.",
        "What is the overall shape?",
        "What color is the most common?",
        "How many times do the lines cross?",
        "",
    ],
)
def test_anything_else_is_left_alone(question: str) -> None:
    assert template_wordings(question) == ()
