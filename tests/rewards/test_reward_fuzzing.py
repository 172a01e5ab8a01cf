"""Whatever a model writes, grading ends soon and with a verdict."""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sharegrpo_rl.rewards.extract import EXTRACT_MODES
from sharegrpo_rl.rewards.formats import ANSWER_FORMATS
from sharegrpo_rl.rewards.grading import grade_response

MEGABYTE = 1_000_000
PIECES = [
    "<think>",
    "</think>",
    "<answer>",
    "</answer>",
    "\\boxed{",
    "}",
    "{",
    "\\frac{",
    "\\sqrt{",
    "5",
    "-",
    "(",
    ")",
    "[",
    "]",
    ",",
    " or ",
    " and ",
    "A",
    "(B)",
    "yes",
    "no",
    "%",
    "°",
    " cm",
    "\n",
    " ",
    "$",
    "\\(",
    "\\[",
    "\\]",
    "^",
    "_",
    "=",
    "≈",
    "the answer is ",
    "Final answer: ",
    "√",
    "π",
    "½",
    "10^",
    "e9",
    ".",
    ":",
    "|",
    "\\text{",
    "\0",
    "\ud800",
    "²",
    "答案",
    "not ",
    "12,345",
    "x",
    "*",
    "**",
    "#",
    "\\",
    "twenty-",
]
LARGE = {
    "nested fractions": "\\frac{" * (MEGABYTE // 6),
    "nested roots in a box": "\\boxed{" + "\\sqrt{" * (MEGABYTE // 12) + "1" + "}" * (MEGABYTE // 12) + "}",
    "unclosed boxes": "\\boxed{" * (MEGABYTE // 7),
    "many boxes": "\\boxed{1}" * (MEGABYTE // 9),
    "brackets": "(" * MEGABYTE,
    "open tags": "<answer>" * (MEGABYTE // 8),
    "spaces": " " * MEGABYTE,
    "line ends": " \n" * (MEGABYTE // 2),
    "null bytes": "\0" * MEGABYTE,
    "digits": "<answer>" + "9" * MEGABYTE + "</answer>",
    "hedging": "A or " * (MEGABYTE // 5),
    "announcements": "the answer is " * (MEGABYTE // 14),
    "dollars": "$" * MEGABYTE,
    "displays": "\\[" * (MEGABYTE // 2),
    "options": "(A) yes\n(B) no\n" * (MEGABYTE // 15),
    "minus signs": "-" * MEGABYTE,
    "combining marks": "e" + "\u0301" * MEGABYTE,
}
GOLDS = [("7", None), ("B", ["1", "2"]), ("yes", None), ("even", None), ("[1,2]", None)]


@pytest.mark.parametrize("name", sorted(LARGE))
def test_a_megabyte_is_graded_soon(name: str) -> None:
    for gold, choices in GOLDS:
        for mode in EXTRACT_MODES:
            start = time.monotonic()
            verdict = grade_response(LARGE[name], gold, extract=mode, choices=choices, question="How many?")  # type: ignore[arg-type]
            assert time.monotonic() - start < 5.0
            assert verdict.score == 0
            assert verdict.error is None
    for form in ANSWER_FORMATS.values():
        assert not form.matches(LARGE[name])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.sampled_from(PIECES), max_size=30).map("".join) | st.text(max_size=60),
    st.sampled_from(["5", "A", "yes", "1/2", "red", "{1,2}"]),
    st.sampled_from([None, ["1", "2", "3"], ["yes", "no"]]),
    st.sampled_from(EXTRACT_MODES),
)
def test_never_raises(response: str, gold: str, choices: list[str] | None, mode: str) -> None:
    verdict = grade_response(response, gold, extract=mode, choices=choices, question="How many dots?")  # type: ignore[arg-type]
    assert verdict.score in (0.0, 1.0)
    assert verdict.error is None or verdict.score == 0.0


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(-99, 99), min_size=2, max_size=5, unique=True), st.sampled_from([" or ", ", ", " and ", "; "])
)
def test_several_numbers_never_earn_the_reward_of_one(values: list[int], separator: str) -> None:
    answer = separator.join(map(str, values))
    for value in values:
        assert grade_response(f"<think>so</think><answer>{answer}</answer>", str(value)).score == 0


@settings(max_examples=100, deadline=None)
@given(st.integers(-10_000, 10_000), st.integers(-10_000, 10_000))
def test_numbers_are_right_exactly_when_they_are_equal(gold: int, answer: int) -> None:
    for dressed in (f"{answer}", f"{answer}.0", f"${answer}$", f"{answer:,}", f"x = {answer}", f"{answer} cm"):
        assert grade_response(f"<answer>{dressed}</answer>", str(gold)).score == float(gold == answer)
