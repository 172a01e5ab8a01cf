"""Numbers written in words: `twenty-one`, `minus five`, `two and a half`, `three quarters`, `1.5 million`."""

from __future__ import annotations

import re
from collections.abc import Container
from fractions import Fraction

_SMALL = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_VALUES = {word: i for i, word in enumerate(_SMALL)} | {word: 20 + 10 * i for i, word in enumerate(_TENS)}
_VALUES |= {"fourty": 40}
_SCALES = {"dozen": 12, "hundred": 100, "thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000}
_DENOMINATORS = {"half": 2, "halves": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7}
_DENOMINATORS |= {"eighth": 8, "ninth": 9, "tenth": 10, "twelfth": 12, "twentieth": 20, "hundredth": 100}
_DENOMINATORS |= {f"{word}s": value for word, value in _DENOMINATORS.items() if not word.startswith("hal")}
_WORD = "|".join(sorted([*_VALUES, *_SCALES], key=len, reverse=True))
_SCALE = "|".join(_SCALES)
_PART = "|".join(sorted(_DENOMINATORS, key=len, reverse=True))
_WHOLE = rf"(?:{_WORD})(?:[\s-]{{1,3}}(?:and\s)?(?:{_WORD})){{0,16}}"
_RUN = re.compile(
    rf"(?<![\d.,])\d[\d,]{{0,20}}(?:\.\d{{1,20}})?\s?(?:{_SCALE})\b"
    rf"|\b(?:\d{{1,12}}|{_WHOLE})\sand\s(?:a|{_WORD})[\s-](?:{_PART})\b|\b{_WHOLE}(?:[\s-](?:{_PART})(?![\w-]))?\b",
    re.IGNORECASE | re.ASCII,
)
_SIGNED = re.compile(r"^(?:minus|negative)\s+(?=\S)", re.IGNORECASE)
_MIXED = re.compile(rf"^(?P<whole>.+?)\s+and\s+(?P<top>a|[a-z]+)[\s-]+(?P<part>{_PART})$", re.IGNORECASE)
_FRACTION = re.compile(rf"^(?:(?P<top>a|[a-z][a-z\s-]*?)[\s-]+)?(?P<part>{_PART})$", re.IGNORECASE)
_SCALED = re.compile(rf"^(\d[\d,]{{0,20}}(?:\.\d{{1,20}})?)\s*({_SCALE})$", re.IGNORECASE)
_MAX_CHARACTERS = 200
_LARGEST = 10**15


def words_to_number(text: str) -> int | None:
    """Value of a run of number words; None where a word is none or their order makes no sense."""
    total, current, last = 0, 0, 1_000_000_000_000
    words = [word for word in re.split(r"[\s-]+", text.lower().strip()) if word and word != "and"]
    if not words:
        return None
    for word in words:
        if word in _SCALES:
            scale = _SCALES[word]
            if scale <= 100:
                current = max(current, 1) * scale
                last = scale
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


def _fraction(top: str | None, part: str) -> Fraction | None:
    count = 1 if top is None or top.lower() == "a" else words_to_number(top)
    if count is None or (top is None and part.lower() not in ("half", "quarter")):
        return None
    return Fraction(count, _DENOMINATORS[part.lower()])


def _whole(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else words_to_number(text)


def words_to_value(text: str) -> Fraction | None:
    """`minus five`, `two thirds`, `two and a half`, `1.5 million`, `a dozen`; None for anything else."""
    plain = re.sub(r"\s+", " ", text.strip())
    if len(plain) > _MAX_CHARACTERS:
        return None
    if signed := _SIGNED.match(plain):
        rest = plain[signed.end() :]
        value = Fraction(rest) if re.fullmatch(r"\d{1,20}(?:\.\d{1,20})?", rest) else words_to_value(rest)
        return None if value is None or value < 0 else -value
    if scaled := _SCALED.match(plain):
        return Fraction(scaled.group(1).replace(",", "")) * _SCALES[scaled.group(2).lower()]
    if (whole := words_to_number(re.sub(r"^an?\s+(?=dozen|hundred|thousand|million)", "", plain))) is not None:
        return Fraction(whole)
    if mixed := _MIXED.match(plain):
        number, part = _whole(mixed.group("whole")), _fraction(mixed.group("top"), mixed.group("part"))
        return number + part if number is not None and part is not None and 0 < part < 1 else None
    found = _FRACTION.match(plain)
    return _fraction(found.group("top"), found.group("part")) if found else None


def replace_number_words(text: str, keep: Container[str] = ()) -> str:
    """The text with every run of number words as digits; the runs in `keep` stay words."""

    def digits(match: re.Match[str]) -> str:
        value = None if match.group().lower() in keep else words_to_value(match.group())
        return match.group() if value is None else str(value)

    return _RUN.sub(digits, text)
