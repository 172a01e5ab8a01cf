"""Numbers with their units: read from an answer, and compared with a ground truth that is one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from sharegrpo_rl.grader.expressions import (
    Number,
    evaluate,
    replace_number_words,
    same_number,
    unfinished,
    words_to_value,
)
from sharegrpo_rl.grader.key import AnswerKey, Match
from sharegrpo_rl.grader.text import MAX_ANSWER_CHARACTERS, canonical, normalized
from sharegrpo_rl.grader.words import HEDGED, MOMENT, REASON

# ---- Units of measurement.

# "dimension factor-to-its-base-unit": the names of the unit; a volume is a length to the third power
_TABLE: dict[str, str] = {
    "length 0.001": "mm millimeter millimetre 毫米",
    "length 0.01": "cm centimeter centimetre 厘米",
    "length 0.1": "dm decimeter decimetre 分米",
    "length 1": "m meter metre 米",
    "length 1000": "km kilometer kilometre 千米 公里",
    "length 0.0254": "in inch inches",
    "length 0.3048": "ft foot feet",
    "length 0.9144": "yd yard",
    "length 1609.344": "mi mile",
    "mass 0.000001": "mg milligram",
    "mass 0.001": "g gram 克",
    "mass 1": "kg kilogram 千克 公斤",
    "mass 1000": "ton tonne 吨",
    "mass 0.45359237": "lb lbs pound",
    "mass 0.028349523125": "oz ounce",
    "time 1": "s sec second 秒",
    "time 60": "min minute 分钟",
    "time 3600": "h hr hour 小时",
    "time 86400": "day 天",
    "week 1": "week",
    "month 1": "month",
    "year 1": "yr year 年",
    "length^3 0.000001": "ml mL milliliter millilitre 毫升",
    "length^3 0.001": "l L liter litre 升",
    "angle 1": "° deg degree 度 °T",
    "radian 1": "rad radian",
    "percent 1": "% percent percentage pct",
    "dollar 1": "$ dollar usd USD 美元",
    "dollar 0.01": "cent ¢",
    "euro 1": "€ euro eur",
    "sterling 1": "£ gbp",
    "yuan 1": "¥ yuan 元",
    "rupee 1": "rupee ₹",
    "newton 1": "N newton",
    "joule 1": "J joule",
    "watt 1": "W watt",
    "volt 1": "V volt",
    "ampere 1": "A amp ampere",
    "ohm 1": "Ω ohm \\Omega",
    "hertz 1": "Hz hertz",
    "pascal 1": "Pa pascal",
    "kelvin 1": "K kelvin",
    "celsius 1": "°C celsius",
    "fahrenheit 1": "°F fahrenheit",
    "length/time 1609.344/3600": "mph",
    "length/time 1000/3600": "kmph kph kmh",
    "unit 1": "unit 单位 units",
}


@dataclass(frozen=True)
class Unit:
    """A dimension with its power and the factor to the base unit: cm^2 is length, 2, 1/10000."""

    dimension: str
    power: int
    factor: Fraction

    def __pow__(self, power: int) -> Unit:
        return Unit(self.dimension, self.power * power, self.factor**power)

    def __str__(self) -> str:
        return self.dimension if self.power == 1 else f"{self.dimension}^{self.power}"


def _units_by_name() -> dict[str, Unit]:
    units: dict[str, Unit] = {}
    for head, names in _TABLE.items():
        dimension, factor = head.split()
        top, _, bottom = factor.partition("/")
        base, _, power = dimension.partition("^")
        unit = Unit(base, int(power or 1), Fraction(top) / Fraction(bottom or 1))
        for name in names.split():
            units[name] = unit
            if len(name) > 2 and name.isascii() and name.isalpha() and not name.endswith("s"):
                units.setdefault(name + "s", unit)
    return units


_UNITS = _units_by_name()
_UNIT_NAME = "|".join(re.escape(name) for name in sorted(_UNITS, key=len, reverse=True))
_POWER = r"(?:\s*\^?\s*\{?\s*(?P<power>[23])\s*\}?)?"
_AREA_WORDS = {"square": 2, "sq": 2, "sq.": 2, "平方": 2, "cubic": 3, "cu": 3, "立方": 3}
_SUFFIX = re.compile(
    rf"(?<![A-Za-z\\])(?P<area>square|sq\.?|cubic|cu\.?|平方|立方)?\s*\*?\s*(?P<name>{_UNIT_NAME})"
    rf"(?:{_POWER}|\s*(?P<word>squared|cubed))(?P<rate>\s*(?:/|per\s)\s*(?P<per>[A-Za-z]+|[\u4e00-\u9fff])"
    r"(?:\s*\^?\s*\{?(?P<per_power>-?\d)\}?)?)?\.?\s*$"
)
_CURRENCY = re.compile(r"^\s*(?:[A-Z]{0,2}(?P<dollar>\$)|(?P<name>[€£¥₹]))\s*")
_WORD_POWERS = {"squared": 2, "cubed": 3}


def split_unit(text: str) -> tuple[str, Unit | None]:
    """A canonical text as (the text before its unit, the unit); (text, None) where there is none."""
    if currency := _CURRENCY.match(text):
        return text[currency.end() :].strip(), _UNITS[currency["dollar"] or currency["name"]]
    text = re.sub(r"°\s+(?=[TCF]$)", "°", text)
    match = _SUFFIX.search(text) or _SUFFIX.search(_with_long_words_in_lower_case(text))
    if match is None:
        return text, None
    unit = _UNITS[match["name"]]
    area_power = _AREA_WORDS.get((match["area"] or "").rstrip("."), 0)
    power = int(match["power"] or area_power or _WORD_POWERS.get(match["word"], 1))
    if power > 1 and unit.dimension not in ("length", "unit"):
        return text, None
    unit = unit**power
    return text[: match.start()].strip(), _rate(unit, match["per"], match["per_power"]) if match["rate"] else unit


def _with_long_words_in_lower_case(text: str) -> str:
    """`10 Meters` -> `10 meters`; short words keep their case, since N and n differ."""
    return re.sub(r"[A-Za-z]{3,}", lambda word: word.group().lower(), text)


def _rate(unit: Unit, per: str, per_power: str | None) -> Unit:
    """`km/h`; a rate by something that is no unit (`km/trip`) fits every other."""
    divisor, power = _UNITS.get(per) or _UNITS.get(per.lower()), abs(int(per_power or 1))
    if divisor is None or power not in (1, 2, 3):
        return Unit("rate", 1, Fraction(1))
    divisor = divisor**power
    return Unit(f"{unit}/{divisor}", 1, unit.factor / divisor.factor)


def conversion(first: Unit | None, second: Unit | None) -> Fraction | None:
    """Factor that brings a number in the first unit to the second; 1 where either has none; None where they clash."""
    if first is None or second is None or {"unit", "rate"} & {first.dimension, second.dimension}:
        return Fraction(1)
    if (first.dimension, first.power) != (second.dimension, second.power):
        return None
    return first.factor / second.factor


# ---- Quantities.

_THOUSANDS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?![\d,])")
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
_NO_NOUN = re.compile(
    r"\b(?:or|and|not|to|than|pi|sqrt|squared|cubed|times|plus|minus|over|hundred|thousand|million|billion|dozen|k)\b"
    r"|[千万亿百十或]",
    re.I,
)
_SPACED_THOUSANDS = re.compile(r"^-?[1-9]\d{0,2}(?: \d{3})+(?:\.\d+)?$")  # 13 837
_STATED_TWICE = re.compile(r"^([^()]+?)\s*\(([^()]+)\)$")  # 4 (four)
_TIGHT_RANGE = re.compile(r"^\d+(?:\.\d+)?-\d+(?:\.\d+)?$")  # without spaces it is no subtraction
_RATIO = re.compile(r"^\s*(?:(?:the\s+)?ratio\s+(?:is|of)\s+)?([^:=<>]+?)\s*:\s*([^:=<>]+?)\s*$", re.IGNORECASE)
_COMPOUND = re.compile(
    r"^(\d[\d.,]*\s*[^\d\s.,+*/^()-][^\d+*/^()-]{0,12}?)(?:\s*,?\s*(?:and\s+)?)(\d.*)$"
)  # 1 h 30 min
_MAX_COMPOUND = 60
_DOLLAR_SIGN = re.compile(r"^\s*(?:[A-Z]{0,2}\\?\$)\s*(?=[\d.][\d.,]*\s*$)")


@dataclass(frozen=True)
class Quantity:
    """`value` in `unit`. `worked_out` is False where the text leaves plain arithmetic to do, such as `3*4`."""

    value: Number
    unit: Unit | None = None
    ratio: bool = False
    worked_out: bool = True

    @property
    def is_percent(self) -> bool:
        return self.unit is not None and self.unit.dimension == "percent"


@lru_cache(maxsize=8192)
def parse_quantity(text: str) -> Quantity | None:
    """`3 cm`, `x = 1,234`, `9\\pi cm^{2}`, `50\\%`, `1:2`, `two thirds`, `12 objects`; None for no single number."""
    if len(text) > MAX_ANSWER_CHARACTERS:
        return None
    if (sign := _DOLLAR_SIGN.match(text)) is not None:
        amount = _value_and_unit(canonical(text[sign.end() :]))
        return None if amount is None else Quantity(amount.value, _UNITS["dollar"])
    text = _ABOUT.sub("", _without_label(_ABOUT.sub("", canonical(text)))).strip()
    if not text or _TIGHT_RANGE.match(text):
        return None
    for parse in (_value_and_unit, _compound, _ratio, _count):
        if (quantity := parse(text)) is not None:
            return quantity
    twice = _STATED_TWICE.match(text)
    if twice and (first := parse_quantity(twice.group(1))) and (second := parse_quantity(twice.group(2))):
        return first if same_quantity(second, first) else None
    if text.startswith("(") and text.endswith(")") and text.count("(") == 1:
        return parse_quantity(text[1:-1])
    return None


def _without_label(text: str) -> str:
    """`x = 5`, `AB: 5`, `Area = 5` -> `5`; of a chain `a = b = c` the last term."""
    if "=" in text and not re.search(r"[<>!]=?|\\neq", text):
        terms = [term.strip() for term in text.split("=")]
        if re.search(r"[,;]|\b(?:and|or)\b", "=".join(terms[:-1])):
            return text  # several assignments
        if len(terms) == 2 and _is_false_equation(*terms):
            return text
        if len(terms) > 2 or _LABEL.match(terms[0] + "=x") or evaluate(terms[0]) is not None:
            return _worked_out_term(terms)
    label = _LABEL.match(text) if ":" in text else None
    return text if label is None or re.search(r"(?:^|\s)\d+\s*:\s*$", label.group()) else text[label.end() :]


def _is_false_equation(left: str, right: str) -> bool:
    """`8 = 7` says nothing."""
    first, second = _value_and_unit(left), _value_and_unit(right)
    if first is None or second is None or not first.worked_out:
        return False
    factor = conversion(first.unit, second.unit)
    return factor is None or not same_number(first.value * factor, second.value)


def _worked_out_term(terms: list[str]) -> str:
    """Of `3*4 = 12` or `12 = 3*4` the side that is worked out; else the last."""
    value = evaluate(terms[-1])
    if value is not None and unfinished(terms[-1]):
        for term in reversed(terms[:-1]):
            if not unfinished(term) and (other := evaluate(term)) is not None and same_number(other, value):
                return term
    return terms[-1]


def _value_and_unit(text: str) -> Quantity | None:
    """`3.5 cm`, `two thirds`, `3/4 of a dollar`."""
    body, unit = split_unit(text)
    body = _without_thousands_commas(body.strip())
    body = body.replace(" ", "") if _SPACED_THOUSANDS.match(body) else body
    if (value := evaluate(body)) is not None:
        return Quantity(value, unit, worked_out=not unfinished(body))
    if unit is not None and unit.dimension != "percent":
        body_without_unit, other = split_unit(body)  # `5 m s`, `$5 dollars`, `3 cm)`
        if other is not None and (value := evaluate(body_without_unit)) is not None:
            return Quantity(value, other)
    amount = re.sub(r"\s+(?:of\s+)?an?$", "", body) if unit is not None else body
    value = evaluate(amount) if amount != body else None
    value = words_to_value(amount) if value is None else value
    return None if value is None else Quantity(value, unit)


def _compound(text: str) -> Quantity | None:
    """`1 hour 30 minutes`, `5 ft 6 in`: numbers in ever smaller units of one kind."""
    if len(text) > _MAX_COMPOUND or (match := _COMPOUND.match(text)) is None:
        return None
    first, rest = _value_and_unit(match.group(1)), parse_quantity(match.group(2))
    if first is None or rest is None or first.unit is None or rest.unit is None or not rest.worked_out:
        return None
    factor = conversion(rest.unit, first.unit)
    if factor is None or factor >= 1 or not 0 <= rest.value * factor < 1 or first.is_percent:
        return None
    return Quantity(first.value + rest.value * factor, first.unit)


def _ratio(text: str) -> Quantity | None:
    """`1:2`."""
    if (match := _RATIO.match(text)) is None:
        return None
    top, bottom = evaluate(match.group(1)), evaluate(match.group(2))
    return Quantity(top / bottom, ratio=True) if top is not None and bottom else None


def _count(text: str) -> Quantity | None:
    """`12 objects`: a number and a noun, which holds neither a hedge nor a second number."""
    if (match := _COUNTED.match(text)) is None:
        return None
    noun = match["noun"]
    if _NO_NOUN.search(noun) or HEDGED.search(noun) or replace_number_words(noun) != noun:
        return None
    value = evaluate(_without_thousands_commas(match["number"].rstrip(".,")))
    return None if value is None else Quantity(value)


def _without_thousands_commas(text: str) -> str:
    return _THOUSANDS.sub(lambda number: number.group().replace(",", ""), text)


def decimal_comma(text: str) -> Quantity | None:
    """`1000,99` read as 1000.99: one comma that separates no thousands."""
    body = canonical(text)
    if body.count(",") != 1 or not _DECIMAL_COMMA.search(body):
        return None
    return parse_quantity(_DECIMAL_COMMA.sub(r"\1.\2", body))


def same_quantity(
    answer: Quantity, gold: Quantity, *, precision: float | None = None, percent_asked: bool = False
) -> bool:
    """Equal values once units are converted; a unit that only one side names is taken as the other's.

    `precision` is the number of decimals that count. A percentage equals its fraction, and the bare number where the
    question asks for percent (`percent_asked`) or where the bare number is above 1, so that it can be no fraction.
    """
    if answer.is_percent != gold.is_percent:
        percent, bare = (answer, gold) if answer.is_percent else (gold, answer)
        if bare.unit is not None and bare.unit.dimension != "unit":
            return False
        if _is_close(percent.value / 100, bare.value, precision):
            return True
        if not (percent_asked or gold.is_percent or abs(float(bare.value)) > 1):
            return False
        return _is_close(answer.value, gold.value, precision)
    factor = conversion(answer.unit, gold.unit)
    if factor is None:
        return False
    return _is_close(answer.value * factor if factor != 1 else answer.value, gold.value, precision)


def _is_close(value: Number, gold: Number, precision: float | None) -> bool:
    if same_number(value, gold):
        return True
    if precision is None:
        return False
    try:
        return abs(float(value) - float(gold)) <= 0.5 * 10.0 ** -int(precision) * (1 + 1e-9)
    except OverflowError:
        return False


# ---- An answer against a gold number: percent, ratios, approximations, and short phrases.

_NUMBER = re.compile(r"(?<![A-Za-z\d])(?<!\d\.)-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:\s*/\s*\d+)?")
_NUMBER_RANGE = re.compile(r"^-?\d+(?:\.\d+)?\s?-\s?\d+(?:\.\d+)?$")
_STATEMENT = re.compile(r"\b(?:is|are|equals?|be|of|:)\s+(?:about |approximately )?(\S.*)$")
_UNKNOWN = re.compile(r"(?<![\\A-Za-z])[A-Za-z](?![A-Za-z])")
_BOUND_LETTERS = re.compile(r"\\(?:int|sum|prod|lim)|=|\\circ")  # letters that a value need not depend on
_MAX_PHRASE = 200
_EQUALS = re.compile(r"=|\\approx")
_ONLY_NUMBERS = re.compile(r"(?=.*\d)[\d\s.,;:/|&-]+")
_RELATION = re.compile(r"[<>]|!=|\d\s*_")
_TO_BETWEEN_NUMBERS = re.compile(r"(?<=\d)\s+to\s+(?=\d)")
_WORD = re.compile(
    r"(?<![\\A-Za-z])(?!(?:arc)?(?:sin|cos|tan|cot|sec|csc)|log|ln|exp|mod|lim|max|min|gcd|lcm)[A-Za-z]{2,}"
)
_OPERATOR = re.compile(r"[-+*/^]|\\(?:frac|sqrt)")


def compare_numbers(answer: str, key: AnswerKey, gold: Quantity) -> Match | None:
    """None where the answer states no single number."""
    plain = canonical(answer)
    if _NUMBER_RANGE.match(plain) or _RELATION.search(plain):
        return Match(False, "a range where one number is right")
    number = _single_number(answer, key, gold)
    if number is None:
        if _ONLY_NUMBERS.fullmatch(plain):
            return Match(False, "several numbers where one is right")
        sides = [parse_quantity(side) for side in _EQUALS.split(plain)]
        return Match(False, "an equation that is false") if len(sides) > 1 and None not in sides else None
    candidates = [number, decimal_comma(answer) if "," in answer else None]
    if not any(
        same_quantity(candidate, gold, precision=key.precision, percent_asked=key.asks_for_percent)
        for candidate in candidates
        if candidate is not None
    ):
        return Match(False, "another number")
    copied = _OPERATOR.search(normalized(answer)[1:]) and normalized(answer) in normalized(key.question)
    if gold.worked_out and isinstance(gold.value, Fraction) and (copied or not number.worked_out):
        return Match(False, "the arithmetic is not worked out")
    return Match(True, "equal numbers")


def is_no_number(answer: str) -> bool:
    """Whether the answer holds a word or an unknown, which mathematics would take for a product of letters."""
    plain = canonical(answer)
    unknowns = set(_UNKNOWN.findall(plain)) - {"e", "i"} if not _BOUND_LETTERS.search(plain) else set()
    return bool(unknowns) or _WORD.search(plain) is not None


def _single_number(answer: str, key: AnswerKey, gold: Quantity) -> Quantity | None:
    """The one number that an answer states; None for none, for several, or for a hedge."""
    if gold.ratio:
        answer = _TO_BETWEEN_NUMBERS.sub(":", answer)
    number = parse_quantity(answer) or _approximation(answer, key, gold) or decimal_comma(answer)
    if number is None and (reason := REASON.search(answer)):
        number = parse_quantity(answer[: reason.start()])
    return number or _number_in_phrase(answer)


def _approximation(answer: str, key: AnswerKey, gold: Quantity) -> Quantity | None:
    """`24\\sqrt{2} \\approx 33.94`: the side that equals the gold, where both sides are one number."""
    sides = [parse_quantity(side) for side in re.split(r"\\approx|≈|~=", canonical(answer))]
    numbers = [side for side in sides if side is not None]
    if len(sides) != 2 or len(numbers) != 2:
        return None
    low, high = sorted(float(number.value) for number in numbers)
    if high - low > 0.05 * max(abs(low), abs(high)):
        return None
    return next((number for number in numbers if same_quantity(number, gold, precision=key.precision)), numbers[0])


def _number_in_phrase(answer: str) -> Quantity | None:
    """The one number that a short phrase states (`The area is 12 square units`); None for several or for a hedge."""
    plain = canonical(answer)
    head, _, result = plain.rpartition("=")
    if head and (number := parse_quantity(result)) is not None and not HEDGED.search(plain):
        return None if _NUMBER.search(head) else number
    text = replace_number_words(plain)
    if HEDGED.search(text) or len(text) > _MAX_PHRASE or MOMENT.search(text):
        return None
    if (statement := _STATEMENT.search(text)) and (number := parse_quantity(statement.group(1))):
        return None if _NUMBER.search(text[: statement.start()]) else number
    if "\\" in text or re.search(r"[\d)]\s*[*/^+]|[a-z]\d|\d[a-z]\b", text):
        return None
    numbers = {number.replace(",", "").replace(" ", "") for number in _NUMBER.findall(text)}
    return parse_quantity(numbers.pop()) if len(numbers) == 1 and re.search(r"[a-zA-Z]{2}", text) else None
