"""Theorem calls as FormalGeo annotates them, `line_addition(1,AB,BD)` -> phrases of a solution in words.

Each call is one key step. Its first phrasing is a sentence with the names of points; the others are what one says of
such a theorem, and for sums of lines, angles and arcs the equation in every order of names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import product

from sharegrpo_rl.data.theorem_phrases import THEOREM_PHRASES

_CALL = re.compile(r"([a-z][a-z_]{2,80})\(\d{1,2}((?:,[A-Z]{1,8})+)\)")
_SILENT = {"judgment", "property", "formula", "formular", "mirror"}  # words of a name that no solution says


def theorem_steps(calls: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """A key step for each call, repeated ones once; () where not all texts are theorem calls."""
    found = [_CALL.fullmatch(call.strip()) for call in calls]
    if not all(found):
        return ()
    return tuple(dict.fromkeys(_phrasings(call[1], tuple(call[2][1:].split(","))) for call in found if call))


def _phrasings(name: str, points: tuple[str, ...]) -> tuple[str, ...]:
    plain = name.removeprefix("mirror_")
    phrases = [phrase.format(*points, *[""] * 4).strip() for phrase in _templates(plain)]
    return tuple(dict.fromkeys([phrases[0], *_equations(plain, points), *phrases[1:]]))


@lru_cache
def _templates(name: str) -> tuple[str, ...]:
    """The phrases of the longest known name that this one begins with; else the name's own words."""
    known = max((prefix for prefix in THEOREM_PHRASES if name.startswith(prefix)), key=len, default=None)
    if known is None:
        return (" ".join(word for word in name.split("_") if word not in _SILENT) or name,)
    return THEOREM_PHRASES[known]


def _equations(name: str, points: tuple[str, ...]) -> list[str]:
    """`AB + BD`, `BD + AB`, `AD - AB`, .. of the calls that say how two parts make a whole."""
    lengths = [len(point) for point in points]
    if name == "right_triangle_property_pythagorean" and lengths == [3]:
        return [f"{x}^2 + {y}^2" for x, y in _pairs(_both(points[0][:2]), _both(points[0][1:]))]
    if len(points) != 2 or lengths[0] != lengths[1]:
        return []
    first, second = points
    if name == "line_addition" and lengths[0] == 2:
        return _sums(_both(first), _both(second), _both(first[0] + second[1]))
    if name == "angle_addition" and lengths[0] == 3:
        return _sums(_both(first), _both(second), _both(first[:2] + second[2]), "angle ")
    if name == "arc_addition_measure" and lengths[0] == 3:  # the first letter is the circle
        return _sums(_both(first[1:]), _both(second[1:]), _both(first[1] + second[2]), "arc ")
    if name == "adjacent_complementary_angle" and lengths[0] == 3:
        return _sums(_both(first), _both(second), (), "angle ")
    return []


def _both(name: str) -> tuple[str, str]:
    """A line or an angle is read from either end."""
    return name, name[::-1]


def _pairs(first: Sequence[str], second: Sequence[str]) -> list[tuple[str, str]]:
    return [pair for x, y in product(first, second) for pair in ((x, y), (y, x))]


def _sums(first: Sequence[str], second: Sequence[str], whole: Sequence[str], kind: str = "") -> list[str]:
    """The sum of both parts, and the whole less one of them, in every order and reading."""
    parts = [f"{kind}{x} + {kind}{y}" for x, y in _pairs(first, second)]
    return parts + [f"{kind}{all_of} - {kind}{part}" for all_of in whole for part in (*first, *second)]
