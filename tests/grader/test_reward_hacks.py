"""Rules that no trick may break: a wrong answer stays wrong whatever follows it, and two answers are none."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sharegrpo_rl.grader import grade

CHOICES = ["40°", "60°", "120°", "140°", "150°"]
JOINS = [
    " or ",
    ", ",
    " and ",
    "; ",
    " / ",
    "/",
    " | ",
    " vs ",
    " to ",
    " OR ",
    ", or ",
    "、",
    "或",
    "和",
    " & ",
    "\n",
    "  ",
]
JOINS += [" maybe ", " but possibly ", " \\text{ or } ", " \\lor ", " \\quad ", " (or ", " ± ", "..."]
DENIALS = [" not ", ", not ", " rather than ", " instead of ", " is right and not "]
KINDS = [
    ["5", "7", "12", "-3", "0.5", "\\frac{2}{3}", "5√{3}", "1,000", "40%", "2.5 cm"],
    ["(5, 3)", "(7, 1)", "(0, 0)", "(-1, 2)"],
    ["red", "blue", "dark green", "yellow"],
    ["x + 5", "x^2 - 1", "2x + 3y", "\\frac{x}{2}"],
    ["x > 5", "x \\leq 2", "1 < x < 4"],
    ["yes", "no"],
    ["3:45 PM", "4:15 PM", "9:00 AM"],
]
TAGGED = {"answer": "<think>so</think><answer>{}</answer>", "boxed": "<think>so</think>\\boxed{{{}}}"}
LAYOUTS = st.sampled_from(sorted(TAGGED.items()))
NUMBERS = st.integers(-999, 9_999)


def score(response: str, gold: str, mode: str = "answer", **known: object) -> float:
    verdict = grade(response, gold, extract=mode, **known)  # type: ignore[arg-type]
    assert verdict.error is None
    return verdict.score


@pytest.mark.parametrize("join", JOINS)
@pytest.mark.parametrize("values", KINDS, ids=lambda values: values[0])
def test_two_different_answers_earn_nothing(values: list[str], join: str) -> None:
    for first, second in zip(values, values[1:] + values[:1], strict=True):
        text = first + join + second + (")" if "(" in join else "")
        for mode, layout in TAGGED.items():
            for gold in (first, second):
                assert score(layout.format(text), gold, mode) == 0, (text, gold)


@pytest.mark.parametrize("denial", DENIALS)
@pytest.mark.parametrize("values", KINDS, ids=lambda values: values[0])
def test_a_denied_answer_earns_nothing(values: list[str], denial: str) -> None:
    for first, second in zip(values, values[1:] + values[:1], strict=True):
        for mode, layout in TAGGED.items():
            assert score(layout.format(first + denial + second), second, mode) == 0, (first, denial, second)


@settings(max_examples=100, deadline=None)
@given(NUMBERS, NUMBERS, LAYOUTS)
def test_a_false_equation_earns_nothing(wrong: int, gold: int, layout: tuple[str, str]) -> None:
    assume(wrong != gold)
    for text in (
        f"{wrong} = {gold}",
        f"{gold} = {wrong}",
        f"{wrong} \\approx {gold}" if wrong * gold < 0 else f"{wrong}={gold}",
    ):
        assert score(layout[1].format(text), str(gold), layout[0]) == 0, text


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from("ABCDE"), min_size=2, max_size=5, unique=True), st.sampled_from(JOINS), LAYOUTS)
def test_several_options_earn_nothing(letters: list[str], join: str, layout: tuple[str, str]) -> None:
    named = join.join(letters)
    spelled = join.join(f"({letter}) {CHOICES['ABCDE'.index(letter)]}" for letter in letters)
    texts = join.join(CHOICES["ABCDE".index(letter)] for letter in letters)
    for answer in (named, spelled, texts):
        for gold in letters:
            assert score(layout[1].format(answer), gold, layout[0], choices=CHOICES) == 0, answer


AFTER = [
    *[
        " or {}",
        ", {}",
        " ({})",
        "; {}",
        " and {}",
        "\n{}",
        " not {}",
        " maybe {}",
        " \\text{{ or }} {}",
        " to {}",
        "-{}",
        " ± {}",
    ],
    *[
        " | {}",
        " vs {}",
        " ({}?)",
        "... {}",
        " \\boxed{{{}}}",
        "</answer><answer>{}",
        "}}\\boxed{{{}",
        ". The answer is {}",
    ],
    *[
        "</answer>{}",
        "</answer> The answer is {}.",
        " because it is {}",
        " < {}",
        " \\neq {}",
        " → {}",
        " (answer: {})",
        "%{}",
    ],
]


@settings(max_examples=300, deadline=None)
@given(NUMBERS, NUMBERS, st.lists(st.sampled_from(AFTER), min_size=1, max_size=3), LAYOUTS)
def test_nothing_after_a_wrong_number_makes_it_right(
    wrong: int, gold: int, junk: list[str], layout: tuple[str, str]
) -> None:
    assume(wrong != gold)
    text = str(wrong) + "".join(piece.format(gold) for piece in junk)
    assert score(layout[1].format(text), str(gold), layout[0]) == 0, text


@settings(max_examples=150, deadline=None)
@given(st.sampled_from("ABCD"), st.sampled_from("ABCD"), st.lists(st.sampled_from(AFTER), max_size=2), LAYOUTS)
def test_nothing_after_a_wrong_letter_makes_it_right(
    wrong: str, gold: str, junk: list[str], layout: tuple[str, str]
) -> None:
    assume(wrong != gold)
    text = wrong + "".join(piece.format(gold) for piece in junk)
    assert score(layout[1].format(text), gold, layout[0], choices=CHOICES) == 0, text


@settings(max_examples=150, deadline=None)
@given(
    NUMBERS,
    NUMBERS,
    st.sampled_from(["+", "-", "*", "×", "·", " + ", " - ", " \\times ", " \\cdot ", " plus ", " times "]),
)
def test_the_question_said_back_is_no_answer(first: int, second: int, operator: str) -> None:
    assume(min(abs(first), abs(second)) > 1)
    value = {"+": first + second, "-": first - second}.get(operator.strip(), first * second)
    value = first + second if operator.strip() == "plus" else value
    asked = f"{first}{operator}{second}"
    assert score(f"<answer>{asked}</answer>", str(value), question=f"What is {asked}?") == 0
    assert score(f"<answer>{asked} = {value}</answer>", str(value), question=f"What is {asked}?") == 1


@settings(max_examples=150, deadline=None)
@given(NUMBERS, st.integers(1, 50), st.integers(1, 50), LAYOUTS)
def test_a_range_around_the_answer_earns_nothing(gold: int, below: int, above: int, layout: tuple[str, str]) -> None:
    low, high = gold - below, gold + above
    ranges = [
        f"{low}-{high}",
        f"{low} to {high}",
        f"between {low} and {high}",
        f"[{low}, {high}]",
        f"{low} < x < {high}",
    ]
    ranges += [
        f"{low}..{high}",
        f"{gold} ± {below}",
        f"at least {gold}",
        f"x > {low}",
        f"about {low} or {high}",
        f"≤ {gold}",
    ]
    for text in [*ranges, f"about {high}", f"{gold} ({high})", ", ".join(map(str, range(low, high + 1)))]:
        assert score(layout[1].format(text), str(gold), layout[0]) == 0, text


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=2, max_size=6))
def test_boxes_that_differ_earn_nothing(values: list[int]) -> None:
    response = "<think>so</think>" + " ".join(f"\\boxed{{{value}}}" for value in values)
    for gold in set(values):
        assert score(response, str(gold), "boxed") == float(len(set(values)) == 1)


@pytest.mark.parametrize("gold", ["7", "B", "yes", "red", "(3, 4)", "x + 1", "[0, 1)", "50%", "5 cm"])
def test_only_what_stands_outside_the_thinking_part_counts(gold: str) -> None:
    for thought in (gold, f"\\boxed{{{gold}}}", f"<answer>{gold}</answer>", f"the answer is {gold}"):
        for said in ("", "so", "<answer></answer>", "<answer>unknown</answer>", "\\boxed{}", "\\boxed{?}"):
            for mode in ("auto", "answer", "boxed", "free"):
                assert score(f"<think>{thought}</think>{said}", gold, mode) == 0
        assert score(f"<think>{thought}", gold, "auto") == 0


def test_a_letter_of_another_alphabet_names_no_option() -> None:
    verdict = grade("<answer>İ</answer>", "A", choices=["x", "y"])  # matches [a-z] where letter case is ignored
    assert (verdict.score, verdict.error) == (0.0, None)
