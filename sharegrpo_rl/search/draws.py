"""Which values each trial gets: grid points in order, choices and ranges drawn from the search's seed, none twice."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ray import tune
from ray.tune.result import TRAINING_ITERATION

from sharegrpo_rl.config.search import LISTS, SearchKey
from sharegrpo_rl.data.variants import derive_seed
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.search.file import SearchSpec, Values
from sharegrpo_rl.search.journal import ITERATION, SCORE

MAX_ATTEMPTS = 1000  # draws for one trial before its space counts as exhausted
MAX_GRID_POINTS = 100_000


def trial_name(number: int) -> str:
    """`0001` for the first trial, which is also its folder."""
    return f"{number + 1:04d}"


class PlannedDraws:
    """Random and grid search: the values are known from the beginning, results change nothing."""

    def __init__(self, spec: SearchSpec, seed: int) -> None:
        self._values = planned_values(spec, seed)

    def suggest(self, number: int) -> dict[str, Any]:
        """Values of trial `number` (from 0), by dotted key."""
        return {".".join(path): value for path, value in self._values[number].items()}

    def on_trial_result(self, trial: str, result: Mapping[str, Any]) -> None:
        """An iteration of a trial that continues."""

    def on_trial_complete(self, trial: str, result: Mapping[str, Any] | None, error: bool) -> None:
        """The end of a trial with its last result, None where it failed."""


class OptunaDraws(PlannedDraws):
    """Optuna through Tune's integration: the first trials are random, the later ones learn from their results."""

    def __init__(self, spec: SearchSpec, seed: int) -> None:
        import optuna
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space = {key.key: key for key in spec.space}
        # Lists by index: Optuna takes no lists for values.
        domains = {
            name: tune.choice(list(range(len(key.arguments)))) if key.word in LISTS else tune_domain(key)
            for name, key in self._space.items()
        }
        space = OptunaSearch.convert_search_space(domains)
        self._optuna = OptunaSearch(space=space, metric=SCORE, mode=spec.options["mode"], seed=seed)

    def suggest(self, number: int) -> dict[str, Any]:
        drawn = self._optuna.suggest(trial_name(number)) or {}
        return {
            name: key.arguments[drawn[name]] if key.word in LISTS else on_step(key, drawn[name])
            for name, key in self._space.items()
        }

    def on_trial_result(self, trial: str, result: Mapping[str, Any]) -> None:
        if SCORE in result:
            self._optuna.on_trial_result(trial, {SCORE: result[SCORE], TRAINING_ITERATION: result[ITERATION]})

    def on_trial_complete(self, trial: str, result: Mapping[str, Any] | None, error: bool) -> None:
        last = {SCORE: result[SCORE]} if result and SCORE in result else None
        self._optuna.on_trial_complete(trial, last, error)


def tune_domain(key: SearchKey) -> Any:
    """A search key in Tune's terms."""
    domains: dict[str, Any] = {"uniform": tune.uniform, "loguniform": tune.loguniform, "quniform": tune.quniform}
    return list(key.arguments) if key.word in LISTS else domains[key.word](*key.arguments)


def planned_values(spec: SearchSpec, seed: int) -> list[Values]:
    """The values of every trial of a random or grid search; the same list for the same file and seed."""
    planned: list[Values] = []
    seen: set[str] = set()
    drawn = [key for key in spec.space if not key.is_grid]
    for _ in range(spec.options["num_samples"]):
        for point in _grid_points([key for key in spec.space if key.is_grid]):
            values = _unseen(point, drawn, seed, len(planned), seen)
            if values is None and spec.options["scheduler"] != "pbt":
                raise UserError(
                    f"tune.num_samples: {spec.trials} trials, but the search space has only {len(seen)} different "
                    "settings for them, and the same settings give the same numbers; lower it"
                )
            planned.append(values or _draw(point, drawn, seed, len(planned), 0))
    for values in planned:
        spec.trial(values)  # a combination that nothing has checked yet
    return planned


def _grid_points(grid: Sequence[SearchKey]) -> Iterator[Values]:
    if math.prod(len(key.values) for key in grid) > MAX_GRID_POINTS:
        raise UserError(f"config: more than {MAX_GRID_POINTS:,} grid points; use choice and tune.num_samples instead")
    points: list[Values] = [{}]
    for key in grid:
        points = [{**point, key.path: value} for point in points for value in key.values]
    return iter(points)


def _unseen(point: Values, drawn: Sequence[SearchKey], seed: int, number: int, seen: set[str]) -> Values | None:
    for attempt in range(MAX_ATTEMPTS if drawn else 1):
        values = _draw(point, drawn, seed, number, attempt)
        identity = json.dumps([[list(path), value] for path, value in values.items()])
        if identity not in seen:
            seen.add(identity)
            return values
    return None


def _draw(point: Values, drawn: Sequence[SearchKey], seed: int, number: int, attempt: int) -> Values:
    """A grid point with a value for every other key of trial `number`."""
    rng = np.random.default_rng(derive_seed("search", seed, number, attempt))
    return {**point, **{key.path: _draw_one(key, rng) for key in drawn}}


def _draw_one(key: SearchKey, rng: np.random.Generator) -> Any:
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
    """A number in the bounds of a range; of `quniform`, a multiple of its step, and an int where all of it is whole."""
    low, high = key.arguments[:2]
    value = min(max(value, low), high)
    if key.word != "quniform":
        return float(value)
    step = key.arguments[2]
    snapped = round(value / step) * step
    return int(snapped) if all(isinstance(a, int) for a in key.arguments) else float(f"{snapped:.12g}")
