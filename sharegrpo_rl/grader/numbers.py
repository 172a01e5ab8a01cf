"""Numbers with their units: read from an answer, and compared with a ground truth that is one."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

from sharegrpo_rl.grader.algebra import closed_value, same_name
from sharegrpo_rl.grader.expressions import (
    Number,
    changes_meaning,
    evaluate,
    exact,
    may_follow_number,
    replace_number_words,
    same_number,
    stated_numbers,
    unfinished,
    with_foreign_numbers,
    words_to_value,
)
from sharegrpo_rl.grader.key import AnswerKey, Match
from sharegrpo_rl.grader.text import MAX_ANSWER_CHARACTERS, canonical, normalized
from sharegrpo_rl.grader.words import MOMENT, REASON

# ---- Units of measurement.

# "dimensions factor-to-the-base-unit": the names of the unit. A name with `~` takes SI prefixes (km, kilometers). Names
# of three letters or more may be written in any case and in the plural.
_TABLE: dict[str, str] = {
    "length 1": "~m ~meter ~metre ~米 メートル 미터 mét metro mètre",
    "length 1000": "公里",
    "length 0.0254": "in inch inches",
    "length 0.3048": "ft foot feet",
    "length 0.9144": "yd yard",
    "length 1609.344": "mi mile",
    "length 1e-10": "Å angstrom",
    "length^2 10000": "ha hectare 公顷",
    "length^2 4046.8564224": "acre",
    "length^3 0.001": "~l ~L ~liter ~litre ~升 lít",
    "mass 0.001": "~g ~gram ~gramme ~克 グラム",
    "mass 1": "公斤 キロ",
    "mass 1000": "t ton tonne 吨",
    "mass 0.45359237": "lb lbs pound",
    "mass 0.028349523125": "oz ounce",
    "time 1": "~s sec ~second 秒 giây 초",
    "time 60": "min minute 分钟 phút 분",
    "time 3600": "h hr hour 小时 時間 giờ 시간",
    "time 86400": "day 天 日 ngày",
    "time 604800": "week 周 星期 tuần",
    "year 1/12": "month 个月 か月 tháng",
    "year 1": "yr year 年",
    "current 1": "~A ~amp ~ampere 安 安培",
    "temperature 1": "K kelvin",
    "amount 1": "~mol mole 摩尔",
    "light 1": "cd candela",
    "frequency 1": "~Hz hertz 赫兹",
    "mass*length/time^2 1": "~N ~newton 牛 牛顿",
    "mass*length^2/time^2 1": "~J ~joule 焦 焦耳",
    "mass*length^2/time^2 4.184": "~cal ~calorie",
    "mass*length^2/time^2 1.602176634e-19": "~eV electronvolt",
    "mass*length^2/time^3 1": "~W ~watt 瓦 瓦特",
    "mass*length^2/time^2 3600": "~Wh",
    "mass/length/time^2 1": "~Pa ~pascal 帕",
    "mass/length/time^2 101325": "atm atmosphere",
    "mass/length/time^2 100000": "~bar",
    "mass/length/time^2 101325/760": "mmHg torr",
    "current*time 1": "~C ~coulomb 库仑",
    "mass*length^2/time^3/current 1": "~V ~volt 伏 伏特",
    "mass*length^2/time^3/current^2 1": "~Ω ~ohm 欧姆 \\Omega",
    "current^2*time^4/mass/length^2 1": "~F ~farad",
    "mass/time^2/current 1": "~T ~tesla",
    "mass*length^2/time^2/current 1": "~Wb weber",
    "mass*length^2/time^2/current^2 1": "~H henry",
    "length/time 1609.344/3600": "mph",
    "length/time 1000/3600": "kmph kph kmh",
    "angle 1": "° deg degree 度 độ °T",
    "radian 1": "~rad radian",
    "percent 1": "% percent percentage pct",
    "celsius 1": "°C celsius 摄氏度 ℃",
    "fahrenheit 1": "°F fahrenheit",
    "dollar 1": "$ dollar usd USD 美元",
    "dollar 0.01": "cent ¢",
    "euro 1": "€ euro eur",
    "sterling 1": "£ gbp",
    "yuan 1": "¥ yuan 元 RMB",
    "yuan 0.1": "角",
    "yen 1": "円 yen",
    "dong 1": "đồng VND",
    "rupee 1": "rupee ₹",
    "unit 1": "unit 单位 個 个 只 人 本 张 条 件 次 岁 つ 명 개",
}
_PREFIXES = dict(zip("TGMkhdcmμµunp", (12, 9, 6, 3, 2, -1, -2, -3, -6, -6, -6, -9, -12), strict=True))
_PREFIXES |= dict(zip("兆千分厘毫微", (6, 3, -1, -2, -3, -6), strict=True))
_PREFIX_WORDS = {"tera": 12, "giga": 9, "mega": 6, "kilo": 3, "hecto": 2, "deci": -1, "centi": -2, "milli": -3}
_PREFIX_WORDS |= {"micro": -6, "nano": -9, "pico": -12}
_NO_UNIT = {"am", "pm", "PM", "AM", "as", "at", "dl", "hA", "cT", "dT", "hs", "ds", "cs"}  # hours and words
_PHYSICAL = {"length", "mass", "time", "current", "temperature", "amount", "light", "frequency"}
_MUST_STAND_APART = {"C", "F", "T", "H", "t"}  # `5T` is a product


@dataclass(frozen=True)
class Unit:
    """Powers of dimensions, and the factor to their base units: cm^2 is {length: 2}, 1/10000."""

    powers: tuple[tuple[str, int], ...]
    factor: Fraction

    @property
    def dimension(self) -> str:
        return str(self).partition("^")[0]

    def __pow__(self, power: int) -> Unit:
        return Unit(tuple((name, p * power) for name, p in self.powers), self.factor**power)

    def __mul__(self, other: Unit) -> Unit:
        powers = dict(self.powers)
        for name, power in other.powers:
            powers[name] = powers.get(name, 0) + power
        return Unit(tuple(sorted((name, power) for name, power in powers.items() if power)), self.factor * other.factor)

    def __str__(self) -> str:
        return "*".join(name if power == 1 else f"{name}^{power}" for name, power in self.powers)


def _units_by_name() -> tuple[dict[str, Unit], set[str]]:
    """Units by their names, and the names that take SI prefixes."""
    units: dict[str, Unit] = {}
    with_prefixes = set()
    for head, names in _TABLE.items():
        dimensions, factor = head.split()
        top, _, bottom = factor.partition("/")
        unit = Unit((), Fraction(top) / Fraction(bottom or 1))
        for sign, name, power in re.findall(r"([*/]?)([a-z]+)(?:\^(\d))?", dimensions):
            unit *= Unit(((name, int(power or 1) * (-1 if sign == "/" else 1)),), Fraction(1))
        for name in names.split():
            units[name.lstrip("~")] = unit
            if name.startswith("~"):
                with_prefixes.add(name[1:])
    return units, with_prefixes


_UNITS, _WITH_PREFIXES = _units_by_name()
_LONE_LETTERS = {unit for name, unit in _UNITS.items() if len(name) == 1 and name.isupper()}


@lru_cache(maxsize=4096)
def _find_unit(name: str) -> Unit | None:
    """The unit of that name: as it is written, with an SI prefix, or as a word in any case and in the plural."""
    if name in _UNITS or name in _NO_UNIT:
        return _UNITS.get(name)
    for length in (1, 2, 3, 4, 5):
        prefix, base = name[:length], name[length:]
        exponent = _PREFIXES.get(prefix) if length == 1 else _PREFIX_WORDS.get(prefix.lower())
        if exponent is not None and (base in _WITH_PREFIXES or (length > 1 and base.lower() in _WITH_PREFIXES)):
            unit = _UNITS[base if base in _WITH_PREFIXES else base.lower()]
            return Unit(unit.powers, unit.factor * Fraction(10) ** exponent)
    if len(name) < 3:
        return None
    if (lower := name.lower()) != name:
        return _find_unit(lower) if lower.lower() == lower else None
    return _find_unit(name[:-1]) if name.endswith("s") and len(name) > 3 else None


_NOT_LATIN = sorted((name for name in _UNITS if name[0] > "ỹ" and name[0] not in "Ωμ"), key=len, reverse=True)
_UNIT_TOKEN = re.compile(
    rf"\s*(?:(?P<name>°\s?[CFT](?![A-Za-z])|[兆千分厘毫微]?(?:{'|'.join(_NOT_LATIN)})"
    r"|\\Omega(?![a-z])|[°%$¢€£₹]|[A-Za-zÀ-ỹμµΩÅ]+)|(?:\^\s*\{?\s*|(?<=[A-Za-z])(?=[23]))(?P<power>-?[1-9])\s*\}?(?![\d.])|(?P<sign>[-*/().每]|平方|立方))"
)
_UNIT_START = re.compile(r"[°%$¢€£(*A-Za-zÀ-ỹ一-鿿ぁ-ヿ가-힣\\μµΩÅ]")
_AREA_WORDS = {"square": 2, "sq": 2, "平方": 2, "cubic": 3, "cu": 3, "立方": 3}
_WORD_POWERS = {"squared": 2, "cubed": 3}
_RATE = Unit((("rate", 1),), Fraction(1))  # by something that is no unit (`km/trip`); it fits every other
_SOMETHING = re.compile(r"\s*(?:[A-Za-zÀ-ỹ]{2,20}(?:\s[A-Za-z]{2,20}){0,3}|[\u4e00-\u9fff]{1,3})")
_MAX_UNIT_CHARACTERS = 60
_CURRENCY = re.compile(r"^\s*(?:[A-Z]{0,2}(?P<dollar>\$)|(?P<name>[€£¥₹]))\s*")


@lru_cache(maxsize=8192)
def split_unit(text: str) -> tuple[str, Unit | None]:
    """A canonical text as (the text before its unit, the unit); (text, None) where there is none."""
    if currency := _CURRENCY.match(text):
        return text[currency.end() :].strip(), _UNITS[currency["dollar"] or currency["name"]]
    text = text.rstrip()
    for start in _UNIT_START.finditer(text, max(0, len(text) - _MAX_UNIT_CHARACTERS)):
        before = text[: start.start()]
        if before and (
            before[-1] in "\\_^" or (before[-1].isalpha() and start.group().isascii() and before[-1].isascii())
        ):
            continue
        if (unit := _unit_expression(text[start.start() :], stands_apart=not before[-1:].isdigit())) is not None:
            return before.strip(), unit
    return text, None


def _unit_expression(text: str, *, stands_apart: bool) -> Unit | None:
    """`km/h`, `J/(mol K)`, `N*m`, `m s^{-1}`, `square feet`, `miles per hour`, `千米/时`; None for anything else."""
    first = _UNIT_TOKEN.match(text)
    if first is None or (not stands_apart and first["name"] in _MUST_STAND_APART and first.start("name") == 0):
        return None
    reader = _UnitReader()
    position = 0
    while position < len(text):
        token = _UNIT_TOKEN.match(text, position)
        if token is None or not reader.accepts(token["name"], token["power"], token["sign"]):
            is_rate = reader.divides and reader.total.powers and _SOMETHING.fullmatch(text, position)
            return reader.total * _RATE if is_rate else None
        position = token.end()
    return reader.total if reader.is_complete() else None


class _UnitReader:
    """Reads a unit token by token."""

    def __init__(self) -> None:
        self.total = Unit((), Fraction(1))
        self.last: Unit | None = None  # what a power applies to
        self.divides = self.is_open = False
        self.area = 1
        self.is_joined = True  # by a sign

    def accepts(self, name: str | None, power: str | None, sign: str | None) -> bool:
        if power is not None or name in _WORD_POWERS:
            return self.accepts_power(int(power) if power is not None else _WORD_POWERS[str(name)])
        if sign in ("/", "每") or name == "per":
            self.divides, self.last, self.is_joined = True, None, True
            return bool(self.total.powers)
        if sign in ("(", ")"):
            was_open, self.is_open = self.is_open, sign == "("
            is_letter = sign == ")" and not self.divides and self.total in _LONE_LETTERS  # (A) is an option
            return was_open != self.is_open and not is_letter and (sign == ")" or self.divides or not self.total.powers)
        if (name or sign) in _AREA_WORDS:
            self.area = _AREA_WORDS[str(name or sign)]
            return True
        if name is not None:
            return self.accepts_name(name)
        self.is_joined = sign in ("*", "-")
        return self.last is not None or (sign == "." and self.area > 1)

    def accepts_name(self, name: str) -> bool:
        unit = _find_unit(name.replace(" ", ""))
        if unit is None or not (self.is_joined or (_is_physical(unit) and _is_physical(self.total))):
            is_temperature = unit in (_UNITS["°C"], _UNITS["°F"]) and self.total == _UNITS["°"]  # degrees Celsius
            if unit is None or not is_temperature:
                return False
            self.total = Unit((), Fraction(1))
        self.last = (unit**self.area) ** (-1 if self.divides else 1)
        self.total, self.area, self.is_joined = self.total * self.last, 1, False
        return True

    def accepts_power(self, power: int) -> bool:
        if self.last is None or (power > 1 and not (_is_physical(self.last) or self.last.dimension == "unit")):
            return False
        self.total, self.last = self.total * self.last ** (power - 1), None
        return True

    def is_complete(self) -> bool:
        return bool(self.total.powers) and self.area == 1 and not self.is_open


def _is_physical(unit: Unit) -> bool:
    """Percent, degrees and money have no powers, and stand next to no other unit."""
    return all(name in _PHYSICAL for name, _ in unit.powers)


def conversion(first: Unit | None, second: Unit | None) -> Fraction | None:
    """Factor that brings a number in the first unit to the second; 1 where either has none; None where they clash."""
    if (
        first is None
        or second is None
        or any(name in ("unit", "rate") for unit in (first, second) for name, _ in unit.powers)
    ):
        return Fraction(1)
    return first.factor / second.factor if first.powers == second.powers else None


# ---- Quantities.

_THOUSANDS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?![\d,])")
_DECIMAL_COMMA = re.compile(r"(?<![\d.,])(\d+),(\d{1,2})(?![\d,])")
_LABEL = re.compile(
    r"^\s*(?:[A-Za-z\\∠△_][\w\\∠△\s'|{}]*?(?:\([^()=]*\))?|m?\s*\\?angle\s*[\w{}]+|∠\s*\w+)\s*(?:=|:|\\approx)\s*(?=\S)"
)
_EQUALS = re.compile(r"=|\\approx(?![a-zA-Z])|≈")
_COUNTED = re.compile(
    r"^(?P<number>[-+]?[\d.,/]+)\s*(?P<noun>[A-Za-zÀ-ỹ][A-Za-zÀ-ỹ'-]{2,}(?:\s+[A-Za-zÀ-ỹ'-]+){0,5}|[\u4e00-\u9fff]{1,3})$"
)
_ABOUT = re.compile(
    r"^(?:about|approximately|approx\.?|around|roughly|nearly|exactly|only|\\approx|~|=)\s*", re.IGNORECASE
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
    """`value` in `unit`. `worked_out` is False where the text leaves plain arithmetic to do, such as `3*4`.

    `name` is what the text says the value of: `AB` in `AB = 5`.
    """

    value: Number
    unit: Unit | None = None
    ratio: bool = False
    worked_out: bool = True
    name: str | None = None

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
    name, text = _split_label(_ABOUT.sub("", canonical(text)))
    text = _ABOUT.sub("", text).strip()
    if not text or _TIGHT_RANGE.match(text):
        return None
    quantity = _first_reading(text)
    if quantity is None and (digits := with_foreign_numbers(text)) is not None:
        quantity = _value_and_unit(digits) or _ratio(digits)
    return quantity if quantity is None or name is None else replace(quantity, name=name)


def _first_reading(text: str) -> Quantity | None:
    for parse in (_value_and_unit, _compound, _ratio, _count):
        if (quantity := parse(text)) is not None:
            return quantity
    twice = _STATED_TWICE.match(text)
    if twice and (first := parse_quantity(twice.group(1))) and (second := parse_quantity(twice.group(2))):
        return first if same_quantity(second, first) else None
    if text.startswith("(") and text.endswith(")") and text.count("(") == 1:
        return parse_quantity(text[1:-1])
    return None


# ---- Names and equations: `x = 5`, `AB: 5`, `x = 2+3 = 5`.


def _split_label(text: str) -> tuple[str | None, str]:
    """`x = 5`, `AB: 5`, `Area = 5` as a name and `5`; of a true chain `a = b = c` the last term."""
    if "=" in text and not re.search(r"[<>]|!=|\\neq", text):
        terms = [term.strip() for term in _EQUALS.split(_without_thousands_commas(text))]
        if re.search(r"[,;]|\b(?:and|or)\b", "=".join(terms[:-1])) or "" in terms:
            return None, text  # several assignments
        values = [_term_value(term) for term in terms]
        named = [
            term for term, value in zip(terms[:-1], values, strict=False) if value is None and _LABEL.match(term + "=x")
        ]
        if values[-1] is None and values[0] is not None and len(terms) == 2 and _LABEL.match(terms[1] + "=x"):
            return terms[1], terms[0]  # 5 = x
        if (
            _is_false_chain(values)
            or changes_meaning(terms[0])
            or (len(terms) == 2 and values[0] is None and not named)
        ):
            return None, text
        return (named[0] if named else None), _worked_out_term(terms)
    label = _LABEL.match(text) if ":" in text or "\\approx" in text else None
    if label is None or re.search(r"(?:^|\s)\d+\s*:\s*$", label.group()) or changes_meaning(label.group()):
        return None, text
    name = label.group().rstrip(": ").removesuffix("\\approx").strip()
    return (None, text) if _term_value(name) is not None else (name, text[label.end() :])


def _term_value(term: str) -> Quantity | None:
    """A side of an equation that holds no unknown, functions included."""
    if (quantity := _value_and_unit(term)) is not None:
        return quantity
    value = closed_value(re.sub(r"[$€£¥]", "", term))
    return None if value is None or value.imag else Quantity(value.real, worked_out=False)


def _is_false_chain(values: list[Quantity | None]) -> bool:
    """`8 = 7` says nothing, and neither does `5 + 3 = 7`."""
    known = [value for value in values if value is not None]
    for first, second in pairwise(known):
        factor = conversion(first.unit, second.unit)
        if first.is_percent != second.is_percent:  # 0.28 + 0.32 = 60%, and 28 + 32 = 60% too
            share = Fraction(1, 100) if first.is_percent else Fraction(100)
            factor = share if same_number(first.value * share, second.value, 1e-9) else Fraction(1)
        if factor is None or not same_number(first.value * factor, second.value, 1e-9):  # roots may be rounded
            return True
    return False


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
    if unit is not None and _CURRENCY.match(text):
        body_without_unit, other = split_unit(body)  # `$5 dollars`, `$5 per book`
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
    if not may_follow_number(noun) or replace_number_words(noun) != noun:
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
        is_share = abs(float(bare.value)) <= 1
        if (is_share or not percent_asked) and _is_close(percent.value / 100, bare.value, precision):
            return True
        if not (percent_asked or gold.is_percent or not is_share):
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

_NUMBER_RANGE = re.compile(r"^-?\d+(?:\.\d+)?\s?-\s?\d+(?:\.\d+)?$")
_MAX_PHRASE = 200
_ONLY_NUMBERS = re.compile(r"(?=.*\d)[\d\s.,;:/|&-]+")
_RELATION = re.compile(r"[<>]|!=|\d\s*_")
_TO_BETWEEN_NUMBERS = re.compile(r"(?<=\d)\s+to\s+(?=\d)")
_SUBJECT = re.compile(r"^(?:[Tt]he value of )?(?P<name>[B-Zb-z]|[A-Z]{2,3}) (?:is|equals)\b")  # y is 5
_OUT_OF = re.compile(r"(?<=\d)\s+out\s+of\s+(?=\d)")
_OPERATOR = re.compile(r"[-+*/^]|\\?(?:frac|sqrt)\{")


def compare_numbers(answer: str, key: AnswerKey, gold: Quantity) -> Match | None:
    """None where the answer states no single number."""
    plain = canonical(answer)
    if _NUMBER_RANGE.match(plain) or _RELATION.search(plain):
        return Match(False, "a range where one number is right")
    number = _single_number(answer, key, gold)
    if number is None:
        if _ONLY_NUMBERS.fullmatch(plain):
            return Match(False, "several numbers where one is right")
        sides = [_term_value(side) for side in _EQUALS.split(plain)]
        return Match(False, "an equation that is false") if len(sides) > 1 and None not in sides else None
    candidates = [number, decimal_comma(answer) if "," in answer else None]
    if not any(
        same_quantity(candidate, gold, precision=key.precision, percent_asked=key.asks_for_percent)
        for candidate in candidates
        if candidate is not None
    ):
        is_near = (
            number.unit == gold.unit
            and not exact(number.value)
            and math.isclose(number.value, gold.value, rel_tol=1e-5)
        )
        return None if is_near and not exact(gold.value) else Match(False, "another number")  # too close for floats
    if not same_name(number.name, gold.name):
        return Match(False, "the value of something else")
    copied = _OPERATOR.search(normalized(answer)[1:]) and normalized(answer) in normalized(key.question)
    if gold.worked_out and isinstance(gold.value, Fraction) and (copied or not number.worked_out):
        return Match(False, "the arithmetic is not worked out")
    return Match(True, "equal numbers")


def _single_number(answer: str, key: AnswerKey, gold: Quantity) -> Quantity | None:
    """The one number that an answer states; None for none, for several, or for a hedge."""
    if gold.ratio:
        answer = _TO_BETWEEN_NUMBERS.sub(":", answer)
    if isinstance(gold.value, Fraction) and gold.value.denominator > 1:
        answer = _OUT_OF.sub("/", answer)  # 3 out of 4
    number = parse_quantity(answer) or _approximation(answer, key, gold) or decimal_comma(answer)
    if number is None and (reason := REASON.search(answer)):
        number = parse_quantity(answer[: reason.start()])
    if (
        number is None
        and (number := _number_in_phrase(canonical(answer)))
        and (subject := _SUBJECT.match(canonical(answer)))
    ):
        return replace(number, name=subject["name"])
    return number


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


def _number_in_phrase(plain: str) -> Quantity | None:
    """The one number that a short phrase states (`The area is 12 square units`); None for several or for none."""
    text = replace_number_words(plain)
    if len(text) > _MAX_PHRASE or MOMENT.search(text):
        return None
    numbers: list[Quantity] = []
    for candidates in stated_numbers(text):
        number = next(filter(None, map(parse_quantity, candidates)), None)
        if number is None or not same_quantity(number, (numbers or [number])[0]):
            return None
        numbers.append(number)
    return numbers[-1] if numbers else None
