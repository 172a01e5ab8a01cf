"""A number with its unit, read from an answer; and whether two of them are the same."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from sharegrpo_rl.rewards.canonical import MAX_ANSWER_CHARACTERS, canonical
from sharegrpo_rl.rewards.expressions import Number, evaluate, same_number, unfinished
from sharegrpo_rl.rewards.hedges import HEDGED
from sharegrpo_rl.rewards.number_words import replace_number_words, words_to_value
from sharegrpo_rl.rewards.units import Unit, conversion, split_unit

_THOUSANDS_TIGHT = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?![\d,])")
_DECIMAL_COMMA = re.compile(r"(?<![\d.,])(\d+),(\d{1,2})(?![\d,])")
_LABEL = re.compile(
    r"^\s*(?:[A-Za-z\\∠△_][\w\\∠△\s'|]*?(?:\([^()=]*\))?|m?\s*\\?angle\s*[\w{}]+|∠\s*\w+)\s*(?:=|:|\\approx)\s*(?=\S)"
)
_COUNTED = re.compile(
    r"^(?P<number>[-+]?[\d.,/]+)\s*(?P<noun>[A-Za-z][A-Za-z'-]{2,}(?:\s+[A-Za-z'-]+){0,4}|[\u4e00-\u9fff]{1,3})$"
)
_ABOUT = re.compile(
    r"^(?:about|approximately|approx\.?|around|roughly|nearly|exactly|only|\\approx|~|=)\s*", re.IGNORECASE
)
_NOT_NOUNS = re.compile(
    r"\b(?:or|and|not|to|than|pi|sqrt|squared|cubed|times|plus|minus|over|hundred|thousand|million|billion|dozen|k)\b"
    r"|[千万亿百十或]",
    re.I,
)
_SPACED = re.compile(r"^-?[1-9]\d{0,2}(?: \d{3})+(?:\.\d+)?$")  # 13 837
_TWICE = re.compile(r"^([^()]+?)\s*\(([^()]+)\)$")  # 4 (four)
_RANGE = re.compile(r"^\d+(?:\.\d+)?-\d+(?:\.\d+)?$")  # without spaces it is no subtraction
_RATIO = re.compile(r"^\s*(?:(?:the\s+)?ratio\s+(?:is|of)\s+)?([^:=<>]+?)\s*:\s*([^:=<>]+?)\s*$", re.IGNORECASE)
_COMPOUND = re.compile(
    r"^(\d[\d.,]*\s*[^\d\s.,+*/^()-][^\d+*/^()-]{0,12}?)(?:\s*,?\s*(?:and\s+)?)(\d.*)$"
)  # 1 h 30 min
_MAX_COMPOUND = 60
_DOLLARS = re.compile(r"^\s*(?:[A-Z]{0,2}\\?\$)\s*(?=[\d.][\d.,]*\s*$)")


@dataclass(frozen=True)
class Quantity:
    """`value` in `unit`. `worked_out` is False where the text leaves plain arithmetic to do, such as `3*4`."""

    value: Number
    unit: Unit | None = None
    ratio: bool = False
    worked_out: bool = True

    @property
    def percent(self) -> bool:
        return self.unit is not None and self.unit.dimension == "percent"


def _drop_label(text: str) -> str:
    """`x = 5`, `AB: 5`, `Area = 5` -> `5`; of a chain `a = b = c` the last term."""
    if "=" in text and not re.search(r"[<>!]=?|\\neq", text):
        head = text.rpartition("=")[0]
        if re.search(r"[,;]|\b(?:and|or)\b", head):
            return text  # several assignments
        first = head.partition("=")[0].strip()
        simple = _LABEL.match(first + "=x") is not None or evaluate(first) is not None
        if text.count("=") == 1 and _contradicts(first, text.rpartition("=")[2]):
            return text  # `8 = 7` says nothing
        if simple or head.count("=") >= 1:
            return _result([term.strip() for term in text.split("=")])
    label = _LABEL.match(text) if ":" in text else None
    return text if label is None or re.search(r"(?:^|\s)\d+\s*:\s*$", label.group()) else text[label.end() :]


def _contradicts(first: str, second: str) -> bool:
    left, right = _parse_plain(first.strip()), _parse_plain(second.strip())
    if left is None or right is None or not left.worked_out:
        return False
    factor = conversion(left.unit, right.unit)
    return factor is None or not same_number(left.value * factor, right.value)


def _result(terms: list[str]) -> str:
    """Of `3*4 = 12` or `12 = 3*4` the side that is worked out; else the last."""
    value = evaluate(terms[-1])
    if value is not None and unfinished(terms[-1]):
        done = [t for t in terms[:-1] if not unfinished(t) and (v := evaluate(t)) is not None and same_number(v, value)]
        return done[-1] if done else terms[-1]
    return terms[-1]


def _parse_plain(text: str) -> Quantity | None:
    body, unit = split_unit(text)
    body = _THOUSANDS_TIGHT.sub(lambda m: m.group().replace(",", ""), body.strip())
    body = body.replace(" ", "") if _SPACED.match(body) else body
    if (value := evaluate(body)) is not None:
        return Quantity(value, unit, worked_out=not unfinished(body))
    if unit is not None and unit.dimension != "percent":
        second, other = split_unit(body)  # `5 m s`, `$5 dollars`, `3 cm)`
        if other is not None and (value := evaluate(second)) is not None:
            return Quantity(value, other)
    amount = re.sub(r"\s+(?:of\s+)?an?$", "", body) if unit is not None else body  # 3/4 of a dollar
    value = evaluate(amount) if amount != body else None
    value = words_to_value(amount) if value is None else value
    return None if value is None else Quantity(value, unit)


def _parse_compound(text: str) -> Quantity | None:
    """`1 hour 30 minutes`, `5 ft 6 in`: numbers in ever smaller units of one kind."""
    if len(text) > _MAX_COMPOUND or (match := _COMPOUND.match(text)) is None:
        return None
    first, rest = _parse_plain(match.group(1)), parse_quantity(match.group(2))
    if first is None or rest is None or first.unit is None or rest.unit is None or not rest.worked_out:
        return None
    factor = conversion(rest.unit, first.unit)
    if factor is None or factor >= 1 or not 0 <= rest.value * factor < 1 or first.unit.dimension == "percent":
        return None
    return Quantity(first.value + rest.value * factor, first.unit)


def _is_noun(words: str) -> bool:
    """Whether the words behind a number may be what it counts: no hedge and no second number among them."""
    return not (_NOT_NOUNS.search(words) or HEDGED.search(words)) and replace_number_words(words) == words


@lru_cache(maxsize=8192)
def parse_quantity(text: str) -> Quantity | None:
    """`3 cm`, `x = 1,234`, `9\\pi cm^{2}`, `50\\%`, `1:2`, `two thirds`, `12 objects`; None for no single number."""
    if len(text) > MAX_ANSWER_CHARACTERS:
        return None
    if (dollars := _DOLLARS.match(text)) is not None:
        amount = _parse_plain(canonical(text[dollars.end() :]))
        return None if amount is None else Quantity(amount.value, split_unit("1 dollar")[1])
    text = _ABOUT.sub("", _drop_label(_ABOUT.sub("", canonical(text)))).strip()
    if not text or _RANGE.match(text):
        return None
    if (found := _parse_plain(text)) is not None:
        return found
    if (compound := _parse_compound(text)) is not None:
        return compound
    if ratio := _RATIO.match(text):
        top, bottom = evaluate(ratio.group(1)), evaluate(ratio.group(2))
        if top is not None and bottom:
            return Quantity(top / bottom, None, ratio=True)
    counted = _COUNTED.match(text)
    if counted and _is_noun(counted.group("noun")):
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
        if bare.unit is not None and bare.unit.dimension != "unit":
            return False
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
