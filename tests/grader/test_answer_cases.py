"""Hand-judged answers in tables: each line is graded as the table says, in every mode.

A table's section opens with `gold` and, where it matters, `choices` (split at ` | `), `question`, `answer_type`, `unit`,
`precision` or `modes`. A line that begins with `=` must be rewarded and one that begins with `!` must not.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sharegrpo_rl.grader import grade

pytestmark = pytest.mark.timeout(3_600)  # thousands of grades, on a machine however busy
TABLES = Path(__file__).with_name("cases")
WRAPPED = {
    "answer": "<think>so</think><answer>{}</answer>",
    "boxed": "<think>so</think>\\boxed{{{}}}",
    "free": "Let us look at the figure. So the answer is {}",
}
WHOLE = {"free": "{}", "auto": "{}"}
LAYOUTS = {"prose": WHOLE, "hacks": {**WRAPPED, "auto": "{}"}}


class Case(NamedTuple):
    """One line of a table."""

    line: int
    text: str
    right: bool
    known: dict[str, Any]
    modes: list[str]


def read(path: Path, modes: list[str]) -> list[Case]:
    cases, known, here = list[Case](), dict[str, Any](), modes
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        name, _, value = line.partition(" ")
        if not line:
            known, here = {}, modes
        elif name in "=!":
            cases.append(Case(number, re.sub(r"\s*⏎\s?", "\n", value), name == "=", known, here))
        elif name == "modes":
            here = value.split()
        elif name != "#":
            known = {**known, name: value.split(" | ") if name == "choices" else value}
            known |= {"precision": int(value)} if name == "precision" else {}
    return cases


@pytest.mark.parametrize("table", sorted(path.stem for path in TABLES.glob("*.txt")))
def test_every_line_is_graded_as_it_was_judged(table: str) -> None:
    layouts = LAYOUTS.get(table, WRAPPED)
    cases = read(TABLES / f"{table}.txt", list(layouts))
    assert len(cases) > 50
    wrong = []
    for case in cases:
        for mode in case.modes:
            verdict = grade(layouts[mode].format(case.text), extract=mode, **case.known)  # type: ignore[arg-type]
            if verdict.error is not None or (verdict.score == 1) != case.right:
                wrong.append(f"{table}.txt:{case.line} {mode}: {case.text!r} for {case.known['gold']!r}: {verdict}")
    assert not wrong, "\n".join(wrong)
