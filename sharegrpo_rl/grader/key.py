"""What an answer is graded against, and the outcome of comparing the two: a match, or the grader's own failure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

Kind: TypeAlias = Literal[
    "text", "option", "verdict", "letter", "name", "moment", "number", "list", "words", "mathematics", "none"
]
ErrorKind: TypeAlias = Literal["processor time", "wall clock", "crash", "library error", "unexpected"]
ERROR_KINDS: tuple[ErrorKind, ...] = get_args(ErrorKind)

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
    kind: Kind = "none"

    def by(self, kind: Kind) -> Match:
        """The same outcome, found by the given kind of comparison."""
        return replace(self, kind=kind)


class GraderError(Exception):
    """The grader itself failed: to be counted by `kind`, never taken for a verdict. Its text is `kind: message`."""

    def __init__(self, kind: ErrorKind, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind: ErrorKind = kind
        self.message = message


def errors_by_kind(errors: Iterable[str | None]) -> dict[str, int]:
    """How many of these texts of errors are of each kind; None is no error."""
    kinds = Counter(error.partition(":")[0] for error in errors if error is not None)
    return {kind: kinds[kind] for kind in ERROR_KINDS}
