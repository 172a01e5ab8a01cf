"""Key steps stand in the solution; their other forms mean the same."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharegrpo_rl.expansion.key_steps import MAX_STEPS, sound_steps, stands_in

SOLUTION = (
    "By the angle sum, a + b = 180. Half of it is 0.5 of 180, so $2x = 90$. The side is 12 cm long. Hence x = 45."
)


def kept(*groups: list[str], answer: str = "45") -> list[list[str]]:
    steps, _ = sound_steps(list(groups), SOLUTION, answer)
    return [list(step) for step in steps]


def test_phrases_numbers_and_equations_with_their_forms() -> None:
    groups = [
        ["angle sum", "sum of angles"],
        ["a + b = 180", "b+a=180"],
        ["0.5", "1/2", "half"],
        ["12 cm", "12 centimetres"],
    ]
    assert kept(*groups) == groups


@pytest.mark.parametrize(
    ("group", "reason"),
    [
        (["law of sines"], "does not occur"),
        (["18"], "does not occur"),
        (["5"], "does not occur"),  # of 0.5 and 45 it is a part only
        (["By the angle sum"], "4 words"),
        (["45"], "the final answer"),
        (["x = 45"], "the final answer"),
        ([" "], "does not occur"),
        (["."], "nothing that could be matched"),
    ],
)
def test_unsound_steps_are_dropped(group: list[str], reason: str) -> None:
    steps, dropped = sound_steps([group], SOLUTION, "45")
    assert steps == ()
    assert reason in dropped[0].reason


@pytest.mark.parametrize(
    ("main", "other"),
    [
        ("0.5", "0.6"),
        ("0.5", "the ratio"),
        ("180", "181"),
        ("angle sum", "180"),
        ("2x = 90", "2x = 91"),
        ("2x = 90", "2y = 90"),
        ("angle sum", "sum of 7 angles"),
        ("angle sum", "what all the angles give"),
        ("12 cm", "12 m"),
        ("0.5", "0.50"),  # not another form, as far as text goes it may stay: see below
    ],
)
def test_forms_that_mean_something_else_are_dropped(main: str, other: str) -> None:
    assert kept([main, other]) == ([[main, other]] if other == "0.50" else [[main]])


def test_the_form_that_stands_in_the_solution_comes_first() -> None:
    assert kept(["1/2", "0.5"]) == [["0.5", "1/2"]]


def test_a_step_counts_once_and_there_is_an_end() -> None:
    assert kept(["angle sum"], ["Angle  Sum"]) == [["angle sum"]]
    solution = " ".join(f"step{n}" for n in range(40))
    steps, dropped = sound_steps([[f"step{n}"] for n in range(40)], solution, "yes")
    assert len(steps) == MAX_STEPS
    assert len(dropped) == 40 - MAX_STEPS


def test_places_are_whole_words_and_numbers() -> None:
    assert stands_in("2X=90", SOLUTION)
    assert not stands_in("x = 9", SOLUTION)
    assert not stands_in("gle sum", SOLUTION)
    assert not stands_in("", SOLUTION)
    assert not stands_in("3", "it is 3.5")
    assert not stands_in("5", "it is 3.5")


@given(st.fractions(Fraction(1, 50), 50, max_denominator=50), st.fractions(Fraction(1, 50), 50, max_denominator=50))
def test_number_forms_are_kept_exactly_where_equal(one: Fraction, other: Fraction) -> None:
    main, form = f"{one.numerator}/{one.denominator}", f"{other.numerator * 3}/{other.denominator * 3}"
    steps, _ = sound_steps([[main, form]], f"We get {main} here.", "yes")
    assert steps == (((main, form) if one == other else (main,)),)


@given(st.lists(st.lists(st.text(max_size=12), max_size=3), max_size=4), st.text(max_size=60))
def test_checks_never_raise(groups: list[list[str]], solution: str) -> None:
    steps, _ = sound_steps(groups, solution, "yes")
    assert all(stands_in(step[0], solution) for step in steps)
