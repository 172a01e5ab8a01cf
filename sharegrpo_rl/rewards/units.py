"""Units of measurement: cut them off a number, and say how two of them relate."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

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


def _entries() -> dict[str, Unit]:
    entries: dict[str, Unit] = {}
    for head, names in _TABLE.items():
        dimension, factor = head.split()
        top, _, bottom = factor.partition("/")
        base, _, power = dimension.partition("^")
        unit = Unit(base, int(power or 1), Fraction(top) / Fraction(bottom or 1))
        for name in names.split():
            entries[name] = unit
            if len(name) > 2 and name.isascii() and name.isalpha() and not name.endswith("s"):
                entries.setdefault(name + "s", unit)
    return entries


_UNITS = _entries()
_NAME = "|".join(re.escape(name) for name in sorted(_UNITS, key=len, reverse=True))
_POWER = r"(?:\s*\^?\s*\{?\s*(?P<power>[23])\s*\}?)?"
_AREA_WORDS = {"square": 2, "sq": 2, "sq.": 2, "平方": 2, "cubic": 3, "cu": 3, "立方": 3}
_SUFFIX = re.compile(
    rf"(?<![A-Za-z\\])(?P<area>square|sq\.?|cubic|cu\.?|平方|立方)?\s*\*?\s*(?P<name>{_NAME})"
    rf"(?:{_POWER}|\s*(?P<word>squared|cubed))(?P<rate>\s*(?:/|per\s)\s*(?P<per>[A-Za-z]+|[\u4e00-\u9fff])"
    r"(?:\s*\^?\s*\{?(?P<per_power>-?\d)\}?)?)?\.?\s*$"
)
_PREFIX = re.compile(r"^\s*(?:[A-Z]{0,2}(?P<dollar>\$)|(?P<name>[€£¥₹]))\s*")
_WORD_POWERS = {"squared": 2, "cubed": 3}


def _power(match: re.Match[str]) -> int:
    written = match.group("power") or _AREA_WORDS.get((match.group("area") or "").rstrip("."), 0)
    return int(written or _WORD_POWERS.get(match.group("word"), 1))


def _raised(unit: Unit, power: int) -> Unit:
    return unit if power == 1 else Unit(unit.dimension, unit.power * power, unit.factor**power)


def _rate(unit: Unit, per: str, power: str | None) -> Unit:
    """`km/h`; a rate by something that is no unit (`km/trip`) fits every other."""
    below = _UNITS.get(per) or _UNITS.get(per.lower())
    if below is None or abs(int(power or 1)) not in (1, 2, 3):
        return Unit("rate", 1, Fraction(1))
    below = _raised(below, abs(int(power or 1)))
    head = unit.dimension if unit.power == 1 else f"{unit.dimension}^{unit.power}"
    tail = below.dimension if below.power == 1 else f"{below.dimension}^{below.power}"
    return Unit(f"{head}/{tail}", 1, unit.factor / below.factor)


def split_unit(text: str) -> tuple[str, Unit | None]:
    """A canonical text as (what stands before its unit, the unit); (text, None) where there is none."""
    if prefix := _PREFIX.match(text):
        return text[prefix.end() :].strip(), _UNITS[prefix.group("dollar") or prefix.group("name")]
    text = re.sub(r"°\s+(?=[TCF]$)", "°", text)
    match = _SUFFIX.search(text) or _SUFFIX.search(_folded(text))
    if match is None:
        return text, None
    unit, power = _UNITS[match.group("name")], _power(match)
    if power > 1 and unit.dimension not in ("length", "unit"):
        return text, None
    unit = _raised(unit, power)
    return text[: match.start()].strip(), _rate(unit, match["per"], match["per_power"]) if match["rate"] else unit


def _folded(text: str) -> str:
    """Long unit words in lower case (`10 Meters`); short ones keep theirs, since N and n differ."""
    return re.sub(r"[A-Za-z]{3,}", lambda word: word.group().lower(), text)


_FITS_ALL = {"unit", "rate"}


def conversion(first: Unit | None, second: Unit | None) -> Fraction | None:
    """Factor that brings a number in the first unit to the second; 1 where either has none; None where they clash."""
    if first is None or second is None or _FITS_ALL & {first.dimension, second.dimension}:
        return Fraction(1)
    if (first.dimension, first.power) != (second.dimension, second.power):
        return None
    return first.factor / second.factor
