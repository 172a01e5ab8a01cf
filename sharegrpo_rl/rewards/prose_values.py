"""The number, expression or words that free prose ends on."""

from __future__ import annotations

import re

from sharegrpo_rl.rewards.canonical import canonical, content_words, plain_unicode
from sharegrpo_rl.rewards.number_words import replace_number_words
from sharegrpo_rl.rewards.prose import announcements, first_clause, refuses, sentences
from sharegrpo_rl.rewards.quantities import parse_quantity

_MATH_SPAN = re.compile(r"\$\$(.{1,600}?)\$\$|\$([^$\n]{1,600}?)\$|\\\((.{1,600}?)\\\)|\\\[(.{1,600}?)\\\]", re.DOTALL)
_NUMBER = (
    r"(?:\\frac\s*\{[^{}]*(?:\{[^{}]*\})?[^{}]*\}\s*\{[^{}]*\}|\\sqrt\s*\{[^{}]*\}"
    r"|\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:[.,]\d+)?|\.\d+)"
)
_FACTORS = (
    r"(?:\s*/\s*\d+(?![\d/])|\s*\*\s*10\s*\^\s*\{?-?\d+\}?)?"
    r"(?:\s*\\(?:frac|sqrt)\s*\{[^{}]*\}(?:\{[^{}]*\})?|\s*\\pi)*"
)
_UNIT = (
    r"(?:\s*(?:°|%|€|(?:square\s+|cubic\s+)?(?:mm|cm|km|m|kg|g|ml|L|meters?|metres?|inch(?:es)?|feet|ft|units?|degrees?"
    r"|percent)\b(?:\s*\^\s*\{?[23]\}?)?))?"
)
_VALUE = re.compile(rf"(?<![\w.^_])-?\s?(?:[$€£]\s?)?{_NUMBER}{_FACTORS}{_UNIT}")
_CONCLUDES = re.compile(
    r"^\W*(?:so|thus|therefore|hence|consequently|in conclusion|finally|overall|this means|the final)\b|所以|因此|^故",
    re.IGNORECASE,
)
_STATES = re.compile(
    r"\b(?:is|are|was|were|be|has|have|there's|equals?|equal(?:ing)?\s+to|equaling|gives?|gets?|becomes|makes|leaves"
    r"|comes\s+to|amounts\s+to|left\s+with|resulting\s+in|yielding|giving|by)\b(?!\s+(?:less|more|greater|fewer|smaller|larger|at\s+(?:least|most)))",
    re.IGNORECASE,
)
_BOLD = re.compile(r"\*\*([^*\n]{1,60})\*\*")
_RANGE = re.compile(r"\d(?:-|–|\s+to\s+)(?:\d|infinity)|\bbetween\s+\d[\d.,]*\s+and\s+\d")
_NEGATED = re.compile(r"(?:\bnot\s+(?:[a-z']+\s+){0,2}|\bthan\s+)$", re.IGNORECASE)
_LIST_NUMBER = re.compile(r"^\s*(?:\d+[.)]|step\s+\d+[):.]?)\s+", re.IGNORECASE)
_ASKING = {"how", "many", "much", "what", "which", "when", "where", "who", "unit", "value", "find"}


def settled_value(text: str, question: str, *, numeric: bool) -> str | None:
    """The value as written; None where the prose states none. `numeric`: a number is asked for, not an expression."""
    if "\n" not in text.strip() and len(text) <= 60 and parse_quantity(text) is not None:
        return text.strip()
    for tail, _, _ in reversed(announcements(text)):
        found = _announced(tail, numeric)
        if found is not None:
            return found
        if refuses(tail):
            return None
    return _settled_number(text, question) if numeric else _settled_expression(text)


def _announced(tail: str, numeric: bool) -> str | None:
    span = _MATH_SPAN.search(tail)
    clause = first_clause(tail).rstrip(".")
    if span is not None and span.start() <= 40 and not (numeric and parse_quantity(_inside(span)) is None):
        return _inside(span)
    if parse_quantity(clause) is not None or not numeric:
        return clause
    if refuses(clause):
        return None
    if "=" in clause:
        return _after_equals(canonical(clause))
    values = numbers_in(clause)
    return values[0] if values else None


def _inside(span: re.Match[str]) -> str:
    return next(group for group in span.groups() if group is not None).strip()


def numbers_in(text: str) -> list[str]:
    """Values as written, words for numbers included; list numbering and denied numbers (`not 5`) are left out."""
    plain = replace_number_words(canonical(_LIST_NUMBER.sub("", plain_unicode(text))))
    found = [match for match in _VALUE.finditer(plain) if not _NEGATED.search(plain[: match.start()])]
    return [match.group().strip(" ,") for match in found]


def _settled_number(text: str, question: str) -> str | None:
    """A bold number; else, in a reasoning, the last one told; else that of the sentence that repeats the question."""
    parts = [part for part in sentences(text) if not refuses(part)]
    asked = set(numbers_in(question))
    bold = {canonical(b) for b in _BOLD.findall(text) if parse_quantity(b) is not None}
    if len(bold) == 1:
        return bold.pop()
    reasons = any("=" in part or _CONCLUDES.search(_LIST_NUMBER.sub("", part)) for part in parts)
    if not reasons:
        best = max((_overlap(part, question) for part in parts), default=0.0)
        restating = [part for part in parts if best >= 0.5 and _overlap(part, question) >= 0.8 * best]
        if restating and (found := _told(restating[-1], asked)) is not None:
            return found
    for part in reversed(parts):
        if _is_range(part):
            return None
        if (found := _told(part, asked)) is not None:
            return found
    return None


def _is_range(sentence: str) -> bool:
    """`from 5 to 9`, `5-9`: two numbers for one, where no sum is worked out."""
    return "=" not in sentence and _RANGE.search(replace_number_words(plain_unicode(sentence))) is not None


def _overlap(sentence: str, question: str) -> float:
    asked = set(content_words(question)) - _ASKING
    return len(asked & set(content_words(sentence))) / len(asked) if asked else 0.0


def _told(sentence: str, asked: set[str]) -> str | None:
    """The number that a sentence tells: its closing mathematics, what its last `=` or verb leads to, or its last."""
    values = numbers_in(sentence)
    if not values or _is_range(sentence):
        return None
    spans = list(_MATH_SPAN.finditer(sentence))
    if spans and not numbers_in(sentence[spans[-1].end() :]):
        tail = re.split(r"=|\\approx|≈", _inside(spans[-1]))[-1]
        if parse_quantity(tail) is not None:
            return tail.strip()
    plain = canonical(sentence)
    if "=" in plain or "\\approx" in plain:
        return _after_equals(plain) or values[-1]
    plain = replace_number_words(plain)
    for verb in reversed(list(_STATES.finditer(plain))):
        rest = plain[verb.end() :]
        if parse_quantity(rest) is not None and not rest.strip().startswith("-"):
            return rest.strip()
        after = [value for value in numbers_in(rest) if value not in asked]
        if after:
            return after[0]
    new = [value for value in values if value not in asked]
    return (new or values)[-1]


def _after_equals(plain: str) -> str | None:
    """The first number after the last equals sign, unless a verb later in the sentence states another."""
    tail = re.split(r"=|\\approx", plain)[-1]
    later = re.search(r"\b(?:is|are|equals|be)\b(?=.*\d)", tail)
    after = numbers_in(tail[later.end() :] if later else tail)
    return after[0] if after else None


def _settled_expression(text: str) -> str | None:
    """The last span of mathematics, else a short text as a whole, else its last sentence where that is short."""
    spans = list(_MATH_SPAN.finditer(text))
    if spans:
        return _inside(spans[-1])
    stripped = text.strip()
    if len(stripped) <= 200 and "\n" not in stripped:
        return stripped
    parts = sentences(text)
    return parts[-1] if parts and len(parts[-1]) <= 200 else None
