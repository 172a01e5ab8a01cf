"""Which values each trial gets: grid points in order, choices and ranges drawn from the search's seed, none twice."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from sharegrpo_rl.data.seeding import derive_seed
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.tune.search_file import SearchSpec, Values
from sharegrpo_rl.tune.search_space import SearchKey

ATTEMPTS = 1000  # draws for one trial before its space is taken as exhausted


def planned_values(spec: SearchSpec, seed: int) -> list[Values]:
    """The values of every trial of a random or grid search; the same list for the same file and seed."""
    planned: list[Values] = []
    seen: set[str] = set()
    grid = [key for key in spec.space if key.is_grid]
    drawn = [key for key in spec.space if not key.is_grid]
    for _ in range(spec.options["num_samples"]):
        for point in _grid_points(grid):
            values = _unseen(point, drawn, seed, len(planned), seen)
            if values is None and spec.options["scheduler"] != "pbt":
                raise UserError(
                    f"tune.num_samples: {spec.trials} trials, but the search space has only {len(seen)} different "
                    "settings for them, and the same settings give the same numbers; lower it"
                )
            planned.append(values or draw(point, drawn, seed, len(planned), 0))
    for values in planned:
        spec.trial(values)  # a combination that nobody has checked yet
    return planned


def _grid_points(grid: Sequence[SearchKey]) -> Iterator[Values]:
    if math.prod(len(key.values) for key in grid) > 100_000:
        raise UserError("config: more than 100,000 grid points; use choice and tune.num_samples instead")
    points: list[Values] = [{}]
    for key in grid:
        points = [{**point, key.path: value} for point in points for value in key.values]
    return iter(points)


def _unseen(point: Values, drawn: Sequence[SearchKey], seed: int, number: int, seen: set[str]) -> Values | None:
    for attempt in range(ATTEMPTS if drawn else 1):
        values = draw(point, drawn, seed, number, attempt)
        identity = json.dumps([[list(path), value] for path, value in values.items()])
        if identity not in seen:
            seen.add(identity)
            return values
    return None


def draw(point: Values, drawn: Sequence[SearchKey], seed: int, number: int, attempt: int) -> Values:
    """A grid point with a value for every other key; `number` is the trial's place in the search."""
    rng = np.random.default_rng(derive_seed("search", seed, number, attempt))
    return {**point, **{key.path: draw_one(key, rng) for key in drawn}}


def draw_one(key: SearchKey, rng: np.random.Generator) -> Any:
    """One value of a choice or a range."""
    if key.word == "choice":
        return key.arguments[int(rng.integers(len(key.arguments)))]
    low, high = key.arguments[:2]
    if key.word == "uniform":
        return float(rng.uniform(low, high))
    if key.word == "loguniform":
        return float(np.clip(math.exp(rng.uniform(math.log(low), math.log(high))), low, high))
    step = key.arguments[2]
    return on_step(key, int(rng.integers(round(low / step), round(high / step) + 1)) * step)


def on_step(key: SearchKey, value: float) -> float:
    """A number in the bounds of a range; of `quniform`, on a multiple of its step and whole where all of it is whole."""
    low, high = key.arguments[:2]
    value = min(max(value, low), high)
    if key.word != "quniform":
        return float(value)
    step = key.arguments[2]
    snapped = round(value / step) * step
    return int(snapped) if all(isinstance(a, int) for a in key.arguments) else float(f"{snapped:.12g}")
