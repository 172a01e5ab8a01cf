"""Every wording around every answer: what a response says before and after its answer must not change its grade.

The wordings stand in `wordings/*.txt`, one a line. Each is filled with a right answer, which must be rewarded, and with a
wrong one, which must not.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sharegrpo_rl.grader import grade

pytestmark = pytest.mark.timeout(3_600)  # thousands of grades, on a machine however busy
WORDINGS = Path(__file__).with_name("wordings")
NUMBERS = [
    *[("12", "13"), ("0.48", "0.84"), ("-6", "6"), ("1,250", "125"), ("91°", "19°"), ("45%", "4.5%"), ("22/7", "7/22")],
    *[("\\frac{7}{9}", "\\frac{9}{7}"), ("5√{3}", "5"), ("3.75 cm", "3.5 cm"), ("12\\pi", "12"), ("6\\sqrt{2}", "6")],
    *[("10^{5}", "10^{4}"), ("2:9", "9:2"), ("$18", "$81")],
]
OTHERS = [
    *[("(3, -4)", "(3, 4)"), ("[0, 1)", "[0, 1]"), ("[1, 2, 5, 7]", "[1, 2, 7, 5]"), ("1, 5, 7", "1, 5, 8")],
    *[("y = 2x + 1", "y = 2x - 1"), ("x^2 + 1", "x^2 - 1"), ("x > 3", "x < 3"), ("3:4:5", "3:5:4")],
    *[("3:45 PM", "4:45 PM"), ("March 5, 2014", "March 6, 2014")],
]
OPTIONS = [
    ["40°", "60°", "120°", "140°"],
    ["$3\\sqrt{5}$", "$10$", "$6\\sqrt{5}$", "$20$"],
    ["red", "green", "blue", "yellow"],
    ["it grows", "it shrinks", "it stays the same", "none of the above"],
    ["1/2", "1/3", "2/3", "3/4"],
]


def wordings(name: str) -> list[str]:
    lines = (WORDINGS / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [re.sub(r"\s*⏎\s?", "\n", line) for line in lines if line and not line.startswith("#")]


def filled(wording: str, **values: str) -> str:
    """Each `{name}` replaced, `{}` by `answer`; other braces stay."""
    names = {"{}": "answer", **{f"{{{name}}}": name for name in values}}
    return re.sub("|".join(map(re.escape, names)), lambda match: values[names[match.group()]], wording)


def rewarded(response: str, gold: str, **known: object) -> bool:
    verdict = grade(response, gold, **known)  # type: ignore[arg-type]
    assert verdict.error is None
    return verdict.score == 1


@pytest.mark.parametrize("wording", wordings("number"))
def test_numbers_and_expressions(wording: str) -> None:
    has_unknown = re.search(r"\bx\b|in total", wording) is not None
    for right, wrong in NUMBERS if has_unknown else NUMBERS + OTHERS:
        if "$" in wording and "$" in right:
            continue
        question = "What time is it?" if "PM" in right else "What is the value in the figure?"
        assert rewarded(filled(wording, answer=right), right, question=question), right
        assert not rewarded(filled(wording, answer=wrong), right, question=question), (wrong, right)


@pytest.mark.parametrize("wording", wordings("option"))
def test_options(wording: str) -> None:
    for choices in OPTIONS:
        for i, letter in enumerate("ABCD"):
            text = choices[i].strip("$") if "boxed" in wording else choices[i]
            response = filled(wording, answer=letter, text=text)
            for j, other in enumerate("ABCD"):
                for gold in (other, choices[j]):
                    assert rewarded(response, gold, choices=choices, question="Which one?") == (i == j), (
                        response,
                        gold,
                    )


@pytest.mark.parametrize("wording", wordings("verdict"))
def test_yes_and_no(wording: str) -> None:
    for said in ("yes", "no"):
        verb = "is" if said == "yes" else "is not"
        response = filled(wording, answer=said, Yes=said.title(), **{"is": verb})
        for gold in ("yes", "no"):
            for choices in (None, ["yes", "no"]):
                right = rewarded(response, gold, choices=choices, question="Is the window round?")
                assert right == (said == gold), (response, gold, choices)
