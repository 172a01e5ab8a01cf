"""The number, expression or words that free prose ends on."""

from __future__ import annotations

import re
from collections.abc import Set

from sharegrpo_rl.grader.key import REASON
from sharegrpo_rl.grader.moments import DAY_OF_MONTH, MOMENT
from sharegrpo_rl.grader.numbers import parse_quantity, replace_number_words
from sharegrpo_rl.grader.prose import announcements, first_clause, refuses, sentences
from sharegrpo_rl.grader.text import canonical, content_words, plain_unicode

_MATH_SPAN = re.compile(r"\$\$(.{1,600}?)\$\$|\$([^$\n]{1,600}?)\$|\\\((.{1,600}?)\\\)|\\\[(.{1,600}?)\\\]", re.DOTALL)
_NUMBER = (
    r"(?:\\frac\s*\{[^{}]*(?:\{[^{}]*\})?[^{}]*\}\s*\{[^{}]*\}|\\sqrt\s*\{[^{}]*\}"
    r"|\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?::\d+)+|\d+(?:[.,]\d+)?|\.\d+)"
)
_FACTORS = (
    r"(?:\s*\^\s*(?:\{-?\d+\}|-?\d+))?(?:\s*/\s*\d+(?![\d/])|\s*\*\s*10\s*\^\s*\{?-?\d+\}?)?"
    r"(?:\s*\\(?:frac|sqrt)\s*\{[^{}]*\}(?:\{[^{}]*\})?|\s*\\pi)*"
)
_UNIT = (
    r"(?:\s*(?:°|%|€|(?:square\s+|cubic\s+)?(?:mm|cm|km|m|kg|g|ml|L|meters?|metres?|inch(?:es)?|feet|ft|units?|degrees?"
    r"|percent)\b(?:\s*\^\s*\{?[23]\}?)?)|(?:hrs?|h|mins?|secs?|s|V|W|N|J|mA|mph|km/h|lbs?|oz|in|yd|mg|kW)\b)?"
)
_VALUE = re.compile(
    rf"(?<![A-Za-z\d.^_])(?<![\^_]\{{)-?\s?(?:[$€£]\s?)?{_NUMBER}{_FACTORS}{_UNIT}(?![A-Za-z!^_\d\u0300-\u036f])"
)
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
_JOINED = (
    r"\s*\)?\s*(?:,?\s*\(?\s*\b(?:or|and|to|vs\.?|through|versus|but|maybe|perhaps|possibly)\b|或|和|至|到|[-/|;&~]|\\pm(?![a-z])|±|\\(?:vee|lor|cup|text|\\)"
    r"|\.\.+|[<>]=?|\\bmod)\s*"
)
_AGAIN = r"(?:maybe|perhaps|possibly|even|about|[A-Za-z]\s*=|[-(\[{$€£±\s])*"
_MORE = re.compile(
    rf"{_JOINED}{_AGAIN}\d|\s*,\s*[-$€£]?\d[\d.]*\s*(?:°|%|[a-z]{{1,2}}\b)?\s*(?:$|[,.;)\]}}]|and\b|or\b)|\s+[(\[]?\d"
    r"|\s*[<>]=?\s*[A-Za-z](?![A-Za-z])"
    r"|\s+is\s+(?:wrong|not|incorrect)\b",
    re.IGNORECASE,
)
_LEAVES_OPEN = re.compile(
    r"^\W*(?:at\s+(?:least|most)|(?:more|less|fewer|greater|bigger|smaller|larger|higher|lower)\s+than|over\b|under\b|up\s+to"
    r"|between\b|from\b|not\b|either\b|nearly\b.*\bor\b|anything\b|if\b|one\s+of\b)|^[^\d]{0,12}(?:[<>≤≥±]|\\pm|\\leq?\b|\\geq?\b)",
    re.IGNORECASE,
)
_UNKNOWN = re.compile(r"(?:^|[^A-Za-z\\])[B-Zb-z]\)?\s*$")
_UNKNOWN_AND_SIGN = re.compile(r"(?:^|[^A-Za-z\\])[B-Zb-z]\)?\s*[-+*/]\s*$")
_SIGN_AND_UNKNOWN = re.compile(r"\s*[-+*]\s*\(?[B-Zb-z](?![A-Za-z])")
_OPEN_BEFORE = re.compile(
    r"(?:±|\\pm|[<>]=?|!=|\b(?:at\s+(?:least|most)|up\s+to|over|under|between|but|either|perhaps|maybe))\s*$",
    re.IGNORECASE,
)
_LETTERS = re.compile(r"(?<![\\A-Za-z])(?!(?:mm|cm|km|kg|ml|ft|cos|sin|tan|log)\b)[A-Za-z]{2,}|[\u4e00-\u9fff]")
_EQUALS = re.compile(r"(?<![<>!])=|\\approx")
_NO_NUMBER = re.compile(
    r"\bone(?=\s+(?:of|end|side|another|can|could|must|should|needs?|by\s+one)\b)"
    r"|(?<=\bno )one\b|\b(?:the|this|that|each|every|which|any|another|other)\s+(?:(?!number|value)[a-z]+\s+)?one\b",
    re.IGNORECASE,
)
_SPAN_JOINS = re.compile(r"\s*(?:,|;|or|and|,\s*and|,\s*or|或|和)\s*")
_LEADS_TO = re.compile(rf"{_STATES.pattern}|:\s|为|是", re.IGNORECASE)
_JOINS = re.compile(r"\s*(?:or|and|to|,|-|–)\s*", re.IGNORECASE)
_MORE_SPANS = re.compile(r"\s*,?\s*(?:or|and|to|或|和)\s*(?:\$|\\[(\[]|-?\d)")
_EITHER = re.compile(r"([A-Za-z]\w*)\s*=[^=]{1,40}\bor\s+\1\s*=[^=]{1,40}")  # x = 5 or x = -5
_NEGATED = re.compile(r"(?:\bnot\s+(?:[a-z']+\s+){0,2}|\bthan\s+)$", re.IGNORECASE)
_LIST_NUMBER = re.compile(r"^\s*(?:\d+[.)]|step\s+\d+[):.]?)\s+", re.IGNORECASE)
_WINDOW = 60
_MAX_LINE = 60
_MAX_VALUE = 200
_ASKING = {"how", "many", "much", "what", "which", "when", "where", "who", "unit", "value", "find"}


def settled_value(text: str, question: str, *, numeric: bool) -> str | None:
    """The value as written; None where the prose states none. `numeric`: a number is asked for, not an expression."""
    line = text.strip()
    if "\n" not in line and (
        (len(line) <= _MAX_LINE and parse_quantity(line) is not None) or not _LETTERS.search(line)
    ):
        return line[:_MAX_VALUE]
    for tail, _, _ in reversed(announcements(text)):
        found = _announced(tail, numeric)
        if found is not None:
            return found
        if refuses(tail):
            return None
    return _settled_number(text, question) if numeric else _settled_expression(text)


def _announced(tail: str, numeric: bool) -> str | None:
    """The value that an announcement gives; all of its clause where that gives several or leaves it open."""
    span = _MATH_SPAN.search(tail)
    clause = first_clause(tail).rstrip(".")
    if span is not None and span.start() <= 40 and not (numeric and parse_quantity(_inside(span)) is None):
        return clause if numeric and _MORE_SPANS.match(tail[span.end() :]) else _inside(span)
    if not numeric:
        return REASON.sub("", clause) or clause
    if parse_quantity(clause) is not None:
        return clause
    if refuses(clause):
        return None
    plain = _with_digits(canonical(clause))
    if _LEAVES_OPEN.match(plain) or not _LETTERS.search(plain) or "\\begin" in plain:
        return plain
    return _after_equals(plain) if _EQUALS.search(plain) else stated(plain)


def _inside(span: re.Match[str]) -> str:
    return next(group for group in span.groups() if group is not None).strip()


def _with_digits(plain: str) -> str:
    """Number words as digits; the `one` of `one of them` and `the red one` counts nothing."""
    return replace_number_words(_NO_NUMBER.sub("it", plain))


def _values(plain: str) -> list[re.Match[str]]:
    """Values that the text states: none that it denies, no day of a month, no part of a term with unknowns (`x + 1`)."""
    return [match for match in _VALUE.finditer(plain) if not (_is_no_value(plain, match) or _in_terms(plain, match))]


def _is_no_value(plain: str, match: re.Match[str]) -> bool:
    before = _before(plain, match)
    return _NEGATED.search(before) is not None or DAY_OF_MONTH.search(before) is not None


def _before(plain: str, match: re.Match[str]) -> str:
    """The few words before a value; short, so that many values stay linear."""
    return plain[max(0, match.start() - _WINDOW) : match.start()]


def _in_terms(plain: str, match: re.Match[str]) -> bool:
    signed = match.group().lstrip().startswith("-")
    before = _UNKNOWN if signed else _UNKNOWN_AND_SIGN
    return before.search(_before(plain, match)) is not None or _SIGN_AND_UNKNOWN.match(plain, match.end()) is not None


def numbers_in(text: str) -> list[str]:
    """Values as written, words for numbers included; list numbering and denied numbers (`not 5`) are left out."""
    plain = _with_digits(canonical(_LIST_NUMBER.sub("", plain_unicode(text))))
    return [match.group().strip(" ,") for match in _values(plain)]


def stated(plain: str, asked: Set[str] = frozenset()) -> str | None:
    """The first value of a canonical text that was not in the question; with what is joined to it (`5 or 6`, `5-9`)."""
    for match in _values(plain):
        value = match.group().strip(" ,")
        if value not in asked:
            return _with_what_is_joined(plain, match)
    return None


def _with_what_is_joined(plain: str, match: re.Match[str]) -> str:
    """The value; after `at least` or `±`, or before `or 6`, all of that, which no comparison takes for one number."""
    if before := _OPEN_BEFORE.search(_before(plain, match)):
        return (before.group() + plain[match.start() :])[:_MAX_VALUE]
    return (
        plain[match.start() :][:_MAX_VALUE]
        if _MORE.match(plain[match.end() : match.end() + _WINDOW])
        else match.group().strip(" ,")
    )


def _settled_number(text: str, question: str) -> str | None:
    """A bold number; else, in a reasoning, the last one told; else that of the sentence that repeats the question."""
    everything = sentences(text)
    if everything and refuses(everything[-1]):
        return None
    parts = [part for part in everything if not refuses(part)]
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
        if (found := _told(part, asked)) is not None:
            return found
    return None


def _overlap(sentence: str, question: str) -> float:
    asked = set(content_words(question)) - _ASKING
    return len(asked & set(content_words(sentence))) / len(asked) if asked else 0.0


def _told(sentence: str, asked: set[str]) -> str | None:
    """The number that a sentence tells: its closing mathematics, what its last `=` or verb leads to, or its last."""
    values = numbers_in(sentence)
    if not values:
        return None
    spans = list(_MATH_SPAN.finditer(sentence))
    if spans and not numbers_in(sentence[spans[-1].end() :]):
        tail = re.split(r"=|\\approx|≈", _inside(spans[-1]))[-1]
        if parse_quantity(tail) is not None:
            return tail.strip()
    without_reason = REASON.sub("", sentence)
    plain = _with_digits(canonical(without_reason if numbers_in(without_reason) else sentence))
    if _EQUALS.search(plain):
        return _after_equals(plain) or values[-1]
    for verb in reversed(list(_STATES.finditer(plain))):
        rest = plain[verb.end() :]
        if parse_quantity(rest) is not None and not rest.strip().startswith("-"):
            return rest.strip()
        if (found := stated(rest, asked)) is not None:
            return found
    return _last(plain, asked) or values[-1]


def _last(plain: str, asked: set[str]) -> str | None:
    """The last value, if possible one that was not in the question; with what is joined to it."""
    matches = _values(plain)
    new = [match for match in matches if match.group().strip(" ,") not in asked] or matches
    if not new:
        return None
    place = matches.index(new[-1])
    first = matches[place - 1] if place else new[-1]
    if first is not new[-1] and _MORE.match(plain[first.end() :]):
        return plain[first.start() : new[-1].end()]
    return _with_what_is_joined(plain, new[-1])


def _after_equals(plain: str) -> str | None:
    """The first number after the last equals sign, unless a verb later in the sentence states another."""
    if either := _EITHER.search(plain):
        return either.group()
    tail = _EQUALS.split(plain)[-1]
    later = re.search(r"\b(?:is|are|equals|be)\b(?=.*\d)", tail)
    return stated(tail[later.end() :] if later else tail)


def settled_moment(text: str) -> str | None:
    """The date or time of day on which prose ends; None for none, or for several that are joined (`9:00 or 10:30`)."""
    clauses = [first_clause(tail) for tail, _, _ in announcements(text)] or sentences(text)
    for clause in reversed(clauses):
        found = list(MOMENT.finditer(clause))
        if found:
            joined = len(found) > 1 and _JOINS.fullmatch(clause[found[-2].end() : found[-1].start()])
            return None if joined else found[-1].group()
    return None


def _settled_expression(text: str) -> str | None:
    """The last mathematics (joined: `$1$ and $2$`), else what the verb of the last sentence leads to, if that is short."""
    spans = list(_MATH_SPAN.finditer(text))
    if spans:
        joined = [spans.pop()]
        while spans and _SPAN_JOINS.fullmatch(text[spans[-1].end() : joined[0].start()]):
            joined.insert(0, spans.pop())
        return ", ".join(_inside(span) for span in joined)
    parts = sentences(text)
    if not parts or len(parts[-1]) > _MAX_VALUE:
        return None
    last = REASON.sub("", parts[-1]) or parts[-1]
    if not _LETTERS.search(last):
        return last
    verbs = list(_LEADS_TO.finditer(last))
    return last[verbs[-1].end() :].strip(" .。") if verbs else last
