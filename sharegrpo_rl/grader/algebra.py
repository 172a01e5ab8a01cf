"""Expressions with unknowns and functions, compared by their values at fixed points: no eval, bounded work, in process.

Plain and LaTeX spellings are one (`sin(2x)`, `\\sin 2x`, `exp(x)`, `e^{x}`). What this reader does not know (absolute
values, integrals, words) it leaves to math-verify.
"""

from __future__ import annotations

import cmath
import math
import re
from collections.abc import Callable, Mapping
from functools import lru_cache

from sharegrpo_rl.grader.expressions import Tokens
from sharegrpo_rl.grader.text import content_words

_MAX_CHARACTERS = 400
_MAX_TOKENS = 200
_MAX_DEPTH = 60
_MAX_NAMES = 8
_LARGEST = 1e150  # of a value, so that products and ratios of two stay finite
_LARGEST_EXPONENT = 60  # of a power whose value may be trusted
_LARGEST_EXACT = 1e9  # of a value whose float tells it from its neighbours
_LONGEST_PRODUCT = 4  # letters side by side; more are a word

_FUNCTIONS: dict[str, Callable[[complex], complex]] = {
    "sin": cmath.sin,
    "cos": cmath.cos,
    "tan": cmath.tan,
    "cot": lambda z: 1 / cmath.tan(z),
    "sec": lambda z: 1 / cmath.cos(z),
    "csc": lambda z: 1 / cmath.sin(z),
    "sinh": cmath.sinh,
    "cosh": cmath.cosh,
    "tanh": cmath.tanh,
    "arcsin": cmath.asin,
    "arccos": cmath.acos,
    "arctan": cmath.atan,
    "ln": cmath.log,
    "log": cmath.log,
    "lg": cmath.log10,
    "log10": cmath.log10,
    "exp": cmath.exp,
    "sqrt": cmath.sqrt,
}
_INVERSES = {"sin": "arcsin", "cos": "arccos", "tan": "arctan"}
_GREEK_WORDS = (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau phi "
    "varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell hbar odot"
)
_GREEK = set(_GREEK_WORDS.split())
_NAMES = "|".join(sorted(_FUNCTIONS, key=len, reverse=True))
_SUBSCRIPT = r"(?:_(?:\{\s*(?:\\?[A-Za-z0-9]{1,12}\s*,?\s*){1,3}\}|\\[a-zA-Z]{1,12}|[A-Za-z0-9]))?'{0,3}"
_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})|(?P<frac>\\frac|\\binom)(?![a-zA-Z])|(?P<pi>\\pi)(?![a-zA-Z])"
    rf"|\\?(?P<function>{_NAMES})(?=[^a-zA-Z]|$|[a-zA-Z](?![a-zA-Z]))|(?P<mod>\\?[bp]?mod)(?![a-zA-Z])"
    rf"|(?P<name>(?:\\[a-zA-Z]{{1,12}}|[A-Za-z]){_SUBSCRIPT})|(?P<sign>[-+*/^(){{}}\[\]!_]))"
)
_WORD = re.compile(rf"(?<![\\A-Za-z_{{])(?!{_NAMES})[A-Za-z]{{{_LONGEST_PRODUCT + 1},}}")
_OTHER_FUNCTION = re.compile(
    r"(?<![\\A-Za-z])(?:a(?:sin|cos|tan)|abs|sgn|sign|floor|ceil|max|min|gcd|lcm|det|arg|gamma|erf|not)"
    r"|(?<![A-Za-z\\])[fghFGP]\s*\("
)
_CLOSERS = {"(": ")", "{": "}", "[": "]"}

Tree = tuple[object, ...]
Point = Mapping[str, complex]


class _Unreadable(ValueError):
    """The text is none of these expressions, or its value cannot be trusted."""


@lru_cache(maxsize=4096)
def read(text: str) -> Tree | None:
    """The tree of a canonical expression; None where it is none."""
    if not text or len(text) > _MAX_CHARACTERS or _WORD.search(text) or _OTHER_FUNCTION.search(text):
        return None
    try:
        return _Reader(text).read()
    except _Unreadable:
        return None


def unknowns(tree: Tree) -> set[str]:
    """The names in a tree."""
    if tree[0] == "name":
        return {str(tree[1])}
    return {name for part in tree[1:] if isinstance(part, tuple) for name in unknowns(part)}


def closed_value(text: str) -> complex | None:
    """The value of a canonical expression without unknowns, functions included; None where it has none."""
    tree = read(text)
    return None if tree is None or unknowns(tree) else _value(tree, {})


def same_expression(answer: str, gold: str) -> bool | None:
    """Whether two canonical expressions have the same values; None where that cannot be told here."""
    tree, gold_tree = read(answer), read(gold)
    if tree is None or gold_tree is None:
        return None
    names, gold_names = unknowns(tree), unknowns(gold_tree)
    if len(gold_names) > _MAX_NAMES:
        return None
    if not names <= gold_names:
        return False
    if not gold_names:
        value, gold_value = _value(tree, {}), _value(gold_tree, {})
        if value is None or gold_value is None:
            return None
        if max(abs(value), abs(gold_value)) > _LARGEST_EXACT:
            return None
        return _is_close(value, gold_value, 1e-11) or (None if _is_close(value, gold_value, 1e-5) else False)
    real, all_pairs = [], []
    for point in _points(gold_names)[: -3 if _has_factorials(tree) or _has_factorials(gold_tree) else None]:
        gold_value = _value(gold_tree, point)
        if gold_value is None:
            continue
        value = _value(tree, point)
        if value is None:
            return None if _has_high_powers(tree) else False  # x^2/x is not x where x is 0
        all_pairs.append((value, gold_value))
        if _is_real(value) and _is_real(gold_value):
            real.append((value, gold_value))
    pairs = real if len(real) >= _FEWEST_POINTS else all_pairs
    if len(pairs) < _FEWEST_POINTS:
        return None
    return all(_is_close(value, gold_value, 1e-9) for value, gold_value in pairs)


def same_equation(answer: str, gold: str) -> bool | None:
    """Whether two canonical equations are the same but for a constant factor; None where that cannot be told here."""
    tree, gold_tree = _difference(answer), _difference(gold)
    if tree is None or gold_tree is None:
        return None
    names = unknowns(gold_tree)
    if not 0 < len(names) <= _MAX_NAMES:
        return None
    if unknowns(tree) != names:
        return False
    pairs = [(_value(tree, point), _value(gold_tree, point)) for point in _points(names)[:-3]]
    ratios = [a / b for a, b in pairs if a is not None and b is not None and abs(b) > 1 / _LARGEST]
    if len(ratios) < _FEWEST_POINTS or not ratios[0]:
        return None
    if all(_is_close(ratio, ratios[0], 1e-9) for ratio in ratios):
        return True
    verdicts = {_same_zeros(tree, gold_tree, names), _same_zeros(gold_tree, tree, names)}
    if False in verdicts:
        return False
    return True if verdicts == {True} and len(names) > 1 else None


def _same_zeros(tree: Tree, other: Tree, names: set[str]) -> bool | None:
    """Whether the zeros of the one, with one unknown after the other solved for, are zeros of the other, as often."""
    ordered, num_same = sorted(names), 0
    for i, point in enumerate(_points(names)[:-3]):
        name = ordered[i % len(ordered)]
        zero = _zero(tree, name, point)
        values = [] if zero is None else [_value(other, {**point, name: zero + step}) for step in (0, *_STEPS)]
        scale = _value(other, point)
        if zero is None or None in values or not scale:
            continue
        at_zero, near, nearer = (abs(value) for value in values if value is not None)
        if at_zero > 1e-3 * abs(scale):
            return False
        slopes = [abs(_value(tree, {**point, name: zero + step}) or 0) for step in _STEPS]
        num_same += at_zero < 1e-6 * abs(scale) and math.isclose(near * slopes[1], nearer * slopes[0], rel_tol=0.2)
    return True if num_same >= _FEWEST_POINTS else None


def _zero(tree: Tree, name: str, point: Point) -> complex | None:
    """A value of the unknown at which the tree is zero, by the secant method; None where none is found."""
    before, now = complex(point[name]), complex(point[name]) + 0.1 + 0.05j
    value_before = _value(tree, {**point, name: before})
    for _ in range(_MAX_STEPS):
        value = _value(tree, {**point, name: now})
        if value is None or value_before is None or abs(value - value_before) < 1 / _LARGEST:
            return None
        before, now, value_before = now, now - value * (now - before) / (value - value_before), value
        if abs(now - before) <= 1e-12 * max(1.0, abs(now)):
            return now
    return None


def _difference(text: str) -> Tree | None:
    sides = text.split("=")
    if len(sides) != 2 or re.search(r"[<>!]", text):
        return None
    left, right = read(sides[0].strip()), read(sides[1].strip())
    return None if left is None or right is None else ("-", left, right)


# ---- Points and values.

_FEWEST_POINTS = 3
_MAX_STEPS = 40
_STEPS = (1e-3, 1e-4)  # from a zero, to see how often it is one
_NUM_POSITIVE, _NUM_MIXED = 5, 5
_GOLDEN = (math.sqrt(5) - 1) / 2


def _points(names: set[str]) -> list[dict[str, complex]]:
    """Values of the unknowns: scattered positive ones, scattered ones of both signs, and last 0, 1 and -1."""
    ordered = sorted(names)
    points: list[dict[str, complex]] = []
    for i in range(_NUM_POSITIVE + _NUM_MIXED):
        values = [
            0.13 + 2.3 * math.fmod((i + 1) * _GOLDEN + (j + 1) * math.sqrt(3 + 2 * j) + 0.37, 1)
            for j in range(len(ordered))
        ]
        signs = [-1 if i >= _NUM_POSITIVE and (i + j) % 2 else 1 for j in range(len(ordered))]
        points.append({name: sign * value for name, sign, value in zip(ordered, signs, values, strict=True)})
    return points + [dict.fromkeys(ordered, float(value)) for value in (0, 1, -1)]


def _is_real(value: complex) -> bool:
    return abs(value.imag) <= 1e-9 * abs(value)


def _is_close(first: complex, second: complex, tolerance: float) -> bool:
    return abs(first - second) <= tolerance * max(abs(first), abs(second)) or max(abs(first), abs(second)) < 1e-300


def _has_factorials(tree: Tree) -> bool:
    """Factorials have no value at -1."""
    return tree[0] in ("!", "binom") or any(isinstance(part, tuple) and _has_factorials(part) for part in tree[1:])


def _has_high_powers(tree: Tree) -> bool:
    """Whether an exponent is so large that values overflow."""
    if tree[0] == "^":
        exponent = tree[2]
        assert isinstance(exponent, tuple)
        if exponent[0] == "number" and abs(complex(exponent[1])) > _LARGEST_EXPONENT:
            return True
    return any(isinstance(part, tuple) and _has_high_powers(part) for part in tree[1:])


def _value(tree: Tree, point: Point) -> complex | None:
    """The value at a point; None where there is none, or none that a float holds."""
    try:
        value = _evaluated(tree, point)
    except (ArithmeticError, ValueError):
        return None
    return value if max(abs(value.real), abs(value.imag)) < _LARGEST else None


def _evaluated(tree: Tree, point: Point) -> complex:
    kind = tree[0]
    if kind == "number":
        return tree[1]  # type: ignore[return-value]
    if kind == "name":
        return point[tree[1]]  # type: ignore[index]
    values = [_evaluated(part, point) for part in tree[1:] if isinstance(part, tuple)]
    if kind == "function":
        return _FUNCTIONS[str(tree[1])](values[0])
    if kind == "!":
        return _factorial(values[0])
    return _OPERATIONS[str(kind)](*values)


def _root_or_power(base: complex, exponent: complex) -> complex:
    """The real root where an odd one of a negative number is taken, as schools write it."""
    if abs(exponent) > _LARGEST_EXPONENT:
        raise _Unreadable("too high a power")
    if base.imag == 0 == exponent.imag and base.real < 0 and exponent.real != int(exponent.real):
        inverse = 1 / exponent.real
        if abs(inverse - round(inverse)) < 1e-12 and round(inverse) % 2:
            return -complex((-base.real) ** exponent.real)
    if exponent.imag == 0 and exponent.real == int(exponent.real):
        return complex(base ** int(exponent.real))
    return complex(base**exponent)


def _factorial(value: complex) -> float:
    if value.imag or not -20 < value.real < 100:
        raise _Unreadable("no factorial")
    return math.gamma(value.real + 1)


def _integer(value: complex) -> int:
    if value.imag or value.real != int(value.real):
        raise _Unreadable("no integer")
    return int(value.real)


_OPERATIONS: dict[str, Callable[[complex, complex], complex]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "^": _root_or_power,
    "mod": lambda a, b: _integer(a) % _integer(b),
    "binom": lambda a, b: _factorial(a) / _factorial(b) / _factorial(a - b),
    "log": lambda base, z: cmath.log(z) / cmath.log(base),
}


# ---- The reader: a sum of products of signed powers; side by side means times.


class _Reader(Tokens):
    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str]] = []
        position = 0
        while position < len(text.rstrip()):
            match = _TOKEN.match(text, position)
            if match is None or len(self.tokens) >= _MAX_TOKENS:
                raise _Unreadable(text)
            kind = str(match.lastgroup)
            self.tokens.append((kind, match.group(kind)))
            position = match.end()
        self.position = self.depth = 0

    def read(self) -> Tree:
        tree = self.sum()
        if self.position < len(self.tokens):
            raise _Unreadable("something follows")
        return tree

    def sum(self) -> Tree:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise _Unreadable("nested too deeply")
        tree = self.product()
        while sign := self.accept("+-"):
            tree = (sign, tree, self.product())
        self.depth -= 1
        return tree

    def product(self) -> Tree:
        tree = self.signed()
        while True:
            if sign := self.accept("*/"):
                tree = (sign, tree, self.signed())
            elif self.peek()[0] == "mod":
                self.take()
                tree = ("mod", tree, self.signed())
            elif self.starts_factor():
                tree = self.side_by_side(tree)
            else:
                return tree

    def side_by_side(self, tree: Tree) -> Tree:
        """A product, but `1\\frac{1}{2}` is a sum, and `2 3` is nothing."""
        before, kind = self.tokens[self.position - 1][0], self.peek()[0]
        if kind == "number" and before == "number":
            raise _Unreadable("two numbers side by side")
        is_mixed = kind == "frac" and before == "number" and tree[0] == "number"
        factor = self.power()
        if is_mixed and not unknowns(factor):
            return ("+", tree, factor)
        return ("*", tree, factor)

    def starts_factor(self) -> bool:
        kind, text = self.peek()
        return kind in ("number", "frac", "pi", "function", "name") or (text in ("(", "[", "{") and kind == "sign")

    def signed(self) -> Tree:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise _Unreadable("nested too deeply")
        sign = self.accept("+-")
        tree = self.signed() if sign else self.power()
        self.depth -= 1
        return ("-", ("number", 0.0), tree) if sign == "-" else tree

    def power(self) -> Tree:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise _Unreadable("nested too deeply")
        tree = self.atom()
        while self.accept("!"):
            tree = ("!", tree)
        if self.accept("^"):
            tree = ("^", tree, self.exponent())
        self.depth -= 1
        return tree

    def exponent(self) -> Tree:
        """What stands behind `^`: a group, or one number, name or macro with its sign."""
        sign = self.accept("+-")
        tree = self.power()
        return ("-", ("number", 0.0), tree) if sign == "-" else tree

    def atom(self) -> Tree:
        kind, text = self.take()
        if kind == "number":
            return ("number", float(text))
        if kind == "pi":
            return ("number", math.pi)
        if kind == "frac":
            return ("/" if text == "\\frac" else "binom", self.argument(), self.argument())
        if kind == "function":
            return self.application(text)
        if kind == "name":
            return _named(text)
        if kind == "sign" and text in _CLOSERS:
            self.position -= 1
            return self.group()
        raise _Unreadable(text)

    def argument(self) -> Tree:
        """A group, or the one token that a macro takes without one."""
        if self.peek()[1] in ("{", "("):
            return self.group()
        return self.atom()

    def group(self) -> Tree:
        opener = self.take()[1]
        tree = self.sum()
        if self.take() != ("sign", _CLOSERS[opener]):
            raise _Unreadable("unbalanced")
        return tree

    def application(self, name: str) -> Tree:
        """`\\sin^2 x`, `\\log_{2} 8`, `\\sqrt[3]{x}`, `exp(x)`, `\\ln 2x`."""
        base = exponent = None
        if name == "sqrt":
            degree: Tree = self.group() if self.peek()[1] == "[" else ("number", 2.0)
            return ("^", self.argument(), ("/", ("number", 1.0), degree))
        if self.accept("_"):
            base = self.argument()
        if self.accept("^"):
            exponent = self.argument() if self.peek()[1] != "-" else self.exponent()
        if exponent == ("-", ("number", 0.0), ("number", 1.0)) and name in _INVERSES:
            name, exponent = _INVERSES[name], None
        inner = self.group() if self.peek()[1] in ("(", "[", "{") else self.bare_argument()
        tree: Tree = ("log", base, inner) if base is not None else ("function", name, inner)
        return tree if exponent is None else ("^", tree, exponent)

    def bare_argument(self) -> Tree:
        """`2x` of `\\sin 2x \\cos x`: the numbers and names up to the next sign, bracket or function."""
        tree = self.power()
        while self.peek()[0] in ("name", "pi", "frac") or (
            self.peek()[0] == "number" and self.tokens[self.position - 1][0] != "number"
        ):
            tree = ("*", tree, self.power())
        return tree


def _named(text: str) -> Tree:
    if text == "i":
        return ("number", 1j)
    if text == "e":
        return ("number", math.e)
    if text.startswith("\\") and re.match(r"\\([a-zA-Z]+)", text).group(1) not in _GREEK:  # type: ignore[union-attr]
        raise _Unreadable(text)
    return ("name", re.sub(r"[{}\s]", "", text))


# ---- Names of values: the left side of `x = 5`.

_GENERIC_NAME = re.compile(r"answer|result|value|total|solution|sum|number|amount|quantity|it\b", re.IGNORECASE)
_WORD_NAME = re.compile(r"(?<![\\A-Za-z])(?!(?:arc)?(?:sin|cos|tan|cot|sec|csc)|log|ln|max|min)[A-Za-z]*[a-z]{2}[a-z]")


def same_name(first: str | None, second: str | None) -> bool:
    """Whether two labels may be of one thing: `AB` and `BA`, `∠B` and `∠ABC`, `S` and `Area`; not `x` and `y`."""
    if first is None or second is None:
        return True
    are_words = [_WORD_NAME.search(name) is not None for name in (first, second)]
    if all(are_words):
        words = [set(content_words(name)) for name in (first, second)]
        return bool(words[0] & words[1]) or any(_GENERIC_NAME.search(name) for name in (first, second))
    if any(are_words):
        return True
    plain, other = (re.sub(r"\(\s*[a-z]\s*\)$|[{}\s()]|^m(?=∠)", "", name) for name in (first, second))
    if plain == other or {plain[:1], other[:1]} == {"y", "f"}:
        return True
    letters, other_letters = plain.removeprefix("∠"), other.removeprefix("∠")
    if re.fullmatch(r"[A-Z]{1,3}", letters) and re.fullmatch(r"[A-Z]{1,3}", other_letters):
        middle = {1, 3} == {len(letters), len(other_letters)} and "∠" in plain + other
        return (
            letters[::-1] == other_letters
            or letters == other_letters
            or (middle and letters[len(letters) // 2] == other_letters[len(other_letters) // 2])
        )
    return plain.partition("_")[0] == other.partition("_")[0] and ("_" in plain) != ("_" in other)
