"""The value of an expression without unknowns, by recursive descent with hard bounds: no eval, no hang, no overflow."""

from __future__ import annotations

import math
import re
from fractions import Fraction

Number = Fraction | float

_MAX_DEPTH = 40
_MAX_TOKENS = 200
_MAX_DIGITS = 200
_MAX_BITS = 8_000  # of an exact power
_LARGEST: int = 10**300  # every value within is a finite float
_FEW_BITS = 200  # of an exact value that may be compared with its rounded decimal
_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+)|(?P<frac>\\frac)|(?P<sqrt>\\sqrt)|(?P<pi>\\pi)|(?P<sign>[-+*/^(){}\[\]]))"
)
_CLOSERS = {"(": ")", "{": "}", "[": "]"}


class NotANumber(ValueError):
    """The text is no closed expression, or its value is out of bounds."""


def exact(value: Number) -> bool:
    """Whether no rounding went into it."""
    return isinstance(value, Fraction)


def _literal(text: str) -> Fraction:
    mantissa, _, exponent = text.lower().partition("e")
    if len(mantissa) > _MAX_DIGITS or len(exponent) > 4 or abs(int(exponent or 0)) > 300:
        raise NotANumber("number out of bounds")
    return Fraction(mantissa.rstrip(".") or "0") * Fraction(10) ** int(exponent or 0)


def _finite(value: Number) -> Number:
    if not -_LARGEST <= value <= _LARGEST:
        raise NotANumber("out of bounds")
    return value


def _power(base: Number, exponent: Number) -> Number:
    if exact(base) and exact(exponent) and exponent == int(exponent):
        bits = max(base.numerator.bit_length(), base.denominator.bit_length()) * abs(int(exponent))  # type: ignore[union-attr]
        if bits <= _MAX_BITS and (base != 0 or exponent > 0):
            return Fraction(base) ** int(exponent)
    if base < 0 or (base == 0 and exponent <= 0):
        raise NotANumber("power of a negative number or of zero")
    try:
        return _finite(math.pow(base, exponent))
    except OverflowError as error:
        raise NotANumber("power out of bounds") from error


def _root(value: Number, degree: int) -> Number:
    if value < 0:
        raise NotANumber("root of a negative number")
    if isinstance(value, Fraction):
        top, bottom = (
            round(part ** (1 / degree)) if part < 1e15 else -1 for part in (value.numerator, value.denominator)
        )
        if top >= 0 and bottom > 0 and top**degree == value.numerator and bottom**degree == value.denominator:
            return Fraction(top, bottom)
    return _finite(math.pow(value, 1 / degree))


class _Parser:
    """Grammar: sum of products of signed powers; juxtaposition multiplies, and an integer before a fraction adds."""

    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str]] = []
        position = 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None or len(self.tokens) >= _MAX_TOKENS:
                raise NotANumber("not an expression")
            self.tokens.append((str(match.lastgroup), match.group().strip()))
            position = match.end()
        self.place = 0
        self.depth = 0
        self.unfinished = False  # whether arithmetic on exact numbers is left to do

    def peek(self) -> tuple[str, str]:
        return self.tokens[self.place] if self.place < len(self.tokens) else ("end", "")

    def take(self) -> tuple[str, str]:
        token = self.peek()
        self.place += 1
        return token

    def accept(self, signs: str) -> str:
        kind, text = self.peek()
        if kind == "sign" and text in signs:
            self.place += 1
            return text
        return ""

    def whole(self) -> Number:
        value = self.sum()
        if self.peek()[0] != "end":
            raise NotANumber("something follows the expression")
        return _finite(value)

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
                ten = self.tokens[self.place : self.place + 2] == [("number", "10"), ("sign", "^")]
                factor = self.signed()
                self.unfinished |= sign == "*" and not ten and exact(value) and exact(factor)
                value = value * factor if sign == "*" else self.quotient(value, factor)
            elif self.peek()[0] in ("number", "frac", "sqrt", "pi") or self.peek()[1] in ("(", "["):
                value = self.juxtaposed(value)
            else:
                return value

    def quotient(self, top: Number, bottom: Number) -> Number:
        if bottom == 0:
            raise NotANumber("division by zero")
        value = top / bottom
        self.unfinished |= exact(top) and exact(bottom) and bottom != 1 and value == int(value)
        return value

    def juxtaposed(self, value: Number) -> Number:
        before, (kind, _) = self.tokens[self.place - 1], self.peek()
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
            raise NotANumber("two numbers side by side")
        bottom = self.power()
        if bottom == 0 or not 0 < top < bottom or value != int(value):
            raise NotANumber("two numbers side by side")
        return value + top / bottom if value >= 0 else value - top / bottom

    def signed(self) -> Number:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise NotANumber("nested too deeply")
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
                raise NotANumber("odd root")
            root = _root(self.group("{"), int(degree))
            self.unfinished |= exact(root)
            return root
        if text in _CLOSERS:
            self.place -= 1
            return self.group(text)
        raise NotANumber("not an expression")

    def group(self, opener: str) -> Number:
        self.depth += 1
        if self.depth > _MAX_DEPTH or self.take()[1] != opener:
            raise NotANumber("unbalanced or nested too deeply")
        value = self.sum()
        if self.take()[1] != _CLOSERS[opener]:
            raise NotANumber("unbalanced")
        self.depth -= 1
        return value


def evaluate(text: str) -> Number | None:
    """Value of a canonical expression; None where it holds unknowns, is unbalanced, or its value is out of bounds."""
    if not text or len(text) > 4 * _MAX_TOKENS:
        return None
    try:
        return _Parser(text).whole()
    except (NotANumber, OverflowError, ZeroDivisionError):
        return None


def unfinished(text: str) -> bool:
    """Whether a canonical expression leaves work that a number need not: `3*4`, `10+2`, `36/2`, `\\sqrt{144}`.

    Fractions, powers, scientific notation and anything irrational are finished.
    """
    if not text or len(text) > 4 * _MAX_TOKENS:
        return False
    try:
        parser = _Parser(text)
        parser.whole()
    except (NotANumber, OverflowError, ZeroDivisionError):
        return False
    return parser.unfinished


def _many_digits(value: Number) -> bool:
    return isinstance(value, Fraction) and max(value.numerator.bit_length(), value.denominator.bit_length()) > _FEW_BITS


def same_number(first: Number, second: Number) -> bool:
    """Equal; or equal to 1e-9 relative, unless both are exact and one has so many digits that rounding is no excuse."""
    if exact(first) and exact(second) and (first == second or _many_digits(first) or _many_digits(second)):
        return first == second
    if not (-_LARGEST <= first <= _LARGEST and -_LARGEST <= second <= _LARGEST):
        return False
    return math.isclose(first, second, rel_tol=1e-9, abs_tol=1e-12)
