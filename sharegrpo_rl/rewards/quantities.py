"""A number with its unit, read from an answer; and whether two of them are the same."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from sharegrpo_rl.rewards.canonical import MAX_ANSWER_CHARACTERS, canonical
from sharegrpo_rl.rewards.expressions import Number, evaluate, same_number
from sharegrpo_rl.rewards.number_words import fraction_words, words_to_number
from sharegrpo_rl.rewards.units import Unit, conversion, split_unit

_THOUSANDS_TIGHT = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?![\d,])")
_DECIMAL_COMMA = re.compile(r"(?<![\d.,])(\d+),(\d{1,2})(?![\d,])")
_LABEL = re.compile(
    r"^\s*(?:[A-Za-z\\∠△_][\w\\∠△\s'|]*?(?:\([^()=]*\))?|m?\s*\\?angle\s*[\w{}]+|∠\s*\w+)\s*(?:=|:|\\approx)\s*(?=\S)"
)
_COUNTED = re.compile(r"^(?P<number>[-+]?[\d.,/]+)\s*(?P<noun>[A-Za-z][A-Za-z'-]{2,}(?:\s+[A-Za-z'-]+){0,4})$")
_ABOUT = re.compile(
    r"^(?:about|approximately|approx\.?|around|roughly|nearly|exactly|only|\\approx|~|=)\s*", re.IGNORECASE
)
_NOT_NOUNS = re.compile(
    r"\b(?:or|and|not|to|than|pi|sqrt|squared|cubed|times|plus|minus|over|hundred|thousand|million|billion|dozen|k)\b",
    re.I,
)
_SPACED = re.compile(r"^-?[1-9]\d{0,2}(?: \d{3})+(?:\.\d+)?$")  # 13 837
_TWICE = re.compile(r"^([^()]+?)\s*\(([^()]+)\)$")  # 4 (four)
_RANGE = re.compile(r"^\d+(?:\.\d+)?-\d+(?:\.\d+)?$")  # without spaces it is no subtraction
_RATIO = re.compile(r"^\s*([^:=<>]+?)\s*:\s*([^:=<>]+?)\s*$")


@dataclass(frozen=True)
class Quantity:
    """`value` in `unit`; `places` counts decimals where it was written as a plain decimal."""

    value: Number
    unit: Unit | None = None
    ratio: bool = False

    @property
    def percent(self) -> bool:
        return self.unit is not None and self.unit.dimension == "percent"


def _drop_label(text: str) -> str:
    """`x = 5`, `AB: 5`, `Area = 5` -> `5`; of a chain `a = b = c` the last term."""
    if "=" in text and not re.search(r"[<>!]=?|\\neq", text):
        head, _, tail = text.rpartition("=")
        if re.search(r"[,;]|\b(?:and|or)\b", head):
            return text  # several assignments
        first = head.partition("=")[0]
        simple = _LABEL.match(first + "=x") is not None or evaluate(first) is not None
        if simple or head.count("=") >= 1:
            return tail.strip()
    return _LABEL.sub("", text, count=1) if ":" in text and _LABEL.match(text) else text


def _parse_plain(text: str) -> Quantity | None:
    body, unit = split_unit(text)
    body = _THOUSANDS_TIGHT.sub(lambda m: m.group().replace(",", ""), body.strip())
    body = body.replace(" ", "") if _SPACED.match(body) else body
    if (value := evaluate(body)) is not None:
        return Quantity(value, unit)
    if unit is not None and unit.dimension != "percent":
        second, other = split_unit(body)  # `5 m s`, `$5 dollars`, `3 cm)`
        if other is not None and (value := evaluate(second)) is not None:
            return Quantity(value, other)
    if (value := evaluate(fraction_words(body) or "")) is None and (words := words_to_number(body)) is not None:
        value = Fraction(words)
    return None if value is None else Quantity(value, unit)


@lru_cache(maxsize=8192)
def parse_quantity(text: str) -> Quantity | None:
    """`3 cm`, `x = 1,234`, `9\\pi cm^{2}`, `50\\%`, `1:2`, `two thirds`, `12 objects`; None for no single number."""
    if len(text) > MAX_ANSWER_CHARACTERS:
        return None
    text = _ABOUT.sub("", _drop_label(_ABOUT.sub("", canonical(text)))).strip()
    if not text or _RANGE.match(text):
        return None
    if (found := _parse_plain(text)) is not None:
        return found
    if ratio := _RATIO.match(text):
        top, bottom = evaluate(ratio.group(1)), evaluate(ratio.group(2))
        if top is not None and bottom:
            return Quantity(top / bottom, None, ratio=True)
    counted = _COUNTED.match(text)
    if counted and not _NOT_NOUNS.search(counted.group("noun")):
        number = _THOUSANDS_TIGHT.sub(lambda m: m.group().replace(",", ""), counted.group("number").rstrip(".,"))
        if (value := evaluate(number)) is not None:
            return Quantity(value)
    twice = _TWICE.match(text)
    if twice and (first := parse_quantity(twice.group(1))) and (again := parse_quantity(twice.group(2))):
        return first if same_quantity(again, first) else None
    if text.startswith("(") and text.endswith(")") and text.count("(") == 1:
        return parse_quantity(text[1:-1])
    return None


def decimal_comma(text: str) -> Quantity | None:
    """`1000,99` read as 1000.99: one comma that separates no thousands."""
    body = canonical(text)
    return (
        parse_quantity(_DECIMAL_COMMA.sub(r"\1.\2", body))
        if _DECIMAL_COMMA.search(body) and body.count(",") == 1
        else None
    )


def _close(value: Number, gold: Number, precision: float | None) -> bool:
    if same_number(value, gold):
        return True
    if precision is None:
        return False
    try:
        return abs(float(value) - float(gold)) <= 0.5 * 10.0 ** -int(precision) * (1 + 1e-9)
    except OverflowError:
        return False


def same_quantity(
    answer: Quantity, gold: Quantity, *, precision: float | None = None, percent_asked: bool = False
) -> bool:
    """Equal values once units are converted; a unit that only one side names is taken as the other's.

    `precision` is the number of decimals that count. A percentage equals its fraction, and the bare number where the
    question asks for percent (`percent_asked`) or where the bare number is above 1, so that it can be no fraction.
    """
    if answer.percent != gold.percent:
        percent, bare = (answer, gold) if answer.percent else (gold, answer)
        as_fraction = Quantity(percent.value / 100)
        if _close(as_fraction.value, bare.value, precision):
            return True
        if not (percent_asked or gold.percent or abs(float(bare.value)) > 1):
            return False
        return _close(answer.value, gold.value, precision)
    factor = conversion(answer.unit, gold.unit)
    if factor is None:
        return False
    return _close(answer.value * factor if factor != 1 else answer.value, gold.value, precision)
