"""The value of a number as it is written: an expression without unknowns, or words such as `two and a half`.

Expressions are parsed by recursive descent within hard bounds: no eval, no hang, no overflow.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Container, Iterator
from fractions import Fraction

Number = Fraction | float

_MAX_DEPTH = 40
_MAX_TOKENS = 200
_MAX_DIGITS = 200
_MAX_BITS = 8_000  # of an exact power
_LARGEST: int = 10**300  # every value within is a finite float
_MANY_DIGITS = 10  # with the point: of a decimal that may be rounded
_FLOAT_DIGITS, _FLOAT_NOISE = 16, Fraction(1, 10**14)  # 1.8333333333333335 is printed by a float
_FEW_BITS = 200  # of an exact value that may be compared with its rounded decimal
_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+)|(?P<frac>\\frac)|(?P<sqrt>\\sqrt)|(?P<pi>\\pi)|(?P<sign>[-+*/^(){}\[\]]))"
)
_CLOSERS = {"(": ")", "{": "}", "[": "]"}


def evaluate(text: str) -> Number | None:
    """Value of a canonical expression; None where it holds unknowns, is unbalanced, or its value is out of bounds."""
    parsed = _parse(text)
    return None if parsed is None else parsed[0]


def unfinished(text: str) -> bool:
    """Whether a canonical expression leaves work that a number need not: `3*4`, `10+2`, `36/2`, `\\sqrt{144}`.

    Fractions, powers, scientific notation and anything irrational are finished.
    """
    parsed = _parse(text)
    return parsed is not None and parsed[1]


def _parse(text: str) -> tuple[Number, bool] | None:
    """The value of a canonical expression, and whether arithmetic on exact numbers is left to do."""
    if not text or len(text) > 4 * _MAX_TOKENS:
        return None
    try:
        parser = _Parser(text)
        return parser.parse(), parser.unfinished
    except (_NotANumber, OverflowError, ZeroDivisionError):
        return None


class Rounded(Fraction):
    """A decimal that is written with many digits, the last of which is worth `step`: it may stand for another number."""

    step: Fraction

    def __new__(cls, value: Fraction, step: Fraction) -> Rounded:
        self = super().__new__(cls, value)
        self.step = step
        return self


def same_number(first: Number, second: Number, tolerance: float = 1e-12) -> bool:
    """Equal; or, where one is a decimal of nine digits or more, equal to it by the digits that are given.

    Whole numbers and fractions are exact, of whatever size; roots and multiples of pi have the relative `tolerance` of floats.
    """
    if first == second:
        return True
    steps = [number.step for number in (first, second) if isinstance(number, Rounded)]
    if isinstance(first, Fraction) and isinstance(second, Fraction):
        if not steps or _has_many_digits(first) or _has_many_digits(second):
            return False
        step = max(steps)  # what has no more digits than the rounded number must equal it
        return abs(first - second) < step and not (first / step).denominator == (second / step).denominator == 1
    if not (-_LARGEST <= first <= _LARGEST and -_LARGEST <= second <= _LARGEST):
        return False
    if steps:
        return abs(float(first) - float(second)) < max(steps)
    return math.isclose(first, second, rel_tol=tolerance)


def exact(value: Number) -> bool:
    """Whether the value was never rounded."""
    return isinstance(value, Fraction)


def _has_many_digits(value: Number) -> bool:
    return isinstance(value, Fraction) and max(value.numerator.bit_length(), value.denominator.bit_length()) > _FEW_BITS


class _NotANumber(ValueError):
    """The text is no closed expression, or its value is out of bounds."""


class Tokens:
    """(kind, text) of each token of an expression, taken one after the other."""

    tokens: list[tuple[str, str]]
    position: int

    def peek(self) -> tuple[str, str]:
        return self.tokens[self.position] if self.position < len(self.tokens) else ("end", "")

    def take(self) -> tuple[str, str]:
        token = self.peek()
        self.position += 1
        return token

    def accept(self, signs: str) -> str:
        kind, text = self.peek()
        if kind == "sign" and text in signs:
            self.position += 1
            return text
        return ""


class _Parser(Tokens):
    """Recursive descent: a sum of products of signed powers. Juxtaposition multiplies; an integer before a fraction adds."""

    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str]] = []
        position = 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None or len(self.tokens) >= _MAX_TOKENS:
                raise _NotANumber("not an expression")
            self.tokens.append((str(match.lastgroup), match.group().strip()))
            position = match.end()
        self.position = 0
        self.depth = 0
        self.unfinished = False  # whether arithmetic on exact numbers is left to do

    def parse(self) -> Number:
        value = self.sum()
        if self.peek()[0] != "end":
            raise _NotANumber("something follows the expression")
        return self.rounded(_finite(value))

    def rounded(self, value: Number) -> Number:
        """The value as a rounded one where the text is a decimal with many digits and nothing else."""
        literals = [text for kind, text in self.tokens if kind == "number"]
        if len(literals) != 1 or any(kind != "number" and text not in "+-" for kind, text in self.tokens):
            return value
        digits, _, exponent = literals[0].lower().partition("e")
        decimals = digits.partition(".")[2]
        if len(digits.lstrip("0.")) < _MANY_DIGITS or not decimals or not isinstance(value, Fraction):
            return value
        step = Fraction(10) ** (int(exponent or 0) - len(decimals))
        is_noisy = len(digits.lstrip("0.")) > _FLOAT_DIGITS and value.denominator > 1
        return Rounded(value, max(step, abs(value) * _FLOAT_NOISE) if is_noisy else step)

    def sum(self) -> Number:
        value = self.product()
        while sign := self.accept("+-"):
            term = self.product()
            self.unfinished |= exact(value) and exact(term)
            value = value + term if sign == "+" else value - term
        return value

    def product(self) -> Number:
        value = self.signed()
        while True:
            if sign := self.accept("*/"):
                ten = self.tokens[self.position : self.position + 2] == [("number", "10"), ("sign", "^")]
                factor = self.signed()
                self.unfinished |= sign == "*" and not ten and exact(value) and exact(factor)
                value = value * factor if sign == "*" else self.quotient(value, factor)
            elif self.peek()[0] in ("number", "frac", "sqrt", "pi") or self.peek()[1] in ("(", "["):
                value = self.juxtaposed(value)
            else:
                return value

    def quotient(self, top: Number, bottom: Number) -> Number:
        if bottom == 0:
            raise _NotANumber("division by zero")
        value = top / bottom
        self.unfinished |= exact(top) and exact(bottom) and bottom != 1 and value == int(value)
        return value

    def juxtaposed(self, value: Number) -> Number:
        before, (kind, _) = self.tokens[self.position - 1], self.peek()
        factor = self.power()
        if kind == "number" and before[0] == "number":
            return self.mixed_number(value, factor)
        if kind == "frac" and before[0] == "number" and exact(factor) and value == int(value) and 0 < factor < 1:
            return value + factor if value >= 0 else value - factor  # 1\frac{1}{4}
        self.unfinished |= exact(value) and exact(factor)
        return value * factor

    def mixed_number(self, value: Number, top: Number) -> Number:
        """`1 1/4`: two numbers side by side mean nothing else."""
        if not self.accept("/"):
            raise _NotANumber("two numbers side by side")
        bottom = self.power()
        if bottom == 0 or not 0 < top < bottom or value != int(value):
            raise _NotANumber("two numbers side by side")
        return value + top / bottom if value >= 0 else value - top / bottom

    def signed(self) -> Number:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise _NotANumber("nested too deeply")
        sign = self.accept("+-")
        value = self.signed() if sign else self.power()
        self.depth -= 1
        return -value if sign == "-" else value

    def power(self) -> Number:
        base = self.atom()
        return _power(base, self.signed()) if self.accept("^") else base

    def atom(self) -> Number:
        kind, text = self.take()
        if kind == "number":
            return _literal(text)
        if kind == "pi":
            return math.pi
        if kind == "frac":
            return self.quotient(self.group("{"), self.group("{"))
        if kind == "sqrt":
            degree = self.group("[") if self.peek()[1] == "[" else Fraction(2)
            if not exact(degree) or degree != int(degree) or not 1 <= degree <= 20:
                raise _NotANumber("odd root")
            root = _root(self.group("{"), int(degree))
            self.unfinished |= exact(root)
            return root
        if text in _CLOSERS:
            self.position -= 1
            return self.group(text)
        raise _NotANumber("not an expression")

    def group(self, opener: str) -> Number:
        self.depth += 1
        if self.depth > _MAX_DEPTH or self.take()[1] != opener:
            raise _NotANumber("unbalanced or nested too deeply")
        value = self.sum()
        if self.take()[1] != _CLOSERS[opener]:
            raise _NotANumber("unbalanced")
        self.depth -= 1
        return value


def _literal(text: str) -> Fraction:
    mantissa, _, exponent = text.lower().partition("e")
    if len(mantissa) > _MAX_DIGITS or len(exponent) > 4 or abs(int(exponent or 0)) > 300:
        raise _NotANumber("number out of bounds")
    return Fraction(mantissa.rstrip(".") or "0") * Fraction(10) ** int(exponent or 0)


def _finite(value: Number) -> Number:
    if not -_LARGEST <= value <= _LARGEST:
        raise _NotANumber("out of bounds")
    return value


def _power(base: Number, exponent: Number) -> Number:
    if exact(base) and exact(exponent) and exponent == int(exponent):
        bits = max(base.numerator.bit_length(), base.denominator.bit_length()) * abs(int(exponent))  # type: ignore[union-attr]
        if bits <= _MAX_BITS and (base != 0 or exponent > 0):
            return Fraction(base) ** int(exponent)
    if base < 0 or (base == 0 and exponent <= 0):
        raise _NotANumber("power of a negative number or of zero")
    try:
        return _finite(math.pow(base, exponent))
    except OverflowError as error:
        raise _NotANumber("power out of bounds") from error


def _root(value: Number, degree: int) -> Number:
    if value < 0:
        raise _NotANumber("root of a negative number")
    if isinstance(value, Fraction):
        top, bottom = (
            round(part ** (1 / degree)) if part < 1e15 else -1 for part in (value.numerator, value.denominator)
        )
        if top >= 0 and bottom > 0 and top**degree == value.numerator and bottom**degree == value.denominator:
            return Fraction(top, bottom)
    return _finite(math.pow(value, 1 / degree))


# ---- Numbers written in words: `twenty-one`, `minus five`, `two and a half`, `three quarters`, `1.5 million`.

_SMALL = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_VALUES = {word: i for i, word in enumerate(_SMALL)} | {word: 20 + 10 * i for i, word in enumerate(_TENS)}
_VALUES |= {"fourty": 40}
_SCALES = {"dozen": 12, "hundred": 100, "thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000}
DENOMINATORS = {"half": 2, "halves": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7}
DENOMINATORS |= {"eighth": 8, "ninth": 9, "tenth": 10, "twelfth": 12, "twentieth": 20, "hundredth": 100}
DENOMINATORS |= {"thousandth": 1_000, "millionth": 1_000_000, "billionth": 1_000_000_000}
DENOMINATORS |= {f"{word}s": value for word, value in DENOMINATORS.items() if not word.startswith("hal")}
_WORD = "|".join(sorted([*_VALUES, *_SCALES], key=len, reverse=True))
_SCALE = "|".join(_SCALES)
_PART = "|".join(sorted(DENOMINATORS, key=len, reverse=True))
_WORD_RUN = rf"(?:{_WORD})(?:[\s-]{{1,3}}(?:and\s)?(?:{_WORD})){{0,16}}"
_NUMBER_WORDS = re.compile(
    rf"(?<![\d.,])\d[\d,]{{0,20}}(?:\.\d{{1,20}})?\s?(?:{_SCALE})\b"
    rf"|\b(?:\d{{1,12}}|{_WORD_RUN})\sand\s(?:a|{_WORD})[\s-](?:{_PART})\b|\b{_WORD_RUN}(?:[\s-](?:{_PART})(?![\w-]))?\b",
    re.IGNORECASE | re.ASCII,
)
_MINUS_WORD = re.compile(r"^(?:minus|negative)\s+(?=\S)", re.IGNORECASE)
_MIXED = re.compile(rf"^(?P<integer>.+?)\s+and\s+(?P<top>a|[a-z]+)[\s-]+(?P<part>{_PART})$", re.IGNORECASE)
_FRACTION = re.compile(rf"^(?:(?P<top>a|[a-z][a-z\s-]*?)[\s-]+)?(?P<part>{_PART})$", re.IGNORECASE)
_SCALED = re.compile(rf"^(\d[\d,]{{0,20}}(?:\.\d{{1,20}})?)\s*({_SCALE})$", re.IGNORECASE)
_MAX_WORD_CHARACTERS = 200
_LARGEST_IN_WORDS = 10**15


def replace_number_words(text: str, keep: Container[str] = ()) -> str:
    """The text with every run of number words as digits; the runs in `keep` stay words."""

    def digits(match: re.Match[str]) -> str:
        value = None if match.group().lower() in keep else words_to_value(match.group())
        return match.group() if value is None else str(value)

    return _NUMBER_WORDS.sub(digits, text)


def words_to_value(text: str) -> Fraction | None:
    """`minus five`, `two thirds`, `two and a half`, `1.5 million`, `a dozen`; None for anything else."""
    plain = re.sub(r"\s+", " ", text.strip())
    if len(plain) > _MAX_WORD_CHARACTERS:
        return None
    if sign := _MINUS_WORD.match(plain):
        rest = plain[sign.end() :]
        value = Fraction(rest) if re.fullmatch(r"\d{1,20}(?:\.\d{1,20})?", rest) else words_to_value(rest)
        return None if value is None or value < 0 else -value
    if scaled := _SCALED.match(plain):
        return Fraction(scaled.group(1).replace(",", "")) * _SCALES[scaled.group(2).lower()]
    if (number := words_to_number(re.sub(r"^an?\s+(?=dozen|hundred|thousand|million)", "", plain))) is not None:
        return Fraction(number)
    if mixed := _MIXED.match(plain):
        integer = mixed["integer"]
        short_digits = integer.isascii() and integer.isdigit() and len(integer) < 20
        number = int(integer) if short_digits else words_to_number(integer)
        part = _fraction(mixed["top"], mixed["part"])
        return number + part if number is not None and part is not None and 0 < part < 1 else None
    fraction = _FRACTION.match(plain)
    return _fraction(fraction["top"], fraction["part"]) if fraction else None


def words_to_number(text: str) -> int | None:
    """Value of a run of number words; None where a word is none or their order makes no sense."""
    total, current, limit = 0, 0, 1_000_000_000_000
    words = [word for word in re.split(r"[\s-]+", text.lower().strip()) if word and word != "and"]
    for word in words:
        scale, value = _SCALES.get(word), _VALUES.get(word)
        if scale is not None:
            current, limit = max(current, 1) * scale, scale
            if scale > 100:
                total, current = total + current, 0
        elif value is None or value >= limit or (current % 10 and current % 100 > 0) or (current % 100 and value >= 10):
            return None
        else:
            current += value
            limit = 100 if value >= 20 else 10
        if total + current > _LARGEST_IN_WORDS:
            return None  # a thousand times `hundred` is no number that anybody writes
    return total + current if words else None


def _fraction(top: str | None, part: str) -> Fraction | None:
    count = 1 if top is None or top.lower() == "a" else words_to_number(top)
    if count is None or (top is None and part.lower() not in ("half", "quarter")):
        return None
    return Fraction(count, DENOMINATORS[part.lower()])


# ---- Numbers in other languages' words: `十二`, `四分之三`, `3.5万`, `根号3`, `hai mươi lăm`, `خمسة`, `cinco`.

# A language whose numbers are built as the Chinese ones are: each word with the character that it stands for.
_LIKE_CHINESE = {
    "vi": "không零 một一 mốt一 hai二 ba三 bốn四 tư四 năm五 lăm五 sáu六 bảy七 tám八 chín九 mười十 mươi十 trăm百 nghìn千 ngàn千",
    "ko": "영零 일一 이二 삼三 사四 오五 육六 칠七 팔八 구九 십十 백百 천千 만万 억亿",
}
# Any other language: its words for 0, 1, 2, ... (`_` where the word means something else in English).
_FROM_ZERO = {
    "ar": "صفر واحد اثنان ثلاثة أربعة خمسة ستة سبعة ثمانية تسعة عشرة",
    "de": "_ eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf",
    "es": "cero uno dos tres cuatro cinco seis siete ocho nueve diez _ doce trece catorce quince",
    "fr": "zéro un deux trois quatre cinq six sept huit neuf dix onze douze",
    "hi": "शून्य एक दो तीन चार पांच छह सात आठ नौ दस",
    "pt": "_ um dois três quatro cinco seis sete oito nove dez onze doze",
    "ru": "ноль один два три четыре пять шесть семь восемь девять десять",
}
_OTHER_WORDS = {
    word: str(i) for words in _FROM_ZERO.values() for i, word in enumerate(words.split()) if word != "_"
} | {entry[:-1]: entry[-1] for words in _LIKE_CHINESE.values() for entry in words.split() if len(entry) > 2}
_KOREAN = str.maketrans({entry[0]: entry[1] for entry in _LIKE_CHINESE["ko"].split()})
_CHINESE_DIGITS = {character: i for i, character in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2, "兩": 2}
_CHINESE_SCALES = {"十": 10, "百": 100, "千": 1_000, "万": 10_000, "萬": 10_000, "亿": 10**8, "億": 10**8}
_RUN = rf"[{''.join(_CHINESE_DIGITS)}十][{''.join(_CHINESE_DIGITS)}{''.join(_CHINESE_SCALES)}]{{0,20}}"
_ANY_NUMBER = r"(?:\d{1,12}(?:\.\d{1,12})?|\\sqrt\{\d{1,12}\})"
_CHINESE_SPELLINGS: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
    (re.compile(r"^(?:负|負|マイナス|마이너스|âm\s|سالب\s)\s*"), "-"),
    (re.compile(rf"({_RUN})点([{''.join(_CHINESE_DIGITS)}]{{1,12}})"), r"\1.\2"),
    (re.compile(r"(?:一半|半分|절반)"), "1/2"),
    (re.compile(r"百分之"), "%"),
    (re.compile(_RUN), lambda run: str(_chinese_value(run.group()))),
    (
        re.compile(r"(\d{1,12}(?:\.\d{1,12})?)\s*([百千万萬亿億])"),
        lambda match: _scaled(match.group(1), match.group(2)),
    ),
    (re.compile(r"(?:根号|根號|ルート|루트)\s*(\d{1,12})"), r"\\sqrt{\1}"),
    (re.compile(rf"^(-?)%\s*({_ANY_NUMBER})$"), r"\1\2%"),
    (re.compile(rf"({_ANY_NUMBER})\s*分之\s*({_ANY_NUMBER})"), r"\2/\1"),
    (re.compile(rf"^(-?{_ANY_NUMBER})\s*phần\s+({_ANY_NUMBER})$"), r"\1/\2"),
    (re.compile(rf"^(-?{_ANY_NUMBER})\s*(?:比|対|对|대)\s*({_ANY_NUMBER})$"), r"\1:\2"),
    (re.compile(r"(?<=\d)\s*又\s*(?=\d|\\frac)"), " "),
]
_MAX_FOREIGN = 40


def with_foreign_numbers(text: str) -> str | None:
    """The canonical text with its numbers in digits, where it holds words for some of another language; else None."""
    if len(text) > _MAX_FOREIGN or (text.isascii() and not text.replace(" ", "").isalpha()):
        return None
    words = [_OTHER_WORDS.get(word, word) for word in text.casefold().split(" ")]
    plain = (
        "".join(words) if any(word in _CHINESE_SCALES or word in _CHINESE_DIGITS for word in words) else " ".join(words)
    )
    plain = plain.replace("phần", " phần ").translate(_KOREAN)
    for pattern, replacement in _CHINESE_SPELLINGS:
        plain = pattern.sub(replacement, plain)
    return plain if plain != text else None


def _chinese_value(run: str) -> int:
    """`三百零五` is 305, `二〇一七` is 2017, `十二` is 12."""
    if all(character in _CHINESE_DIGITS for character in run):
        return int("".join(str(_CHINESE_DIGITS[character]) for character in run))
    total = section = digit = 0
    for character in run:
        scale = _CHINESE_SCALES.get(character)
        if scale is None:
            digit = _CHINESE_DIGITS[character]
        elif scale < 10_000:
            section, digit = section + max(digit, 1) * scale, 0
        else:
            total, section, digit = (total + section + digit) * scale, 0, 0
    return total + section + digit


def _scaled(number: str, scale: str) -> str:
    value = Fraction(number) * _CHINESE_SCALES[scale]
    return str(value.numerator) if value.denominator == 1 else f"{float(value)}"


# ---- Words around a number. What may stand there is a closed grammar; everything else makes the number none:
# (subject verb | lead)? (about)? NUMBER (unit)? (noun phrase)? (is the answer)?

_VERBS = (
    "is are was were be will equals equal has have had get got gets give gives contain contains show shows make makes"
)
_VERBS += " count counted see find found cost costs total totals measure measures need needs left become becomes obtain"
_LEADS = (
    "about approximately around roughly exactly only just nearly so thus hence therefore answer result number year in"
)
_LEADS += " total solution value it's there's that's i we also ok okay finally choose select option sum"
_VERBS += " weighs weigh holds hold takes take took lasts requires pays paid earns uses used ate sold bought reads says"
_VERBS += " displays indicates scored remain remains equalled"
_MAY_PRECEDE = set(f"{_VERBS} {_LEADS}".split())
_MEASURES_WORDS = (
    "total area perimeter volume length width height radius diameter distance value measure count speed cost age "
    "price answer result circumference mass weight time angle slope probability"
)
_MEASURES = set(_MEASURES_WORDS.split())
# Words that take a statement back, leave it open, or change its value, wherever they stand in it.
_CHANGING_WORDS = (
    "not no never neither nor none nobody nothing cannot without hardly barely or either maybe perhaps possibly "
    "probably if unless but except vs versus rather instead between unknown unsure uncertain guess whether than least "
    "most more less fewer greater smaller bigger up wrong incorrect false untrue mistaken invalid twice thrice double "
    "triple half halves squared cubed unlike doubt deny anything isn aren ain wasn weren doesn didn don won couldn "
    "wouldn shouldn hasn haven previously formerly opposite reciprocal"
)
_CHANGES = set(_CHANGING_WORDS.split())
# Words that may not follow a number, for they change it: scales, parts, operations and comparisons.
_CHANGING_WORDS_BEHIND = (
    "thousand million billion trillion quadrillion quintillion lakh crore dozen gross score k factorial times plus "
    "minus over off power root mod modulo pi sqrt to too so very ish short and is are was were be above below under "
    "after before beyond past ago by through until negative inverse multiplied divided doubled halved increased "
    "st nd rd th rds ths upside dozens lakhs crores billions trillions "
    "decreased reversed rounded removed excluded missing rejected off away per cent tens hundreds thousands millions"
)
_CHANGES_BEFORE_IT = set(_CHANGING_WORDS_BEHIND.split())
_CHANGES_BEFORE_IT |= {*DENOMINATORS, *(f"{word}th" for word in _VALUES), *(f"{word}ths" for word in _VALUES)}
_PREPOSITIONS_WORDS = "in on at of inside from for with around near within among along"
_PREPOSITIONS = set(_PREPOSITIONS_WORDS.split())
_AT_ONCE = {"in", "on", "at", "of"}
_PLAIN_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_CHINESE_LEAD = re.compile(r"^(?:所以|因此|答案?|结果|[一总]?共|计|还?剩|有|为|是|等于|得|大?约|[A-Za-z]的值|[,:\s])*$")
_NO_CHINESE_NOUN = re.compile(r"[千万亿百十或倍折半多余不以上下左右乘除加减方平立阶]")


def changes_meaning(text: str) -> bool:
    """Whether a word of the text takes a statement back, leaves it open, or changes its value."""
    return not _CHANGES.isdisjoint(word.casefold() for word in _PLAIN_WORD.findall(text))


_NUMBER = re.compile(r"(?<![A-Za-z\d])(?<!\d\.)-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:\s*/\s*\d+)?")
_SAYS_IT_IS_IT = re.compile(
    r"(?:^|\s)(?:is|are|was|were)\s+(?:(?:the|my|our)\s+(?:(?:final|correct|right)\s+)?(?:answer|result|value|solution|total|number)"
    r"|correct|right|left|visible|shown|present|there|needed|required|remaining|possible|(?:in|on|at|inside)\s+[a-z\s]{1,40})$",
    re.IGNORECASE,
)
_CLAUSES = re.compile(r"[.;!?]\s+|\n+|,\s*(?=(?:so|thus|hence|therefore|which)\b)", re.IGNORECASE)


def stated_numbers(text: str) -> Iterator[list[str]]:
    """For each clause that has a number, or takes one back: the texts that may be its number, likeliest first."""
    for clause in filter(None, map(str.strip, _CLAUSES.split(text))):
        if _NUMBER.search(clause) or changes_meaning(clause):
            yield list(_readings(clause.rstrip(".,:")))


def _readings(clause: str) -> Iterator[str]:
    head, equals, result = clause.rpartition("=")
    if equals and _NUMBER.search(head) is None and not changes_meaning(head):
        yield result.strip()
        clause = result.strip()
    for gap in re.finditer(r"\s(?=\S)", clause):  # `The answer is 2\\sqrt{3} cm`
        if _NUMBER.search(clause, 0, gap.start()) is None and may_precede_number(clause[: gap.start()]):
            yield clause[gap.end() :]
    match = _NUMBER.search(clause)
    if match is None or "\\" in clause or _NUMBER.search(clause, match.end()):
        return
    before, after = clause[: match.start()].strip(), clause[match.end() :].strip()
    if re.match(r"[*/^+!_=%-]|[A-Za-z](?![A-Za-z])", after) or not may_precede_number(before.lstrip("(\"'")):
        return
    if changes_meaning(after):
        return
    after = _SAYS_IT_IS_IT.sub("", after)
    for gap in [*re.finditer(r"^|$|\s", after)][::-1]:  # the longest unit first
        rest = after[gap.start() :].strip()
        if not rest or may_follow_number(rest):
            yield f"{match.group()} {after[: gap.start()]}".strip()


def may_precede_number(text: str) -> bool:
    """`The area is about`, `There are`, `Answer:`, an area of: a subject with a verb, or a word that leads to a number."""
    if not text or _CHINESE_LEAD.match(text):
        return True
    words = [word.casefold() for word in _PLAIN_WORD.findall(re.sub(r"'(?:s|re)\b", " is", text))]
    if not words or _CHANGES & set(words) or re.search(r"[\d<>=*/^+{}|]|\\in(?![a-z])|n't\b", text):
        return False
    while words and words[-1] in ("a", "the", "an", "about", "approximately", "to"):
        if words.pop() == "to" and (
            not words or words[-1] not in ("equal", "equals", "up", "comes", "amounts", "adds")
        ):
            return False
    if not words or text.endswith(":"):
        return True
    if words[-1] == "of":
        return len(words) > 1 and words[-2] in _MEASURES
    return words[-1] in _MAY_PRECEDE


def may_follow_number(text: str) -> bool:
    """`red balls in the box`: a noun phrase, with prepositions behind its first noun, that changes no value."""
    if not text.isascii() and re.search(r"[\u4e00-\u9fff]", text):
        return len(text) <= 4 and not _NO_CHINESE_NOUN.search(text)
    if re.search(r"[^\w\s'.,()-]|\d", text):
        return False
    words = [word.casefold() for word in _PLAIN_WORD.findall(text)]
    if len(words) > 1 and words[0] == "per" and words[1] not in _CHANGES_BEFORE_IT:
        words = words[1:]
    if _CHANGES & set(words) or not words or (words[-1].endswith(("ed", "ly")) and len(words[-1]) > 4):
        return False
    if words[0] in _PREPOSITIONS and words[0] not in _AT_ONCE:
        return False
    noun_words = words[: next((i for i, word in enumerate(words) if word in _PREPOSITIONS), len(words))]
    return not _CHANGES_BEFORE_IT & set(words) and len(noun_words) <= 4 and len(words) <= 10
