"""Search spaces in a run file: `grid_search`, `choice`, `uniform`, `loguniform`, `quniform` under `config`. Data only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.tune.settings import SEARCH_WORDS, copy_tree

LISTS = ("grid_search", "choice")
RANGES = {"uniform": ("low", "high"), "loguniform": ("low", "high"), "quniform": ("low", "high", "step")}
MAX_CANDIDATES = 1000
# Ray Tune's other words, which a reader of its documentation may try.
NOT_HERE = ("randint", "lograndint", "qrandint", "qlograndint", "qloguniform", "randn", "qrandn", "sample_from")


@dataclass(frozen=True)
class SearchKey:
    """One searched key: `path` from the run's root, `word`, and its candidates or bounds as the file has them."""

    path: tuple[str, ...]
    word: str
    arguments: tuple[Any, ...]

    @property
    def key(self) -> str:
        """The dotted key: `config.lr`."""
        return ".".join(self.path)

    @property
    def is_grid(self) -> bool:
        """Does every candidate get its own trials?"""
        return self.word == "grid_search"

    @property
    def values(self) -> tuple[Any, ...]:
        """What is checked against the option: every candidate, or both ends of a range."""
        if self.word in LISTS:
            return self.arguments
        whole = self.word == "quniform" and all(isinstance(a, int) for a in self.arguments)
        return tuple(a if whole else float(a) for a in self.arguments[:2])


def find_search_keys(value: Any, path: tuple[str, ...] = ("config",)) -> list[SearchKey]:
    """Every search space under a value, in file order; UserError naming the key where one is malformed."""
    if isinstance(value, Mapping):
        if words := [key for key in value if key in (*SEARCH_WORDS, *NOT_HERE)]:
            return [_read(value, path, words[0])]
        return [found for key, inner in value.items() for found in find_search_keys(inner, (*path, key))]
    if isinstance(value, list):
        for inner in value:
            if found := find_search_keys(inner, path):
                raise UserError(
                    f"{'.'.join(path)}: {found[0].word} inside a list; search over whole lists: choice: [[...], [...]]"
                )
    return []


def with_values(tree: Mapping[str, Any], values: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """A copy of the tree with the value of each path put in."""
    result: dict[str, Any] = copy_tree(tree)
    for path, value in values.items():
        table = result
        for part in path[:-1]:
            table = table[part]
        table[path[-1]] = copy_tree(value)
    return result


def _read(table: Mapping[str, Any], path: tuple[str, ...], word: str) -> SearchKey:
    key = ".".join(path)
    if len(table) > 1:
        other = next(name for name in table if name != word)
        raise UserError(f"{key}: {word} stands beside {other!r}; a search space has no other key")
    if word in NOT_HERE:
        raise UserError(f"{key}: {word} is not for run files; they have {', '.join(SEARCH_WORDS)}")
    if len(path) == 1:
        raise UserError(f"{key}: {word} over all of it; search over its keys")
    arguments = table[word]
    if not isinstance(arguments, list):
        raise UserError(f"{key}: {word} needs a list, got {arguments!r}")
    check = _check_list if word in LISTS else _check_range
    check(key, word, arguments, path)
    return SearchKey(path, word, tuple(arguments))


def _check_list(key: str, word: str, candidates: list[Any], path: tuple[str, ...]) -> None:
    if not candidates:
        raise UserError(f"{key}: {word} lists no value")
    if len(candidates) > MAX_CANDIDATES:
        raise UserError(
            f"{key}: {word} lists {len(candidates)} values; at most {MAX_CANDIDATES} fit, a range draws more"
        )
    for candidate in candidates:
        if inner := find_search_keys(candidate, path):
            raise UserError(f"{key}: {inner[0].word} inside {word}; write one search space for each key")
    for one, other in combinations(candidates, 2):
        if one == other and isinstance(one, bool) == isinstance(other, bool):
            raise UserError(f"{key}: {word} lists {other!r} twice; its trials would be the same")


def _check_range(key: str, word: str, bounds: list[Any], path: tuple[str, ...]) -> None:
    form = f"[{', '.join(RANGES[word])}]"
    numbers = [b for b in bounds if isinstance(b, int | float) and not isinstance(b, bool) and math.isfinite(b)]
    if len(numbers) != len(bounds) or len(bounds) != len(RANGES[word]):
        raise UserError(f"{key}: {word} needs {form}, finite numbers, got {bounds!r}")
    low, high = bounds[:2]
    if low >= high:
        raise UserError(f"{key}: {word} from {low} to {high}; low must be below high")
    if word == "loguniform" and low <= 0:
        raise UserError(f"{key}: loguniform from {low}; it needs a low above 0")
    if word == "quniform":
        _check_step(key, low, high, bounds[2])


def _check_step(key: str, low: float, high: float, step: float) -> None:
    if step <= 0:
        raise UserError(f"{key}: quniform in steps of {step}; the step must be above 0")
    for bound in (low, high):
        steps = bound / step
        if not math.isfinite(steps) or not math.isclose(steps, round(steps), abs_tol=1e-9):
            raise UserError(f"{key}: quniform's {bound} is no multiple of its step {step}; change one of them")
