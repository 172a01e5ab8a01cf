"""What an answer is graded against, and the outcome of comparing the two: a match, or the grader's own failure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

ErrorKind = Literal["processor time", "wall clock", "crash", "library error", "unexpected"]

_PERCENT = re.compile(r"percent|%", re.I)


@dataclass(frozen=True)
class AnswerKey:
    """The ground truth of a row; everything but `gold` only narrows how an answer is read."""

    gold: str
    choices: tuple[str, ...] = ()
    question: str = ""
    answer_type: str | None = None
    unit: str | None = None
    precision: float | None = None

    @property
    def asks_for_percent(self) -> bool:
        return _PERCENT.search(self.question) is not None or (self.unit or "") in ("%", "percent")


@dataclass(frozen=True)
class Match:
    """Whether an answer equals the gold, and how that was found."""

    equal: bool
    reason: str


class GraderError(Exception):
    """The grader itself failed: to be counted by `kind`, never taken for a verdict. Its text is `kind: message`."""

    def __init__(self, kind: ErrorKind, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind: ErrorKind = kind
        self.message = message


def error_kind(error: str) -> str:
    """The kind of a grader error from its text."""
    return error.partition(":")[0]
