"""Whatever a model writes, grading ends with a verdict after little work."""

from __future__ import annotations

import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sharegrpo_rl.data.types import SeedQuestion
from sharegrpo_rl.evaluation.verdict import vote
from sharegrpo_rl.grader import ANSWER_FORMATS, EXTRACT_MODES, grade, shared_pool, truth_fault
from sharegrpo_rl.rewards.rubric import Rubric

pytestmark = pytest.mark.timeout(3_600)  # thousands of grades, on a machine however busy
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
    "\u202e",
    "\u0660",
    "\\pm ",
    "\\cup ",
    "\\infty ",
    "<",
    ">=",
    "x=",
    "3:45 PM",
    "March 5, 2014",
    " million",
    " and a half",
    " because ",
    " than ",
    "或",
    "∅",
    "{,}",
    "\\overline{3}",
    "\\begin{pmatrix}",
    "&",
    "\\\\",
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
    "braces": "{" * 100_000 + "}" * 100_000,
    "a box of braces": "\\boxed{" + "{" * 100_000 + "7" + "}" * 100_001,
    "towers": "<answer>9**9**9**9 9^{9^{9^9}} " * (MEGABYTE // 32),
    "nested fractions in a tag": "<answer>" + "\\frac{1}{" * (MEGABYTE // 9) + "</answer>",
    "marks that turn the text": "\u202e7\u202c" * (MEGABYTE // 3),
    "lone surrogates": "\ud800\udfff" * (MEGABYTE // 2),
    "number words": "one and a half million " * (MEGABYTE // 23),
    "equations": "x = 7 or " * (MEGABYTE // 9),
    "times": "3:45 PM or " * (MEGABYTE // 11),
    "sentences": "It is not 7. " * (MEGABYTE // 13),
}
GOLDS = [("7", None), ("B", ["1", "2"]), ("yes", None), ("even", None), ("[1,2]", None)]


@pytest.mark.parametrize("name", sorted(LARGE))
def test_a_megabyte_is_graded_with_little_work(name: str, little_work: Callable[[], None]) -> None:
    for gold, choices in GOLDS:
        for mode in EXTRACT_MODES:
            verdict = grade(LARGE[name], gold, extract=mode, choices=choices, question="How many?")  # type: ignore[arg-type]
            little_work()
            assert verdict.score == 0
            assert verdict.error is None
    for form in ANSWER_FORMATS.values():
        assert not form.matches(LARGE[name])


LONG_ANSWERS = [
    *[
        "1",
        "1,",
        "1 ",
        "1:",
        "A",
        "A ",
        "(",
        "[1,",
        "{1}",
        "\\frac{",
        "\\frac{1}{2}",
        "\\sqrt{",
        "\\text{1}",
        "$1$ ",
        "=",
        "x=1,",
        "1=",
    ],
    *[
        "x<1 or ",
        "±",
        "- ",
        "1+",
        "**a**",
        "^{",
        "°",
        "1 cm ",
        "1 h ",
        "one ",
        "one and ",
        "twenty-",
        "minus ",
        "or ",
        "not ",
        "yes ",
    ],
    *[
        "the answer is ",
        "is 1 ",
        "because ",
        "答案是",
        "或",
        "。",
        "March 5, ",
        "3:45 ",
        "0.\\overline{3}",
        "(A) ",
        "√1",
        "½",
        "\u202e",
    ],
    *["\ud800", "\0", '"', "\\\\", "\\ ", "\n", ". ", "1_", "1!", "12,345", "\\or", "\\quad ", "1 \\or ", "A - "],
]
SAID_AGAIN = [("yes ", "yes"), ("3:45 ", "3:45 PM")]  # a right answer said again and again stays right
LONG_GOLDS = [
    *GOLDS,
    ("x^2+1", None),
    ("(3, 4)", None),
    ("3:45 PM", None),
    ("A, C", None),
    ("5 cm", None),
    ("k=1, n=2", None),
]


@pytest.mark.parametrize("piece", LONG_ANSWERS)
def test_a_long_answer_of_one_piece_is_graded_with_little_work(piece: str, little_work: Callable[[], None]) -> None:
    answer = (piece * 2_000)[:1_990]
    for gold, choices in LONG_GOLDS:
        for response in (f"<answer>{answer}</answer>", f"\\boxed{{{answer}}}", answer):
            verdict = grade(response, gold, choices=choices, question="How many?")
            little_work()
            assert verdict.error is None
            assert verdict.score == 0 or (piece, gold) in SAID_AGAIN, (gold, response[:40])


@pytest.mark.parametrize(
    "text",
    [
        *[
            "9**9**9**9",
            "9^{9^9}",
            "9^9^9",
            "99999!",
            "(10^5)!",
            "\\binom{100000}{50000}",
            "99^{99}!",
            "2^{10000}",
            "7^{7^{7}}",
        ],
        *[
            "((((((2^{99})^{99})^{99})^{99})^{99})^{99})",
            "(x+1)^{500}",
            "(a+b+c+d)^{60}",
            "10^{600} \\approx 10^{600}",
            "1e300:1e300:1e300",
        ],
        *[
            "nan",
            "inf",
            "-inf",
            "1e999",
            "0/0",
            "\\frac{0}{0}",
            "10^{1600}",
            "10^{-700}",
            "1:10^{500}",
            "10^{600}%",
            "1e300 km",
        ],
    ],
)
def test_a_value_without_bounds_is_no_error(text: str, little_work: Callable[[], None]) -> None:
    for gold, choices in [("7", None), ("3:4:5", None), ("50%", None), ("B", ["1.5", "2.5", "95.26"]), ("x+1", None)]:
        verdict = grade(f"<answer>{text}</answer>", gold, choices=choices, precision=2)
        assert verdict.score == 0
        assert verdict.error is None
        little_work()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.sampled_from(PIECES), max_size=30).map("".join) | st.text(max_size=60),
    st.sampled_from(
        ["5", "A", "yes", "1/2", "red", "{1,2}", "x > 5", "3:45 PM", "5 cm", "50%", "A, C", "y = x", "3:4:5"]
    ),
    st.sampled_from([None, ["1", "2", "3"], ["yes", "no"]]),
    st.sampled_from(EXTRACT_MODES),
)
def test_never_raises(response: str, gold: str, choices: list[str] | None, mode: str) -> None:
    verdict = grade(response, gold, extract=mode, choices=choices, question="How many dots?")  # type: ignore[arg-type]
    assert verdict.score in (0.0, 1.0)
    assert verdict.error is None or verdict.score == 0.0


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(-99, 99), min_size=2, max_size=5, unique=True), st.sampled_from([" or ", ", ", " and ", "; "])
)
def test_several_numbers_never_earn_the_reward_of_one(values: list[int], separator: str) -> None:
    answer = separator.join(map(str, values))
    for value in values:
        assert grade(f"<think>so</think><answer>{answer}</answer>", str(value)).score == 0


@settings(max_examples=100, deadline=None)
@given(st.integers(-10_000, 10_000), st.integers(-10_000, 10_000))
def test_numbers_are_right_exactly_when_they_are_equal(gold: int, answer: int) -> None:
    for dressed in (f"{answer}", f"{answer}.0", f"${answer}$", f"{answer:,}", f"x = {answer}", f"{answer} cm"):
        assert grade(f"<answer>{dressed}</answer>", str(gold)).score == float(gold == answer)


# ---- Rows of the tables of cases, changed at random: no change may bring out an error that is a bug of ours.

MUTATED = 3_000
MUTATED_SLOW = 200_000
# Characters whose other case is longer, shorter or in another script; digits and letters of other scripts; joiners.
STRANGE = "İıſßŉǰΐẞK\u212aÅΩﬁ\u0130\u0345\u1e9e²½Ⅷⅷ①⓪㊿〇零五万億٣۳३๓𝟛𝔸ª\u200b\u200d\u202e\u2028\x1c\x85\ufeff\ud800\U0010ffff"
DRESSED = [
    *["<answer>{}</answer>", "<answer>({})</answer>", "<answer>option {}</answer>", "<answer>A, {}</answer>"],
    *["\\boxed{{{}}}", "\\boxed{{\\text{{{}}}}}", "The answer is {}.", "Answer: {}", "{}"],
]
FURTHER = ["accuracy", "key_steps", "step_validity", "key_steps_released", "step_validity_released"]


def table_rows() -> list[dict[str, Any]]:
    """Response, gold, choices and question of each case in `cases/`, in four layouts."""
    layouts = ["<think>so</think><answer>{}</answer>", "\\boxed{{{}}}", "So the answer is {}.", "{}"]
    rows: list[dict[str, Any]] = []
    for path in sorted(Path(__file__).with_name("cases").glob("*.txt")):
        known: dict[str, Any] = {}
        for line in path.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(" ")
            if name in ("=", "!"):
                rows.append({"response": layouts[len(rows) % 4].format(value), **known})
            elif name in ("gold", "question", "unit", "answer_type"):
                known[name] = value
            elif name == "choices":
                known[name] = value.split(" | ")
            elif not line:
                known = {}
    return rows


def any_character(rng: random.Random) -> str:
    kind = rng.randrange(4)
    if kind == 0:
        return rng.choice(STRANGE)
    if kind == 1:
        return chr(rng.randrange(32, 127))
    return chr(rng.randrange(0x3000 if kind == 2 else sys.maxunicode + 1))


def mutated(text: str, rng: random.Random, other: str) -> str:
    """The text after one change somewhere."""
    i, j = sorted((rng.randint(0, len(text)), rng.randint(0, len(text))))
    part = text[i:j]
    changes: list[Callable[[], str]] = [
        lambda: any_character(rng),
        lambda: part + any_character(rng) * rng.randint(1, 40),
        lambda: "",
        lambda: part * rng.randint(2, 30),
        lambda: part.upper(),
        lambda: part.lower(),
        lambda: part.swapcase(),
        lambda: part[::-1],
        lambda: any_character(rng).join(part),
        lambda: other[i : j + 1],
        lambda: rng.choice(PIECES) + part + rng.choice(PIECES),
        lambda: rng.choice('({[<"«“$|') + part + rng.choice(')}]>"»”$|'),
        lambda: str(rng.randrange(-(10 ** rng.randint(1, 40)), 10 ** rng.randint(1, 40))),
    ]
    return text[:i] + rng.choice(changes)() + text[j:]


def mutated_row(rows: list[dict[str, Any]], rng: random.Random) -> dict[str, Any]:
    row, other = dict(rng.choice(rows)), rng.choice(rows)
    if rng.random() < 0.1:  # one character, as an answer is dressed
        row["response"] = rng.choice(DRESSED).format(any_character(rng))
        return row
    for _ in range(rng.randint(1, 4)):
        name = rng.choice(["response", "response", "response", "gold", "question", "choices", "unit"])
        if name == "choices":
            choices = list(row.get("choices") or other.get("choices") or [row["gold"], other["gold"]])
            k = rng.randrange(len(choices))
            choices[k] = mutated(choices[k], rng, other["gold"])
            row["choices"] = choices
        else:
            row[name] = mutated(str(row.get(name) or other.get(name) or ""), rng, str(other["response"]))
    row["precision"] = rng.choice([row.get("precision"), None, 0, 3, -1, 400])
    return row


def bugs_over(number: int, seed: int) -> tuple[Counter[str], list[str]]:
    """How many of the mutated rows ended how, and those on which code of ours failed."""
    rng, rows = random.Random(seed), table_rows()
    rubrics = [Rubric(dict.fromkeys(FURTHER, 1.0), name) for name in ANSWER_FORMATS]
    counts, bugs = Counter[str](), list[str]()
    for _ in range(number):
        row = mutated_row(rows, rng)
        verdict = grade(extract=rng.choice(("auto", *EXTRACT_MODES)), **row)
        assert verdict.score in (0.0, 1.0)
        assert verdict.error is None or verdict.score == 0.0
        errors = [verdict.error]
        known = {name: value for name, value in row.items() if name not in ("response", "gold", "question")}
        known["choices"] = tuple(row.get("choices") or ())
        steps = ((row["gold"],),)
        question = SeedQuestion("row", row.get("question") or "", row["gold"], key_steps=steps, **known)
        if rng.random() < 0.2:
            (score,) = rng.choice(rubrics).score([row["response"]], question)
            errors += [score.error, truth_fault(question)]
        if verdict.error is None:
            vote(question, verdict.extracted)
        counts[verdict.kind if verdict.error is None else verdict.error.partition(":")[0]] += 1
        bugs += [f"{error} {row!a}" for error in errors if error and ("unexpected: " in error or "crash: " in error)]
    return counts, bugs


def test_mutated_rows_bring_out_no_bug() -> None:
    before = shared_pool().requests
    counts, bugs = bugs_over(MUTATED, seed=18)
    assert not bugs, "\n".join(bugs[:20])
    assert counts.total() == MUTATED
    assert len(counts) > 8  # every kind of comparison is reached
    assert shared_pool().requests - before < MUTATED / 5  # most rows need no computer algebra


@pytest.mark.parametrize("gold", ["\\pm 2", "1, 2", "{1, 2}", "(1, 2)", "2 \\pm 1"])
@pytest.mark.parametrize("answer", ["\\pm", "\\{\\pm}", "(±)", "±, ±", "{,}", "[;]", "(and)", "2, ±", "{''}", "2 ±"])
def test_a_sign_without_a_number_is_no_list(answer: str, gold: str) -> None:
    for text, truth in ((answer, gold), (gold, answer)):
        verdict = grade(f"<answer>{text}</answer>", truth)
        assert verdict.error is None
        assert verdict.score == 0


@pytest.mark.slow
@pytest.mark.timeout(36_000)
def test_very_many_mutated_rows_bring_out_no_bug() -> None:
    counts, bugs = bugs_over(MUTATED_SLOW, seed=1)
    assert not bugs, "\n".join(bugs[:20])
    assert counts.total() == MUTATED_SLOW
