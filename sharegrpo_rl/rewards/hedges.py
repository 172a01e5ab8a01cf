"""Words that take an answer back or leave it open."""

from __future__ import annotations

import re

HEDGED = re.compile(
    r"\b(?:not|n't|less|more|fewer|greater|least|most|between|cannot|isn't|never|or|either|maybe|perhaps|possibly"
    r"|(?<!add )(?<!adds )(?<!sum )(?<!sums )up\s+to|but|except|unless|if|wrong|incorrect|previously|vs|versus|rather|instead)\b",
    re.IGNORECASE,
)
REASON = re.compile(r"\s*(?:,\s*as\b|,?\s*\b(?:because|since)\b).*$", re.IGNORECASE | re.DOTALL)
