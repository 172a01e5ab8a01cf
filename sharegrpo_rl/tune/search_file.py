"""A run file with a search space, checked: every candidate against its option, the combinations against each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.tune.run_file import RunSpec, read_run, read_table, resolve_run
from sharegrpo_rl.tune.search_options import check_search_options, read_search_options
from sharegrpo_rl.tune.search_space import RANGES, SearchKey, find_search_keys, with_values
from sharegrpo_rl.tune.settings import find_search_space

MAX_COMBINATIONS = 500  # resolved and checked one by one, about 2 ms each; of more, each value by itself

Values = dict[tuple[str, ...], Any]


@dataclass(frozen=True)
class SearchSpec:
    """A search: the file's tree, its searched keys, the checked `tune:` block, and the run with each first value."""

    tree: dict[str, Any]
    space: tuple[SearchKey, ...]
    options: dict[str, Any]
    base: RunSpec

    @property
    def grid_points(self) -> int:
        return prod(len(key.values) for key in self.space if key.is_grid)

    @property
    def trials(self) -> int:
        return self.grid_points * self.options["num_samples"]

    def trial(self, values: Mapping[tuple[str, ...], Any]) -> RunSpec:
        """The run with these values at their paths, the others at their first; UserError names what does not fit."""
        chosen = {key.path: key.values[0] for key in self.space} | dict(values)
        return resolve_run(self.base.name, with_values(self.tree, chosen))


def load_search(path: Path, sets: Sequence[str] = ()) -> SearchSpec:
    """The search that a file and its `--set` texts describe; UserError names file or setting, key and remedy."""
    return read_run(path, sets, resolve_search)


def resolve_search(name: str, tree: dict[str, Any]) -> SearchSpec:
    """Check a run's tree with its search space and `tune:` block; messages begin with the dotted key."""
    options = read_search_options(tree.get("tune"))
    for part in ("run", "env", "stop"):
        if found := find_search_space(tree.get(part), part):
            raise UserError(f"{found[0]}: {found[1]} outside config; search spaces stand under config only")
    space = tuple(find_search_keys(read_table(tree, "config")))
    if not space:
        raise UserError(
            "config: no search space in it, so there is nothing to search; write one, such as "
            "lr: {grid_search: [1e-5, 1e-4]}, or run the file with `train`"
        )
    run_tree = {part: value for part, value in tree.items() if part != "tune"}
    spec = SearchSpec(run_tree, space, options, _base(name, run_tree, space))
    for values in (*single_values(space), *combinations_of(space)):
        _check_trial(spec, values)
    keys, grid_keys = [key.key for key in space], [key.key for key in space if key.is_grid]
    check_search_options(options, spec.base.config, spec.base.iterations, keys, grid_keys)
    return spec


def single_values(space: Sequence[SearchKey]) -> Iterator[Values]:
    """Each value of each key by itself."""
    return ({key.path: value} for key in space for value in key.values)


def combinations_of(space: Sequence[SearchKey]) -> Iterator[Values]:
    """Every combination of values, ranges by their two ends; none where there are more than MAX_COMBINATIONS."""
    if prod(len(key.values) for key in space) > MAX_COMBINATIONS:
        return iter(())
    paths = [key.path for key in space]
    return (dict(zip(paths, chosen, strict=True)) for chosen in product(*(key.values for key in space)))


def _base(name: str, tree: Mapping[str, Any], space: Sequence[SearchKey]) -> RunSpec:
    try:
        return resolve_run(name, with_values(tree, {key.path: key.values[0] for key in space}))
    except UserError as error:
        wanted = [f"{key.key}: expected {kind}" for key in space if key.word in RANGES for kind in ("int", "a whole")]
        if str(error).startswith(tuple(wanted)):
            raise UserError(f"{error}; whole numbers are drawn by quniform with whole bounds and step") from None
        raise


def _check_trial(spec: SearchSpec, values: Values) -> None:
    try:
        spec.trial(values)
    except UserError as error:
        chosen = ", ".join(f"{'.'.join(path)} = {value!r}" for path, value in values.items())
        raise UserError(f"{error} (in a trial with {chosen})") from None
