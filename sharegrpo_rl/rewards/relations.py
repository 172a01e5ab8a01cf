"""Inequalities read as intervals, relations read from the other side, and lists of assignments."""

from __future__ import annotations

import re

from sharegrpo_rl.rewards.canonical import canonical
from sharegrpo_rl.rewards.sequences import Sequence, parse_sequence

_CHAIN = re.compile(r"^([^<>=]+)(<=?|>=?)\s*[A-Za-z]\s*(<=?|>=?)([^<>=]+)$")
_BOUND = re.compile(r"^[A-Za-z]\s*([<>]=?)([^<>=]+)$")
_BOUND_FIRST = re.compile(r"^([^<>=]+?)\s*([<>]=?)\s*[A-Za-z]$")
_UNION = re.compile(r"\\cup(?![a-zA-Z])|\b(?:or|and)\b|或")
_UNKNOWN = re.compile(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])")
_HOLE = re.compile(r"^[A-Za-z]\s*!=\s*([^!=<>,]+)$")
_BUILDER = re.compile(r"^\\?\{\s*[A-Za-z]\s*(?:\\in\s*\\mathbb\{R\}\s*)?(?:\||\\mid(?![a-z])|:)\s*([^{}]+?)\s*\\?\}$")
_SIGN = re.compile(r"(<=|>=|!=|<|>|=)")
_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}
_ASSIGNED = re.compile(r"^([A-Za-z]\w{0,3})\s*=\s*([^=]+)$")
_FUNCTION = re.compile(r"^(?:y|[A-Za-z](?:_\{?\w+\}?)?\(\s*[a-z]\s*\))\s*=\s*(?=\S)")


def interval_of(text: str) -> Sequence | None:
    """The interval that an inequality in one unknown says: `x <= 4` is (-infinity, 4], `1 < x <= 4` is (1, 4]."""
    plain = condition(text)
    if chain := _CHAIN.match(plain):
        low, first, second, high = chain.groups()
        if first[0] != second[0]:
            return None
        if first[0] == ">":
            low, first, second, high = high, second, first, low
        return Sequence((low.strip(), high.strip()), "[" if "=" in first else "(", "]" if "=" in second else ")")
    if bound := _BOUND.match(plain):
        sign, value = bound.groups()
    elif bound := _BOUND_FIRST.match(plain):
        value, sign = bound.group(1), _FLIPPED[bound.group(2)]
    else:
        return None
    if sign.startswith("<"):
        return Sequence(("-\\infty", value.strip()), "(", "]" if "=" in sign else ")")
    return Sequence((value.strip(), "\\infty"), "[" if "=" in sign else "(", ")")


def condition(text: str) -> str:
    """The canonical text; of a set `{x | x > 1}` its condition."""
    plain = canonical(text)
    builder = _BUILDER.match(plain)
    return builder.group(1).strip() if builder else plain


def union_of(text: str) -> list[Sequence] | None:
    """The intervals that `x < 1 or x > 5` and `(-\\infty, 1) \\cup (5, \\infty)` are made of; None for anything else."""
    plain = re.sub(r"^[A-Za-z]\s*\\in\s*", "", condition(text))
    if (hole := _HOLE.match(plain)) is not None:
        return [Sequence(("-\\infty", hole.group(1)), "(", ")"), Sequence((hole.group(1), "\\infty"), "(", ")")]
    found = [interval_of(part) or parse_sequence(part) for part in map(str.strip, _UNION.split(plain)) if part]
    parts = [part for part in found if part is not None and part.is_interval]
    if not parts or len(parts) != len(found):
        return None
    return _both(parts) if is_relation(plain) and re.search(r"\band\b", plain) else parts


def _both(parts: list[Sequence]) -> list[Sequence] | None:
    """`x > 1 and x < 5` is (1, 5)."""
    if len(parts) != 2:
        return None
    above = [part for part in parts if part.items[1] == "\\infty"]
    below = [part for part in parts if part.items[0] == "-\\infty"]
    if len(above) != 1 or len(below) != 1:
        return None
    return [Sequence((above[0].items[0], below[0].items[1]), above[0].opening, below[0].closing)]


def is_relation(text: str) -> bool:
    """Whether it holds an inequality sign."""
    return re.search(r"[<>]|!=", canonical(text)) is not None


def unknowns(text: str) -> set[str]:
    """The single letters in it."""
    return set(_UNKNOWN.findall(canonical(text)))


def flipped(text: str) -> str | None:
    """`3 < x` as `x > 3`, `a < b < c` as `c > b > a`; None where the text is no relation."""
    parts = _SIGN.split(canonical(text))
    if len(parts) < 3 or not all(part.strip() for part in parts):
        return None
    return "".join(_FLIPPED.get(part, part) for part in reversed(parts))


def assignments(many: Sequence | None) -> dict[str, str] | None:
    """`k = 45, n = 2` by name; None where a part is no assignment or a name comes twice."""
    if many is None or len(many.items) < 2:
        return None
    found = [_ASSIGNED.match(item.strip()) for item in many.items]
    named = {match.group(1): match.group(2).strip() for match in found if match}
    return named if len(named) == len(many.items) else None


def function_value(text: str) -> str | None:
    """The right side of `y = ...` or `f(x) = ...`; None where the text is neither."""
    plain = canonical(text)
    match = _FUNCTION.match(plain)
    return plain[match.end() :] if match and plain.count("=") == 1 else None
