"""An answer against a ground truth that is a number: units, percent, ratios, approximations, and short phrases."""

from __future__ import annotations

import re
from fractions import Fraction

from sharegrpo_rl.rewards.canonical import canonical, squeezed
from sharegrpo_rl.rewards.expressions import Number, evaluate, same_number
from sharegrpo_rl.rewards.hedges import HEDGED, REASON
from sharegrpo_rl.rewards.key import AnswerKey, Match
from sharegrpo_rl.rewards.moments import MOMENT
from sharegrpo_rl.rewards.number_words import replace_number_words
from sharegrpo_rl.rewards.quantities import Quantity, decimal_comma, parse_quantity, same_quantity

_NUMBER = re.compile(r"(?<![A-Za-z\d])(?<!\d\.)-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:\s*/\s*\d+)?")
_RANGE = re.compile(r"^-?\d+(?:\.\d+)?\s?-\s?\d+(?:\.\d+)?$")
_STATED = re.compile(r"\b(?:is|are|equals?|be|of|:)\s+(?:about |approximately )?(\S.*)$")
_UNKNOWN = re.compile(r"(?<![\\A-Za-z])[A-Za-z](?![A-Za-z])")
_BOUND = re.compile(r"\\(?:int|sum|prod|lim)|=|\\circ")  # letters that a value need not depend on
_MAX_PHRASE = 200
_EQUALS = re.compile(r"=|\\approx")
_ONLY_NUMBERS = re.compile(r"(?=.*\d)[\d\s.,;:/|&-]+")
_RELATION = re.compile(r"[<>]|!=|\d\s*_")
_TO = re.compile(r"(?<=\d)\s+to\s+(?=\d)")
_WORD = re.compile(
    r"(?<![\\A-Za-z])(?!(?:arc)?(?:sin|cos|tan|cot|sec|csc)|log|ln|exp|mod|lim|max|min|gcd|lcm)[A-Za-z]{2,}"
)
_OPERATOR = re.compile(r"[-+*/^]|\\(?:frac|sqrt)")


def compare_numbers(answer: str, key: AnswerKey, gold: Quantity) -> Match | None:
    """None where the answer states no single number."""
    plain = canonical(answer)
    if _RANGE.match(plain) or _RELATION.search(plain):
        return Match(False, "a range where one number is right")
    found = read_number(answer, key, gold)
    if found is None:
        if _ONLY_NUMBERS.fullmatch(plain):
            return Match(False, "several numbers where one is right")
        sides = [parse_quantity(side) for side in _EQUALS.split(plain)]
        return Match(False, "an equation that is false") if len(sides) > 1 and None not in sides else None
    if not _equal(found, gold, key) and not ("," in answer and _equal(decimal_comma(answer), gold, key)):
        return Match(False, "another number")
    if gold.worked_out and isinstance(gold.value, Fraction) and (not found.worked_out or _echoes(answer, key)):
        return Match(False, "the arithmetic is not worked out")
    return Match(True, "equal numbers")


def read_number(answer: str, key: AnswerKey, gold: Quantity) -> Quantity | None:
    """The one number that an answer states; None for none, for several, or for a hedge."""
    if gold.ratio:
        answer = _TO.sub(":", answer)
    found = parse_quantity(answer) or _approximation(answer, key, gold) or decimal_comma(answer)
    if found is None and (reason := REASON.search(answer)):
        found = parse_quantity(answer[: reason.start()])
    return found or _only_number(answer)


def _equal(found: Quantity | None, gold: Quantity, key: AnswerKey) -> bool:
    return found is not None and same_quantity(found, gold, precision=key.precision, percent_asked=key.percent_asked)


def _echoes(answer: str, key: AnswerKey) -> bool:
    """Whether the answer is arithmetic copied from the question."""
    text = squeezed(answer)
    return _OPERATOR.search(text[1:]) is not None and text in squeezed(key.question)


def _approximation(answer: str, key: AnswerKey, gold: Quantity) -> Quantity | None:
    """`24\\sqrt{2} \\approx 33.94`: the side that equals the gold, where both sides are one number."""
    sides = re.split(r"\\approx|≈|~=", canonical(answer))
    read = [parse_quantity(side) for side in sides]
    values = [q for q in read if q is not None]
    if len(sides) != 2 or len(values) != 2:
        return None
    low, high = sorted(float(q.value) for q in values)
    if high - low > 0.05 * max(abs(low), abs(high)):
        return None
    return next((q for q in values if same_quantity(q, gold, precision=key.precision)), values[0])


def _only_number(answer: str) -> Quantity | None:
    """The one number that a short phrase states (`The area is 12 square units`); None for several or for a hedge."""
    plain = canonical(answer)
    head, _, stated = plain.rpartition("=")
    if head and (found := parse_quantity(stated)) is not None and not HEDGED.search(plain):
        return None if _NUMBER.search(head) else found
    text = replace_number_words(plain)
    if HEDGED.search(text) or len(text) > _MAX_PHRASE or MOMENT.search(text):
        return None
    if (phrase := _STATED.search(text)) and (found := parse_quantity(phrase.group(1))):
        return found if not _NUMBER.search(text[: phrase.start()]) else None
    if "\\" in text or re.search(r"[\d)]\s*[*/^+]|[a-z]\d|\d[a-z]\b", text):
        return None
    numbers = {n.replace(",", "").replace(" ", "") for n in _NUMBER.findall(text)}
    return parse_quantity(numbers.pop()) if len(numbers) == 1 and re.search(r"[a-zA-Z]{2}", text) else None


def is_no_number(answer: str) -> bool:
    """Whether the answer holds a word or an unknown, which mathematics would take for a product of letters."""
    plain = canonical(answer)
    unknowns = set(_UNKNOWN.findall(plain)) - {"e", "i"} if not _BOUND.search(plain) else set()
    return bool(unknowns) or _WORD.search(plain) is not None


def same_ratio(answer: str, gold: str) -> bool | None:
    """Whether two ratios of three parts or more are proportional; None where the gold is no such ratio."""
    right = _parts(gold)
    if right is None:
        return None
    said = _parts(answer)
    if said is None or len(said) != len(right):
        return False
    return all(same_number(a * right[0], b * said[0]) for a, b in zip(said, right, strict=True))


def _parts(text: str) -> list[Number] | None:
    terms = canonical(text).split(":")
    values = [evaluate(term.strip()) for term in terms]
    if len(terms) < 3 or any(value is None or value == 0 for value in values):
        return None
    return [value for value in values if value is not None]
