"""Values of expressions: against Python's own arithmetic, and within bounds."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharegrpo_rl.grader import grade, parse_quantity
from sharegrpo_rl.grader.expressions import evaluate, same_number, words_to_number


@st.composite
def expressions(draw: st.DrawFn) -> tuple[str, Fraction]:
    """A random sum of products of small numbers with its value."""
    total, text = Fraction(0), ""
    for i in range(draw(st.integers(1, 4))):
        sign = draw(st.sampled_from("+-"))
        first, second = draw(st.integers(0, 99)), draw(st.integers(1, 99))
        operator, value = draw(
            st.sampled_from(
                [("*", Fraction(first * second)), ("/", Fraction(first, second)), ("^1*", Fraction(first * second))]
            )
        )
        total += value if sign == "+" else -value
        text += (sign if i or sign == "-" else "") + f"({first}){operator}{second}"
    return text, total


@given(expressions())
def test_arithmetic_is_exact(case: tuple[str, Fraction]) -> None:
    text, value = case
    assert evaluate(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2\\sqrt{3}", 2 * math.sqrt(3)),
        ("\\sqrt[3]{27}", 3),
        ("\\frac{10\\sqrt{3}}{3}", 10 * math.sqrt(3) / 3),
        ("9\\pi", 9 * math.pi),
        ("1\\frac{1}{4}", 1.25),
        ("1 1/4", 1.25),
        ("-3^2", -9),
        ("2^-1", 0.5),
        ("2(3+4)", 14),
        ("1.5e3", 1500),
    ],
)
def test_values(text: str, value: float) -> None:
    found = evaluate(text)
    assert found is not None
    assert same_number(found, value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "3x",
        "1 2",
        "(",
        "((1)",
        "1/0",
        "0^0",
        "\\sqrt{-1}",
        "9^9^9^9",
        "1e999999",
        "1" * 5000,
        "(" * 500 + "1" + ")" * 500,
        "2**3**",
    ],
)
def test_no_value_and_no_error(text: str) -> None:
    assert evaluate(text) is None


@given(st.integers(0, 999_999))
def test_numbers_in_words(value: int) -> None:
    assert words_to_number(in_words(value)) == value


def in_words(value: int) -> str:
    small = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    names = [*small.split(), "seventeen", "eighteen", "nineteen"]
    tens = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
    if value < 20:
        return names[value]
    if value < 100:
        return tens[value // 10] + (f"-{names[value % 10]}" if value % 10 else "")
    if value < 1000:
        return f"{names[value // 100]} hundred" + (f" and {in_words(value % 100)}" if value % 100 else "")
    return f"{in_words(value // 1000)} thousand" + (f" {in_words(value % 1000)}" if value % 1000 else "")


@given(st.fractions(max_denominator=1000), st.sampled_from(["", " cm", "°", " m^2", " apples", "\\%"]))
def test_a_number_with_any_unit_is_read(value: Fraction, unit: str) -> None:
    found = parse_quantity(
        f"{value.numerator}/{value.denominator}{unit}" if value.denominator > 1 else f"{value.numerator}{unit}"
    )
    assert found is not None
    assert found.value == value


@given(st.integers(-(10**25), 10**25), st.integers(1, 10**6), st.sampled_from(["{}", "{}.0", "\\boxed{{{}}}"]))
def test_whole_numbers_are_exact_however_many_digits_they_have(gold, distance, form):
    """A bar code or a population that is off by one is another number."""
    for value, score in ((gold, 1.0), (gold + distance, 0.0), (gold - distance, 0.0)):
        assert grade(form.format(value), str(gold)).score == score, (value, gold)


def test_a_decimal_of_a_fraction_may_be_rounded():
    assert same_number(evaluate("0.3333333333"), evaluate("1/3"))
    assert not same_number(evaluate("0.333333"), evaluate("1/3"))
