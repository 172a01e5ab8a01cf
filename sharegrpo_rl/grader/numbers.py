"""A number with its unit, read from an answer; and whether two of them are the same."""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from sharegrpo_rl.grader.expressions import Number, evaluate, same_number, unfinished
from sharegrpo_rl.grader.key import HEDGED, REASON, AnswerKey, Match
from sharegrpo_rl.grader.moments import MOMENT
from sharegrpo_rl.grader.text import MAX_ANSWER_CHARACTERS, canonical, squeezed

# ---- Numbers written in words: `twenty-one`, `minus five`, `two and a half`, `three quarters`, `1.5 million`.

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


# ---- Units of measurement: cut them off a number, and say how two of them relate.

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


# ---- An answer against a ground truth that is a number: units, percent, ratios, approximations, and short phrases.

_NUMBER = re.compile(r"(?<![A-Za-z\d])(?<!\d\.)-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:\s*/\s*\d+)?")
_numeric_RANGE = re.compile(r"^-?\d+(?:\.\d+)?\s?-\s?\d+(?:\.\d+)?$")
_STATED = re.compile(r"\b(?:is|are|equals?|be|of|:)\s+(?:about |approximately )?(\S.*)$")
_UNKNOWN = re.compile(r"(?<![\\A-Za-z])[A-Za-z](?![A-Za-z])")
_BOUND = re.compile(r"\\(?:int|sum|prod|lim)|=|\\circ")  # letters that a value need not depend on
_MAX_PHRASE = 200
_EQUALS = re.compile(r"=|\\approx")
_ONLY_NUMBERS = re.compile(r"(?=.*\d)[\d\s.,;:/|&-]+")
_RELATION = re.compile(r"[<>]|!=|\d\s*_")
_TO = re.compile(r"(?<=\d)\s+to\s+(?=\d)")
_numeric_WORD = re.compile(
    r"(?<![\\A-Za-z])(?!(?:arc)?(?:sin|cos|tan|cot|sec|csc)|log|ln|exp|mod|lim|max|min|gcd|lcm)[A-Za-z]{2,}"
)
_OPERATOR = re.compile(r"[-+*/^]|\\(?:frac|sqrt)")


def compare_numbers(answer: str, key: AnswerKey, gold: Quantity) -> Match | None:
    """None where the answer states no single number."""
    plain = canonical(answer)
    if _numeric_RANGE.match(plain) or _RELATION.search(plain):
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
    return bool(unknowns) or _numeric_WORD.search(plain) is not None


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
