"""Units of measurement: cut them off a number, and say how two of them relate."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

# "dimension factor-to-its-base-unit": the names of the unit
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
    "volume 0.001": "ml mL milliliter millilitre 毫升",
    "volume 1": "l L liter litre litres 升",
    "angle 1": "° deg degree 度",
    "radian 1": "rad radian",
    "percent 1": "% percent percentage pct",
    "dollar 1": "$ dollar usd USD 美元",
    "cent 1": "cent ¢",
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
    "bearing 1": "°T",
    "speed 1": "mph",
    "unit 1": "unit 单位 units",
}


@dataclass(frozen=True)
class Unit:
    """A dimension with its power and the factor to the base unit: cm^2 is length, 2, 1/10000."""

    dimension: str
    power: int
    factor: Fraction


def _entries() -> dict[str, tuple[str, Fraction]]:
    entries: dict[str, tuple[str, Fraction]] = {}
    for head, names in _TABLE.items():
        dimension, factor = head.split()
        for name in names.split():
            entries[name] = (dimension, Fraction(factor))
            if len(name) > 2 and name.isascii() and name.isalpha() and not name.endswith("s"):
                entries.setdefault(name + "s", entries[name])
    return entries


_UNITS = _entries()
_NAME = "|".join(re.escape(name) for name in sorted(_UNITS, key=len, reverse=True))
_POWER = r"(?:\s*\^?\s*\{?\s*(?P<power>[23])\s*\}?)?"
_AREA_WORDS = {"square": 2, "sq": 2, "sq.": 2, "平方": 2, "cubic": 3, "cu": 3, "立方": 3}
_SUFFIX = re.compile(
    rf"(?<![A-Za-z\\])(?P<area>square|sq\.?|cubic|cu\.?|平方|立方)?\s*\*?\s*(?P<name>{_NAME})(?:{_POWER}|\s*(?P<word>squared|cubed))"
    r"(?:\s*(?:/|per\s)\s*[A-Za-z]+(?:\s*\^?\s*\{?-?\d\}?)?)?\.?\s*$"
)
_PREFIX = re.compile(r"^\s*(?P<name>[$€£¥₹])\s*")


def _unit(name: str, power: int) -> Unit:
    dimension, factor = _UNITS[name]
    return Unit(dimension, power, factor**power)


def split_unit(text: str) -> tuple[str, Unit | None]:
    """A canonical text as (what stands before its unit, the unit); (text, None) where there is none."""
    if prefix := _PREFIX.match(text):
        return text[prefix.end() :].strip(), _unit(prefix.group("name"), 1)
    match = _SUFFIX.search(text) or _SUFFIX.search(_folded(text))
    if match is None:
        return text, None
    words = {"squared": 2, "cubed": 3}
    power = int(
        match.group("power") or _AREA_WORDS.get(match.group("area") or "", 0) or words.get(match.group("word"), 1)
    )
    rate = "/" in match.group() or " per " in match.group()
    unit = Unit("rate", 1, Fraction(1)) if rate else _unit(match.group("name"), power)
    return text[: match.start()].strip(), unit


def _folded(text: str) -> str:
    """Long unit words in lower case (`10 Meters`); short ones keep theirs, since N and n differ."""
    return re.sub(r"[A-Za-z]{3,}", lambda word: word.group().lower(), text)


def is_unit_word(word: str) -> bool:
    """Whether the word alone names a unit."""
    return word in _UNITS or word.lower() in _UNITS


def conversion(first: Unit | None, second: Unit | None) -> Fraction | None:
    """Factor that brings a number in the first unit to the second; 1 where either has none; None where they clash."""
    if (
        first is None
        or second is None
        or "unit" in (first.dimension, second.dimension)
        or "rate" in (first.dimension, second.dimension)
    ):
        return Fraction(1)
    if (first.dimension, first.power) != (second.dimension, second.power):
        return None
    return first.factor / second.factor
