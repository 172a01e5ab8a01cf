"""The answer key of a question, and the outcome of a comparison with it."""

from __future__ import annotations

import re
from dataclasses import dataclass

# ---- Words that take an answer back or leave it open.

HEDGED = re.compile(
    r"\b(?:not|n't|less|more|fewer|greater|least|most|between|cannot|isn't|never|or|either|maybe|perhaps|possibly"
    r"|(?<!add )(?<!adds )(?<!sum )(?<!sums )up\s+to|but|except|unless|if|wrong|incorrect|previously|vs|versus|rather|instead)\b",
    re.IGNORECASE,
)
REASON = re.compile(r"\s*(?:,\s*as\b|,?\s*\b(?:because|since)\b).*$", re.IGNORECASE | re.DOTALL)


_PERCENT = re.compile(r"percent|%", re.I)


@dataclass(frozen=True)
class AnswerKey:
    """What a response is graded against; everything but `gold` only narrows the reading of an answer."""

    gold: str
    choices: tuple[str, ...] = ()
    question: str = ""
    answer_type: str | None = None
    unit: str | None = None
    precision: float | None = None

    @property
    def percent_asked(self) -> bool:
        return _PERCENT.search(self.question) is not None or (self.unit or "") in ("%", "percent")


@dataclass(frozen=True)
class Match:
    """`equal`, and how that was found."""

    equal: bool
    reason: str
