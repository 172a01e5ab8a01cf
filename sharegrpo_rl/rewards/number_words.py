"""Numbers written in words: `twenty-one`, `three hundred and five`, `a dozen`."""

from __future__ import annotations

import re
from collections.abc import Container

_SMALL = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_VALUES = {word: i for i, word in enumerate(_SMALL)} | {word: 20 + 10 * i for i, word in enumerate(_TENS)}
_VALUES |= {"dozen": 12, "fourty": 40}
_SCALES = {"hundred": 100, "thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000}
_HALVES = {
    "half": "1/2",
    "one half": "1/2",
    "one third": "1/3",
    "two thirds": "2/3",
    "one quarter": "1/4",
    "quarter": "1/4",
}
_HALVES |= {
    "a half": "1/2",
    "a third": "1/3",
    "a quarter": "1/4",
    "three quarters": "3/4",
    "one fourth": "1/4",
    "three fourths": "3/4",
}
_HALVES |= {"one fifth": "1/5", "two fifths": "2/5", "one sixth": "1/6", "one eighth": "1/8", "one tenth": "1/10"}
_LARGEST = 10**15
_WORD = "|".join(sorted([*_VALUES, *_SCALES], key=len, reverse=True))
_RUN = re.compile(rf"\b(?:{_WORD})(?:(?:[\s-]+(?:and\s+)?)(?:{_WORD}))*\b", re.IGNORECASE)


def words_to_number(text: str) -> int | None:
    """Value of a run of number words; None where a word is none or their order makes no sense."""
    total, current, last = 0, 0, 1_000_000_000_000
    words = [word for word in re.split(r"[\s-]+", text.lower().strip()) if word and word != "and"]
    if not words:
        return None
    for word in words:
        if word in _SCALES:
            scale = _SCALES[word]
            if scale == 100:
                current = max(current, 1) * 100
                last = 100
            else:
                total, current, last = total + max(current, 1) * scale, 0, scale
        elif word in _VALUES:
            value = _VALUES[word]
            if value >= last or (current % 10 and current % 100 > 0) or (current % 100 and value >= 10):
                return None
            current += value
            last = 100 if value >= 20 else 10
        else:
            return None
        if total + current > _LARGEST:
            return None  # a thousand times `hundred` is no number that anybody writes
    return total + current


def fraction_words(text: str) -> str | None:
    """`two thirds` -> `2/3`."""
    return _HALVES.get(re.sub(r"[\s-]+", " ", text.lower().strip()))


def replace_number_words(text: str, keep: Container[str] = ()) -> str:
    """The text with every run of number words as digits; the runs in `keep` stay words."""

    def digits(match: re.Match[str]) -> str:
        value = None if match.group().lower() in keep else words_to_number(match.group())
        return match.group() if value is None else str(value)

    return _RUN.sub(digits, text)
