"""Key steps of drawn shapes: every kind has some, they are true, and reasoning that says them finds them."""

from __future__ import annotations

from collections import Counter

import pytest

from sharegrpo_rl.envs.tasks.drawn_shapes import KINDS, DrawnShapesBank
from sharegrpo_rl.rewards.rubric import Rubric
from sharegrpo_rl.rewards.steps import matched_share

RUBRIC = Rubric({"accuracy": 1.0, "key_steps": 0.1, "step_validity": 1.0}, "steps")


def questions(kind: str, count: int = 40) -> list:
    bank = DrawnShapesBank("train", [kind])
    return [bank[index] for index in range(count)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_target_made_of_key_steps_earns_everything(kind: str) -> None:
    for question in questions(kind):
        assert question.key_steps
        for place in range(4):  # each phrasing alone will do
            steps = [step[min(place, len(step) - 1)] for step in question.key_steps]
            (score,) = RUBRIC.score([RUBRIC.form.render("I look.", question.answer, steps)], question)
            assert score.total == pytest.approx(2.1)


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_alone_has_not_all_key_steps(kind: str) -> None:
    for question in questions(kind):
        assert matched_share([f"The answer is {question.answer}."], question.key_steps) < 1


def test_counts_are_those_of_the_picture() -> None:
    for question in questions("counting"):
        forms = Counter(figure.form for figure in question.images[0].figures)
        said = [f"{number} {form}{'s' * (number > 1)}" for form, number in reversed(forms.most_common())]
        total = " + ".join(str(number) for number in forms.values())
        assert matched_share([*said, f"{total} = {question.answer}"], question.key_steps) == 1
        wrong = [f"{number + 1} {form}s" for form, number in forms.items()]
        assert matched_share(wrong, question.key_steps) == 0


def test_colors_compared_are_those_of_the_picture() -> None:
    for question in questions("comparing"):
        colors = Counter(figure.color for figure in question.images[0].figures)
        said = [f"{color}: {number}" for color, number in colors.items()]
        high, low = sorted(colors.values(), reverse=True)
        assert matched_share([*said, f"{high} > {low}"], question.key_steps) == 1
        assert matched_share([*said, f"{low} > {high}"], question.key_steps) == pytest.approx(2 / 3)


def test_places_are_those_of_the_picture() -> None:
    opposite = {"to the left of": "x", "to the right of": "x", "above": "y", "below": "y"}
    for question in questions("spatial"):
        relation = question.key_steps[-1][0]
        first, second = relation.split()[0], relation.split()[-1]
        axis = next(axis for words, axis in opposite.items() if words in relation)
        place = {figure.form: getattr(figure, axis) for figure in question.images[0].figures}
        lower = "left" in relation or "above" in relation
        assert (place[first] < place[second]) == lower
        assert len(question.key_steps[-1]) == 2


def test_lengths_and_angles_may_be_said_in_several_ways() -> None:
    for question in questions("length"):
        assert matched_share([f"The {question.answer} line is longer."], question.key_steps) == 1
    for question in questions("angle"):
        size = {"acute": "less than 90°", "right": "exactly 90°", "obtuse": "more than 90 degrees"}[question.answer]
        assert matched_share([f"It is {size}.", f"The angle is {question.answer}."], question.key_steps) == 1
