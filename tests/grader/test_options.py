"""Multiple choice: a letter names its option and no other, and a text names the option that it equals."""

from __future__ import annotations

import re
import sys

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sharegrpo_rl.grader import grade, named_options

LETTERS = "ABCDEFGH"
WRAPPED = {
    "answer": "<think>so</think><answer>{}</answer>",
    "boxed": "<think>so</think>\\boxed{{{}}}",
    "free": "The answer is {}.",
}
LETTER_DRESSES = [
    "{}",
    "({})",
    "{}.",
    "{}!",
    "**{}**",
    "<b>{}</b>",
    "Answer: {}",
    "option {}",
    '{{"answer": "{}"}}',
    '["{}"]',
]
FOLDED = [
    *[["b", "B", "c"], ["TT", "Tt", "tt"], ["R/r", "r/R", "rR"], ["3 mW", "3 MW", "3 kW"], ["m!", "m", "m^2"]],
    *[
        ["e^{3x}", "e^{3}x", "3e^x"],
        ["Pb", "pB", "PB"],
        ["x^{y}z", "x^{yz}", "xyz"],
        ["7", "7.0", "8"],
        ["-x", "x", "(x)"],
    ],
]
VALUES = [
    *[["6", "9", "none of the above"], ["$2x-3$", "$x^2-1$", "$x+5$"], ["$x>4$", "$x<4$", "$x=4$", "no solution"]],
    *[["(2, 5)", "(5, 2)", "(-2, 5)", "none of these"], ["$\\frac{3}{7}$", "$\\frac{7}{3}$", "cannot be determined"]],
    *[
        ["$4+\\sqrt{5}$", "$4\\sqrt{5}$", "$5\\sqrt{4}$"],
        ["12 cm", "18 cm", "it varies"],
        ["$[1, 4)$", "$(1, 4]$", "$(1, 4)$"],
    ],
]
OTHER_VALUES = [
    *[
        "-6",
        "6.5",
        "6/5",
        "\\frac{6}{5}",
        "6^2",
        "6\\pi",
        "96",
        "9 - 6",
        "2x+3",
        "x^2+1",
        "x-5",
        "x\\ge4",
        "x\\ne4",
        "-x>4",
    ],
    *[
        "(2, -5)",
        "(5, 2, 2)",
        "\\frac{-3}{7}",
        "\\frac{3}{77}",
        "4-\\sqrt{5}",
        "4+\\sqrt{6}",
        "12 m",
        "180 cm",
        "[1, 4]",
        "[4, 1)",
    ],
    *["9!", "9^{-1}", "\\sqrt{9}", "9x", "6:9", "2x-3y", "(x^2-1)^2", "\\log 6"],
]


def score(response: str, gold: str, mode: str = "answer", **known: object) -> float:
    verdict = grade(response, gold, extract=mode, **known)  # type: ignore[arg-type]
    assert verdict.error is None
    return verdict.score


texts = st.text(min_size=1, max_size=12).map(str.strip).filter(lambda text: len(text) > 1)
option_lists = st.lists(texts, min_size=2, max_size=6, unique=True)


@settings(max_examples=60, deadline=None)
@given(option_lists, st.data())
def test_a_letter_names_exactly_its_option(choices: list[str], data: st.DataObject) -> None:
    named, gold = (data.draw(st.integers(0, len(choices) - 1)) for _ in range(2))
    assume(not any(choice.casefold().strip("().!*") in LETTERS.casefold() for choice in choices))
    for dress in LETTER_DRESSES:
        answer = dress.format(LETTERS[named])
        assert score(WRAPPED["answer"].format(answer), LETTERS[gold], choices=choices) == float(named == gold), answer


@settings(max_examples=60, deadline=None)
@given(option_lists, st.data())
def test_the_exact_text_of_an_option_names_it(choices: list[str], data: st.DataObject) -> None:
    named = data.draw(st.integers(0, len(choices) - 1))
    assert named_options(choices[named], choices) == {named}


@pytest.mark.parametrize("choices", FOLDED, ids=lambda choices: choices[0])
def test_options_that_fold_together_are_told_apart(choices: list[str]) -> None:
    for i, gold in enumerate(LETTERS[: len(choices)]):
        for j, letter in enumerate(LETTERS[: len(choices)]):
            for answer in (letter, f"({letter})", f"{letter}.", choices[j]):
                if len(answer) == 1 and answer in LETTERS[: len(choices)] and answer != letter:
                    continue  # a label of another option
                for mode in ("answer", "boxed"):
                    assert score(WRAPPED[mode].format(answer), gold, mode, choices=choices) <= float(i == j), answer
        assert score(WRAPPED["answer"].format(gold), gold, choices=choices) == 1


@pytest.mark.parametrize("choices", VALUES, ids=lambda choices: choices[0])
@pytest.mark.parametrize("mode", sorted(WRAPPED))
def test_a_value_that_equals_no_option_names_none(choices: list[str], mode: str) -> None:
    for value in OTHER_VALUES:
        for gold in LETTERS[: len(choices)]:
            assert score(WRAPPED[mode].format(value), gold, mode, choices=choices) == 0, (value, gold)


@pytest.mark.parametrize("choices", VALUES, ids=lambda choices: choices[0])
@pytest.mark.parametrize("mode", sorted(WRAPPED))
def test_the_value_of_an_option_names_it(choices: list[str], mode: str) -> None:
    for j, choice in enumerate(choices):
        for i, gold in enumerate(LETTERS[: len(choices)]):
            text = choice.strip("$") if mode == "boxed" else choice
            assert score(WRAPPED[mode].format(text), gold, mode, choices=choices) == float(i == j), (choice, gold)


@settings(max_examples=60, deadline=None)
@given(st.integers(-99, 99), st.integers(-99, 99), st.integers(-99, 99), st.sampled_from(sorted(WRAPPED)))
def test_a_whole_number_names_only_the_option_that_it_is(first: int, second: int, said: int, mode: str) -> None:
    assume(first != second)
    for choices in ([str(first), str(second), "none of the above"], [f"${first}x$", f"${second}x$", "0"]):
        named = [i for i, choice in enumerate(choices) if choice == str(said)]
        for i, gold in enumerate("ABC"):
            assert score(WRAPPED[mode].format(said), gold, mode, choices=choices) == float(named == [i])
        for j, choice in enumerate(choices[:2]):
            text = choice.strip("$")
            for i, gold in enumerate("ABC"):
                assert score(WRAPPED["answer"].format(f"({'AB'[j]}) {text}"), gold, choices=choices) == float(i == j)


SIGNED = ["30", "-30", "150", "-150"]
NAMED = [
    (SIGNED, "A", ["(A) 30", "A. 30", "A) 30"], ["(B) 30", "(A) -30", "(A) −30", "A. -30", "A: -30"]),
    (SIGNED, "B", ["(B) -30", "(B) −30", "B. -30", "\\textbf{(B)} -30", "-30", "B: -30"], ["30", "(B) 30", "B. 30"]),
    (["B", "C", "A", "both"], "A", ["(A) B", "A. B", "A) B", "A: B"], ["B", "(B) C", "A or B", "A, B", "A/B"]),
    (
        ["C, B, A", "B, A, C", "A, C, B"],
        "B",
        ["(B) B, A, C", "B. B, A, C", "B, A, C", "B"],
        ["A. C, B, A", "A", "C, B, A", "B, C"],
    ),
    (
        ["II only", "III only", "II and III", "none"],
        "A",
        ["II", "II only", "only II", "(A) II"],
        ["III", "II and III", "II, III"],
    ),
    (
        ["II only", "III only", "II and III", "none"],
        "C",
        ["II and III", "II, III", "II & III"],
        ["II", "III", "II or III"],
    ),
    (
        ["4", "9", "16", "none of these"],
        "D",
        ["None", "none of the above", "None of them.", "neither"],
        ["no", "0", "5", "not 4"],
    ),
    (
        ["red", "teal", "pink", "gold"],
        "ACD",
        ["ACD", "DCA", "选ACD", "A、C、D", "A, C and D", "A和C和D"],
        ["AC", "ABCD", "A or C or D or B"],
    ),
    (
        ["red", "teal", "pink", "gold"],
        "BD",
        ["【答案】BD", "DB", "B和D", "(B)(D)", "B und D", "故选BD"],
        ["B", "BC", "D", "BCD"],
    ),
    (
        ["red", "teal", "pink", "gold"],
        "B",
        ["B!", "<b>B</b>", "<strong>(B)</strong> teal", '["B"]', "B</s>", "B<|im_end|>", "teal"],
        ["!B", "\\sout{B}", "teal (not B)", "C (not B)", "not B", "B?D", "red, teal", "prefer A to B", "teal is wrong"],
    ),
    (
        ["Yes", "No", "Cannot be determined"],
        "B",
        ["no", "No, it is not", "否", "nein", "нет", "B"],
        ["no idea", "Yes", "sí", "No image was given"],
    ),
]


@pytest.mark.parametrize(("choices", "gold", "right", "wrong"), NAMED, ids=lambda value: str(value)[:20])
def test_what_names_an_option(choices: list[str], gold: str, right: list[str], wrong: list[str]) -> None:
    for answer in right:
        assert score(WRAPPED["answer"].format(answer), gold, choices=choices) == 1, answer
    for answer in wrong:
        assert score(WRAPPED["answer"].format(answer), gold, choices=choices) == 0, answer


PROSE = [
    ("I cannot choose option {} or any other.", 0),
    ("I am unable to select ({}).", 0),
    ("It is impossible to say whether option {} is right.", 0),
    ("The choice with the most legs is {} (8 legs).", 1),
    ("Okay, from what is given:\n\n{}", 1),
    ("All things considered:\n\n**{}**", 1),
    ("(A) one\n(B) two\n(C) three\n(D) four\n({}", 0),
    ("Answer - {}", 1),
    ("Selected: {}", 1),
    ("__Answer__: {}", 1),
    ('{{"reason": "it fits", "answer": "{}"}}', 1),
    ("```json\n{{\"answer\": \"{}\"}}\n```", 1),
    ("<s> {}</s>", 1),
    ("{} <eoa>", 1),
    ("{}<|im_end|>\n<|im_start|>user\nAnd now?", 1),
    ("## Answer\n{}", 1),
    ("The answer is not {}.", 0),
]  # fmt: skip


@pytest.mark.parametrize(("response", "right"), PROSE)
def test_letters_in_prose(response: str, right: int) -> None:
    choices = ["13", "14", "15", "16"]
    for letter in "BCD":
        for gold in "BCD":
            expected = right if letter == gold else 0
            assert score(response.format(letter), gold, "free", choices=choices) == expected, (letter, gold)


def test_order_counts_where_letters_are_to_be_ordered() -> None:
    question = "Put the events in the right order, with the letters A to D."
    assert score("<answer>D, B, A, C</answer>", "D, B, A, C", question=question) == 1
    assert score("<answer>A, B, C, D</answer>", "D, B, A, C", question=question) == 0
    assert score("<answer>C, B</answer>", "B, C", question="Which of these are mammals?") == 1


def test_no_character_of_any_script_raises() -> None:
    every = map(chr, range(sys.maxunicode + 1))
    like_a_letter = [c for c in every if not c.isascii() and re.match("[a-z]", c, re.IGNORECASE)]
    assert like_a_letter
    for character in [*like_a_letter, *map(chr, range(128, sys.maxunicode, 4099))]:
        for answer in (character, f"({character})", f"option {character}", f"A, {character}", f"{character}) x"):
            assert score(f"<answer>{answer}</answer>", "B", choices=["x", "y"]) == 0
        assert score(f"The answer is {character}.", "A", "free") == 0


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40), st.sampled_from(["A", "yes", "red", "9:30", "B. four", "AC", "CO_2"]), st.booleans())
def test_no_text_raises(text: str, gold: str, has_choices: bool) -> None:
    known = {"choices": ["red", "yes", "9:30"]} if has_choices else {}
    for response in (text, f"<answer>{text}</answer>", f"\\boxed{{{text}}}", f"The answer is {text}"):
        assert score(response, gold, "auto", **known) in (0.0, 1.0)


STATED = [
    "8 is wrong",
    "it is 8/3",
    "the value is 8.5",
    "between 8 and 9",
    "8 or 9",
    "more than 8",
    "8^2 = 64",
    "half of 8",
    "8 squared",
]
STATED += [
    "The sum is 8+9 = 17",
    "The result is 8\\pi.",
    "so 8 is too small",
    "There are 80 of them",
    "It is 0.8",
    "eight or nine",
    "8:9",
]


@pytest.mark.parametrize("statement", STATED)
def test_a_statement_that_holds_the_digits_of_an_option_does_not_name_it(statement: str) -> None:
    for response in (
        statement,
        f"<answer>{statement}</answer>",
        f"\\boxed{{{statement}}}",
        f"The answer is {statement}.",
    ):
        assert score(response, "A", "auto", choices=["8", "9", "none of the above"]) == 0, response


@pytest.mark.parametrize("end", ["(AD)", "(AD", "(A", "(AD) shade"])
def test_options_that_a_model_invents_answer_nothing(end: str) -> None:
    labels = [*"CDEFGHIJKLMNOPQRSTUVWXYZ", "AA", "AB", "AC"]
    response = "\n".join(["(A) yes", "(B) no", *(f"({label}) shade {label.lower()}" for label in labels), end])
    for gold in ("A", "B", "yes", "no"):
        assert score(response, gold, "free", choices=["yes", "no"], question="Is Teal the darkest?") == 0


@pytest.mark.parametrize(
    ("answer", "gold"),
    [("1+x", "A"), ("-(1-x)", "B"), ("1 - x", "C"), ("y=-x-1", "D"), ("(x+1)/1", "A"), ("-1-x", "D")],
)
def test_an_expression_names_the_option_that_it_equals(answer: str, gold: str) -> None:
    choices = ["$y=x+1$", "$y=x-1$", "$y=1-x$", "$y=-x-1$"]
    for other in "ABCD":
        assert score(f"<answer>{answer}</answer>", other, choices=choices) == float(other == gold)
