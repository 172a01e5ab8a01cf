"""Values: what a name, a unit, a case, a brace or a word next to a number makes of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sharegrpo_rl.grader import grade, parse_quantity, split_unit
from sharegrpo_rl.grader.algebra import same_equation, same_expression
from sharegrpo_rl.grader.expressions import evaluate, same_number, with_foreign_numbers
from sharegrpo_rl.grader.numbers import _TABLE, conversion


def score(answer: str, gold: str, **known: object) -> float:
    verdict = grade(f"<answer>{answer}</answer>", gold, **known)  # type: ignore[arg-type]
    assert verdict.error is None, verdict
    return verdict.score


RIGHT = {
    # gold: other dresses of it
    "tan(3x)": ["\\tan(3x)", "\\tan 3x", "tan 3x", "\\tan\\left(3x\\right)", "\\frac{\\sin 3x}{\\cos 3x}"],
    "\\ln 5": ["ln(5)", "ln 5", "\\log_e 5", "\\ln(5)"],
    "e^{2t}": ["exp(2t)", "e^(2t)", "\\exp(2t)", "(e^t)^2"],
    "a**3+b**2": ["a^3+b^2", "b**2 + a**3", "a^{3}+b^{2}"],
    "\\frac{3}{4}i": ["0.75i", "\\frac{3i}{4}"],
    "e^{i\\pi/4}": ["\\frac{\\sqrt2}{2}+\\frac{\\sqrt2}{2}i"],
    "\\frac{M_{\\odot}}{r}": ["\\frac{M_\\odot}{r}"],
    "v_{\\max}=\\frac{a}{3}": ["\\frac{a}{3}", "v_{\\max} = \\frac{a}{3}", "a/3"],
    "\\frac{dy}{dx}=6x": ["6x"],
    "g'(t)=3t^2": ["3t^2"],
    "x - 2y + z = 4": ["Answer: x - 2y + z = 4", "**Answer:** 2x-4y+2z=8", "Final answer: z+x-2y=4"],
    "C. n = 7": ["Answer: C. n = 7", "**Answer: C. n = 7**"],
    "\\begin{pmatrix} 5 \\\\ -2 \\end{pmatrix}": [
        "(5, -2)",
        "\\langle 5, -2 \\rangle",
        "\\begin{bmatrix}5\\\\[4pt] -2\\end{bmatrix}",
    ],
    "\\begin{bmatrix}2&0\\\\1&4\\end{bmatrix}": [
        "\\begin{pmatrix} 2 & 0 \\\\ 1 & 4 \\end{pmatrix}",
        "\\left(\\begin{array}{cc} 2 & 0 \\\\ 1 & \\frac{8}{2} \\end{array}\\right)",
        "[[2, 0], [1, 4]]",
        "A = \\begin{pmatrix}2&0\\\\1&4\\end{pmatrix}",
    ],
    "\\begin{cases} a = 3 \\\\ b = 8 \\end{cases}": ["a=3, b=8", "b = 8, a = 3"],
    "2.5 kV": ["2500 V", "2500 volts", "2.5 kilovolts", "2.5"],
    "40 mA": ["0.04 A", "40 milliamperes"],
    "6.02e23 mol": ["6.02\\times10^{23}"],
    "9.8 m/s^2": ["9.8", "9.8 m s^{-2}", "9.8 N/kg", "980 cm/s^2", "9.8 meters per second squared"],
    "4.18 J/(g K)": ["4.18 J/g K", "4180 J/(kg K)", "4.18"],
    "30 N·m": ["30 J", "30"],
    "3 weeks": ["21 days"],
    "2 years": ["24 months"],
    "25 degrees Celsius": ["25 °C", "25℃", "25 摄氏度", "25"],
    "7": ["七", "سبعة", "siete", "bảy", "٧", "칠", "answer: 7", "Réponse: 7", "<b>7</b>", "\\textcolor{blue}{7}"],
    "-8": ["负8", "マイナス8", "负八"],
    "23": ["二十三", "hai mươi ba", "이십삼"],
    "25000": ["2.5万", "两万五千", "25 thousand"],
    "30%": ["百分之三十", "30％", "٣٠٪"],
    "2/5": ["五分之二", "hai phần năm"],
    "3\\sqrt{7}": ["3根号7", "3√7"],
    "7:4": ["7比4"],
    "5/4": ["1又1/4", "一又四分之一"],
    "8余3": ["8……3", "8 remainder 3", "8...3"],
    "②④": ["④②", "②、④", "② ④"],
    "5/6": ["0.8333..."],
    "2/3": ["0.666..."],
    "(-4,9)": ["]-4,9["],
    "x>2 and x<9": ["9>x and 2<x", "2<x<9", "(2, 9)"],
    "13": ["x\\approx13", "29 \\bmod 16 = 13", "\\color{red}13"],
    "\\{(5,6),(7,8)\\}": ["(5,6),(7,8),(5,6)", "\\{(7,8),(5,6)\\}"],
    "45678910": ["45,\\! 678,\\! 910", "45 678 910", "45{,}678{,}910"],
    "1,310": ["$8,250 - $6,940 = $1,310", "705 + 605 = 1,310"],
    "÷": ["÷"],
    "n=6": ["6", "n = 6", "6 = n", "n is 6", "The value of n is 6"],
    "AB = 4": ["BA = 4", "4"],
    "∠B = 50°": ["∠ABC = 50°", "50°", "m∠B=50"],
    "S = 12": ["Area = 12", "The area is 12"],
    "['cat', 'dog']": ["cat, dog", '["cat", "dog"]'],
    "(1) 4 (2) 9": ["(1)4; (2)9", "① 4 ② 9", "4, 9"],
    "2k": ["2k"],
    "-3 \\le t": ["-3 \\\\le t", "t \\ge -3"],
    "h": ["h"],
}
WRONG = {
    # gold: answers of another value
    "P-p": ["p-P"],
    "\\frac{T}{t}": ["\\frac{t}{T}"],
    "B+b": ["2b", "2B"],
    "Bb": ["bb", "BB"],
    "Tt": ["TT", "tt"],
    "AABb": ["AaBb", "aabb"],
    "No_2": ["NO_2"],
    "Sn": ["SN"],
    "3^{4}y": ["3^{4y}"],
    "t^{3}z": ["t^{3z}"],
    "y^{13}": ["y^{1}3"],
    "P_{12}^{3}": ["P_{1}2^{3}"],
    "\\log_{3}9y": ["\\log_{39}y"],
    "k!": ["k"],
    "3m": ["3m!"],
    "1.38e-23": ["0", "2.76e-23", "1.38e-22"],
    "0": ["1e-30"],
    "9876543210": ["9876543211"],
    "\\frac{1}{999999937}": ["\\frac{1}{999999929}"],
    "\\frac{1}{3^{40}}": ["\\frac{1}{3^{41}}"],
    "\\begin{pmatrix} 7 \\\\ 3 \\end{pmatrix}": [
        "\\begin{pmatrix} 3 \\\\ 7 \\end{pmatrix}",
        "(3, 7)",
        "\\begin{pmatrix} 7 & 3 \\end{pmatrix}",
    ],
    "\\begin{bmatrix} a & b \\\\ c & d \\end{bmatrix}": [
        "\\begin{bmatrix} a & c \\\\ b & d \\end{bmatrix}",
        "\\begin{vmatrix} a & b \\\\ c & d \\end{vmatrix}",
        "a, b, c, d",
    ],
    "p=8": ["q=8", "8 = q", "q is 8", "The value of q is 8"],
    "PQ = 10": ["RS = 10"],
    "\\sin(t)=\\frac{1}{3}": ["\\cos(t)=\\frac{1}{3}"],
    "m=4, n=6": ["m=6, n=4", "a=6, b=4"],
    "u=4, v=6": ["s=4, t=6"],
    "g(x)=3x": ["h(x)=3x"],
    "t<2 or t>8": ["t<2 and t>8", "t>2 or t<8"],
    "tea or milk": ["tea and milk"],
    "2 cats and 9 dogs": ["9 cats and 2 dogs"],
    "(1) 4 (2) 9": ["(1) 9 (2) 4", "9, 4"],
    "(a) x (b) y": ["(a) y (b) x"],
    "4,6,8": ["4, 6, 8, ...", "4,6,8,\\ldots"],
    "567": ["5**6**7", "5^{6}7"],
    "3 mV": ["3 MV"],
    "8 pA": ["8 Pa"],
    "15": ["five 3"],
    "20 N·m": ["20 N/m"],
    "6 J": ["6 W"],
    "30 °C": ["30 °F", "30 K"],
    "21": ["\\binom{7}{2}", "\\sum_{k=1}^{6}k", "\\lim_{x\\to 21}x", "\\int_0^{21}dx"],
    "24": ["4!"],
    "5": ["\\log_2 32", "\\sqrt{25}", "5 + 3 = 5", "2 + 2 = 5"],
    "\\frac{n(n+1)}{2}": ["\\sum_{k=1}^{n}k"],
    "y": ["\\frac{y^2}{y}", "Y"],
    "\\sin{3}y": ["\\sin{3y}"],
    "①④": ["①③", "①"],
    "8余3": ["8余2", "83"],
    "1/3": ["0.3", "0.33", "0.34..."],
    "DCBA": ["ABCD", "D"],
}


def pairs(table: dict[str, list[str]]) -> list[tuple[str, str]]:
    return [(gold, answer) for gold, answers in table.items() for answer in answers]


@pytest.mark.parametrize(("gold", "answer"), pairs(RIGHT))
def test_the_same_value_in_another_dress(gold: str, answer: str) -> None:
    assert score(answer, gold) == 1


@pytest.mark.parametrize(("gold", "answer"), pairs(WRONG))
def test_another_value(gold: str, answer: str) -> None:
    assert score(answer, gold) == 0


@pytest.mark.parametrize(
    ("question", "gold", "copied"),
    [
        ("Factor $t^2-9$.", "(t-3)(t+3)", "t^2-9"),
        ("Write $\\frac{10}{15}$ in lowest terms.", "2/3", "\\frac{10}{15}"),
        ("Differentiate: find $\\frac{d}{dt}t^4$.", "4t^3", "\\frac{d}{dt}t^4"),
        ("Find $\\log_3 81$.", "4", "\\log_3 81"),
        ("Expand $(k+1)^2$.", "k^2+2k+1", "(k+1)^2"),
        ("How many ways: $\\binom{9}{2}$?", "36", "\\binom{9}{2}"),
    ],
)
def test_the_question_said_back_earns_nothing(question: str, gold: str, copied: str) -> None:
    assert score(copied, gold, question=question) == 0
    assert score(gold, gold, question=question) == 1
    assert score(f"{copied} = {gold}", gold, question=question) == 1


def test_order_of_letters_counts_where_it_means_something() -> None:
    assert score("BD", "DB", question="What does the plate say?") == 0
    assert score("DB", "BD", question="Which are true?") == 1
    assert score("B, A, C", "A, B, C", question="Arrange the steps in order.") == 0


def test_a_percentage_where_percent_is_asked_for() -> None:
    assert score("15%", "15", question="What percent is it?") == 1
    assert score("1500%", "15", question="What percent is it?") == 0
    assert score("15%", "0.15", question="What is the probability?") == 1


@pytest.mark.parametrize(
    ("answer", "gold", "same"),
    [
        ("R=\\frac{V}{I}", "V=IR", True),
        ("y=\\frac{6}{x}", "xy=6", True),
        ("t=\\frac{v-u}{a}", "v=u+at", True),
        ("2x+2y=6", "x+y=3", True),
        ("p=s^2", "s=p^2", False),
        ("y=\\sqrt{4-x^2}", "x^2+y^2=4", False),
        ("(x-y)^2=0", "x=y", None),
        ("y=3x+1", "y=3x-1", False),
        ("y=X+1", "y=x+1", False),
        ("words and words", "y=x", None),
    ],
)
def test_equations(answer: str, gold: str, same: bool | None) -> None:
    assert same_equation(answer, gold) is same


LONG_RUNS = ["A" + "1" * 300, "sin " * 90 + "x", "x^" * 95 + "x", "-" * 150 + "x", "x" + "!" * 60, "5 " + "m/" * 200]
LONG_RUNS += ["5" + "千" * 40, "\\frac{" * 15 + "x" + "}{y}" * 15, "1" * 40 + "." + "3" * 300 + "...", "is " * 60 + "7"]
LONG_RUNS += ["1e300" + "x" * 100]


@pytest.mark.parametrize("text", LONG_RUNS)
def test_long_runs_take_little_work(text: str, little_work: Callable[[], None]) -> None:
    for gold in ("x^2+1", "7", "y=x", "CO_2", "5 m"):
        verdict = grade(f"<answer>{text}</answer>", gold)
        assert verdict.error is None
        little_work()


# ---- Properties.

LETTERS = "abcdkmnpqrtuvwxyz"


@given(st.integers(), st.integers())
def test_two_different_integers_are_never_equal(first: int, second: int) -> None:
    assert same_number(Fraction(first), Fraction(second)) == (first == second)


@given(st.fractions(), st.fractions())
def test_two_different_fractions_are_never_equal(first: Fraction, second: Fraction) -> None:
    assume(first != second)
    texts = (f"\\frac{{{value.numerator}}}{{{value.denominator}}}" for value in (first, second))
    left, right = map(evaluate, texts)
    assert left is None or right is None or not same_number(left, right)


@given(
    st.decimals(places=6, allow_nan=False, allow_infinity=False, min_value=-1000, max_value=1000),
    st.integers(-300, 250),
)
def test_tolerance_is_relative(value: Decimal, exponent: int) -> None:
    assume(value != 0)
    near, far = evaluate(f"{value}e{exponent}"), evaluate(f"{value * 2}e{exponent}")
    assert near is not None
    assert far is not None
    assert same_number(near, near)
    assert not same_number(near, far)
    assert not same_number(near, Fraction(0))


@settings(deadline=None)
@given(
    st.sampled_from(LETTERS),
    st.sampled_from(LETTERS),
    st.sampled_from(["{}-{}", "\\frac{{{}}}{{{}}}", "{}^2+{}", "2{}+3{}"]),
)
def test_upper_and_lower_case_are_two_letters(first: str, second: str, form: str) -> None:
    gold = form.format(first.upper(), second)
    for other in (form.format(first, second.upper()), form.format(first, second), gold.lower()):
        if other != gold:
            assert score(other, gold) == 0, (gold, other)


@settings(deadline=None)
@given(st.sampled_from(LETTERS), st.sampled_from(LETTERS), st.integers(-99, 99))
def test_a_value_of_another_name(first: str, second: str, value: int) -> None:
    assert score(f"{second} = {value}", f"{first} = {value}") == float(first == second)
    assert score(str(value), f"{first} = {value}") == 1


PREFIXED = sorted(
    name[1:] for names in _TABLE.values() for name in names.split() if name.startswith("~") and name[1:].isascii()
)


@given(st.sampled_from(PREFIXED), st.integers(1, 9999))
def test_si_prefixes_of_every_unit(unit: str, value: int) -> None:
    kilo, milli = ("kilo", "milli") if len(unit) > 3 and unit.islower() else ("k", "m")
    base, larger, smaller = (split_unit(f"{value} {prefix}{unit}")[1] for prefix in ("", kilo, milli))
    assert conversion(larger, base) == 1000
    assert conversion(smaller, base) == Fraction(1, 1000)
    assert parse_quantity(f"{value} {kilo}{unit}") is not None


@given(
    st.sampled_from(
        [name for names in _TABLE.values() for name in names.replace("~", "").split() if name not in "$€£¥₹"]
    ),
    st.integers(2, 999),
)
def test_every_unit_is_read_and_may_be_left_out(unit: str, value: int) -> None:
    found = parse_quantity(f"{value} {unit}")
    assert found is not None
    assert found.value == value
    assert found.unit is not None


NOT_BEFORE = (
    "twice,half of,the opposite of,the square of,above,under,no,not,wrong:,minus,one over,the number after,over"
)
NOT_BEFORE += ",neither,less than"
NOT_BEHIND = "squared,factorial,trillion,tenths,thousandths,is false,is wrong,is too big,or so or more,times two"
NOT_BEHIND += ",below zero,doubled,mod 3"
PHRASES = [
    *["The area is {} square units", "{} green cubes", "x equals {}", "about {}", "There are {} birds in the tree."],
    *[
        "The answer is {}",
        "It has {} sides",
        "a total of {}",
        "We get {}",
        "{} of them",
        "{} is the answer",
        "I count {} dots",
    ],
]


@settings(deadline=None)
@given(
    st.integers(4, 9999),
    st.sampled_from(NOT_BEFORE.split(",")),
    st.sampled_from(NOT_BEHIND.split(",")),
    st.sampled_from(PHRASES),
)
def test_words_around_a_number(value: int, before: str, behind: str, phrase: str) -> None:
    gold = str(value)
    assert score(phrase.format(value), gold) == 1
    for text in (
        f"{before} {value}",
        f"{value} {behind}",
        f"It is {before} {value}",
        f"The answer is {value} {behind}",
    ):
        assert score(text, gold) == 0, text


@given(st.integers(0, 99_999))
def test_chinese_numbers(value: int) -> None:
    quantity = parse_quantity(in_chinese(value))
    assert quantity is not None
    assert quantity.value == value


def in_chinese(value: int) -> str:
    digits = "零一二三四五六七八九"
    if value < 10:
        return digits[value]
    for scale, name in ((10_000, "万"), (1_000, "千"), (100, "百"), (10, "十")):
        if value >= scale:
            rest = value % scale
            zero = "零" if 0 < rest < scale // 10 else ""
            return in_chinese(value // scale) + name + zero + (in_chinese(rest) if rest else "")
    raise AssertionError


@given(st.text(max_size=60))
def test_nothing_that_is_written_stops_the_readers(text: str) -> None:
    with_foreign_numbers(text)
    parse_quantity(text)
    split_unit(text)
    same_expression(text, "x^2")
    assert re.sub(r"\s", "", text) is not None
