"""Key steps are found by words and by the values of numbers."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sharegrpo_rl.rewards.steps import matched_share, substring_share


def found(phrase: str, text: str) -> bool:
    return matched_share([text], [[phrase]]) == 1


@pytest.mark.parametrize(
    ("phrase", "text"),
    [
        ("3", "There are 3."),
        ("3", "Also gilt x = 3, fertig"),
        ("0.5", "that is 1/2 of it"),
        ("1/2", "that is .50 of it"),
        ("50 %", "the ratio \\frac{1}{2}"),
        ("½", "50% of them"),
        ("0.5", "50 percent"),
        ("1,234", "1234 people"),
        ("1234", "$1{,}234$"),
        ("12 squares", "twelve squares"),
        ("21 dots", "twenty-one dots"),
        ("-3", "x = -3"),
        ("3", "5 - 3"),
        ("3", "x-3"),
        ("2 + 1 = 3", "so 2+1=3."),
        ("2 + 1 = 3", "$2 + 1 = 3$"),
        ("2 * 9", "2 \\times 9"),
        ("2 * 9", "2×9"),
        ("5 * sqrt(3)", "5\\sqrt{3}"),
        ("5*sqrt(3)", "5√3"),
        ("x^2", "x² + 1"),
        ("x^{2}", "x^2"),
        ("90 degrees", "∠ABC = 90°"),
        ("90°", "$90^\\circ$"),
        ("90", "90 degrees"),
        ("angle ABC", "$\\angle ABC$"),
        ("angle ABC", "∠ABC=∠DEF"),
        ("AB parallel CD", "AB ∥ CD"),
        ("triangle ABC", "△ABC"),
        ("the circles", "The circle is red"),
        ("red circle", "two RED circles"),
        ("circle", "the circle's radius"),
        ("boxes and classes", "box and class"),
        ("right angle", "**right-angle**"),
        ("2 circles", "- 2 circles\n- 1 square"),
        ("1 square", "1) 1 square\n2) 5 circles"),
        ("1, 2, ?, 4", "[1, 2, '?', 4]"),
        ("base angles", "the base\nangles are equal"),
        ("平行", "AB平行CD"),
        ("x1", "x_1 = 4"),
    ],
)
def test_found(phrase: str, text: str) -> None:
    assert found(phrase, text)


@pytest.mark.parametrize(
    ("phrase", "text"),
    [
        ("3", "13"),
        ("3", "31"),
        ("3", "3.5"),
        ("3", "0.3"),
        ("3", "1/3"),
        ("3", "3/4"),
        ("3", "3,000"),
        ("3", "30 %"),
        ("3", "x = -3"),
        ("3", "x3"),
        ("3", "the 3rd"),
        ("1", "that one"),
        ("50", "50 %"),
        ("0.33", "1/3"),
        ("angle", "triangle"),
        ("circle", "semicircle"),
        ("red", "reduced"),
        ("PQR", "PQRS"),
        ("red circle", "the circle is red"),
        ("red circle", "It is red. Circle it."),
        ("2 + 1 = 3", "12 + 1 = 3"),
        ("2 + 1 = 3", "2 + 1 = 31"),
        ("AB + CD", "AB - CD"),
        ("?!", "really?!"),
        ("", "anything"),
        (" . ", "a . b"),
    ],
)
def test_not_found(phrase: str, text: str) -> None:
    assert not found(phrase, text)


def test_a_phrase_stands_within_one_step() -> None:
    assert matched_share(["two red"], [["red circle"]]) == 0
    assert matched_share(["two red", "circle"], [["red circle"]]) == 0


def test_the_share_counts_each_key_step_once() -> None:
    wanted = [["2", "two"], ["3 + 4", "4 + 3"], ["blue"]]
    assert matched_share(["2 and 2, two, and 4 + 3"], wanted) == pytest.approx(2 / 3)
    assert matched_share([], wanted) == 0
    assert matched_share(["2"], []) == 0


def test_released_code_finds_characters() -> None:
    assert substring_share(["There are 13 RED things"], [["3"], ["red th"], ["1/2", "hing"], ["four"]]) == 0.75
    assert substring_share(["3"], []) == 0


@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_a_number_is_never_found_in_another(wanted: int, written: int) -> None:
    assert found(str(wanted), f"x = {written}, then") == (wanted == written)


@given(st.integers(0, 400), st.sampled_from([1, 2, 4, 5, 8, 10, 20, 25]))
def test_one_value_in_every_spelling(top: int, bottom: int) -> None:
    value = Fraction(top, bottom)
    decimal, percent = f"{float(value):.4f}", f"{float(100 * value):.2f}"
    spellings = [
        f"{top}/{bottom}",
        f"{top} / {bottom}",
        f"\\frac{{{top}}}{{{bottom}}}",
        decimal,
        f"{percent} %",
        f"{percent}\\%",
    ]
    for one in spellings:
        for other in spellings:
            assert found(one, f"we get {other} here")


WORDS = ["red", "blue", "circle", "circles", "angle", "3", "13", "1/2", "AB", "+", "=", "two red", "is"]
phrases = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join)
key_steps = st.lists(st.lists(phrases, min_size=1, max_size=3), min_size=1, max_size=5)
texts = st.lists(st.sampled_from([*WORDS, ".", ",", "\n"]), max_size=30).map(" ".join)


def plain_value(word: str) -> object:
    """A word's meaning, worked out the long way."""
    named = {"two": Fraction(2), "circles": "circle"}
    return named[word] if word in named else Fraction(word) if word[0].isdigit() else word.lower()


def plain_share(text: str, wanted: list[list[str]]) -> float:
    """The share by plain loops over sentences and places."""
    sentences = [[plain_value(w) for w in part.replace(",", " ").split()] for part in text.split(".") if part.strip()]
    matched = 0
    for phrasings in wanted:
        hit = False
        for phrase in phrasings:
            words = [plain_value(word) for word in phrase.split()]
            for sentence in sentences:
                for place in range(len(sentence) - len(words) + 1):
                    hit = hit or sentence[place : place + len(words)] == words
        matched += hit
    return matched / len(wanted)


@given(texts, key_steps)
def test_the_share_is_that_of_plain_loops(text: str, wanted: list[list[str]]) -> None:
    assert matched_share([text], wanted) == pytest.approx(plain_share(text, wanted), abs=1e-9)


@given(texts, key_steps, st.randoms())
def test_order_and_case_do_not_matter(text: str, wanted: list[list[str]], random) -> None:
    share = matched_share([text], wanted)
    shuffled = [random.sample(step, len(step)) for step in random.sample(wanted, len(wanted))]
    assert matched_share([text], shuffled) == share
    assert matched_share([text.upper()], wanted) == share
    assert matched_share([text], [[phrase.upper() for phrase in step] for step in wanted]) == share


@given(st.lists(texts, max_size=3), key_steps, st.data())
def test_a_further_step_never_lowers_the_share(steps: list[str], wanted: list[list[str]], data) -> None:
    missing = [step for step in wanted if matched_share(steps, [step]) == 0]
    assume(missing)
    phrase = data.draw(st.sampled_from(data.draw(st.sampled_from(missing))))
    assert matched_share([*steps, phrase], wanted) >= matched_share(steps, wanted) + 1 / len(wanted) - 1e-9
