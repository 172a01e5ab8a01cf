"""A run file with a search space: checked, resolved for each trial's values, and described for `tune --dry-run`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from math import prod
from operator import getitem
from pathlib import Path
from typing import Any

import yaml

from sharegrpo_rl.config.search import (
    LISTS,
    RANGES,
    SearchKey,
    check_search_options,
    find_search_keys,
    read_search_options,
    with_values,
)
from sharegrpo_rl.config.tree import find_search_space
from sharegrpo_rl.errors import UserError, require_extra
from sharegrpo_rl.files import as_json
from sharegrpo_rl.runs.run_file import RunSpec, read_run, read_table, resolve_run

MAX_COMBINATIONS = 500  # resolved and checked one by one, about 2 ms each; of more, each value by itself

IN_ALL = ("iterations", "completions", "taught targets", "optimizer steps")  # counts that trials add up to

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
        return self.grid_points * int(self.options["num_samples"])

    def trial(self, values: Mapping[tuple[str, ...], Any]) -> RunSpec:
        """The run with these values at their paths, the others at their first; UserError names what does not fit."""
        chosen = {key.path: key.values[0] for key in self.space} | dict(values)
        return resolve_run(self.base.name, with_values(self.tree, chosen))


def check_packages(spec: SearchSpec) -> None:
    """UserError where what the search draws with is not installed: its plots, and its values."""
    require_extra("plots", "tune")
    if spec.options["searcher"] == "optuna":
        require_extra("optuna", "tune.searcher: optuna")


def load_search(path: Path, sets: Sequence[str] = ()) -> SearchSpec:
    """The search that a file and its `--set` texts describe; UserError names file or setting, key and remedy."""
    return read_run(path, sets, resolve_search)


def resolve_search(name: str, tree: dict[str, Any]) -> SearchSpec:
    """Check every candidate against its option and the combinations against each other; messages begin with the key."""
    spec = read_search_tree(name, tree)
    for values in (*single_values(spec.space), *combinations_of(spec.space)):
        _check_trial(spec, values)
    keys, grid_keys = [key.key for key in spec.space], [key.key for key in spec.space if key.is_grid]
    check_search_options(spec.options, spec.base.options, spec.base.iterations, keys, grid_keys)
    return spec


def read_search_tree(name: str, tree: dict[str, Any]) -> SearchSpec:
    """The same without the check of every candidate: for a tree that was checked before."""
    options = read_search_options(tree.get("tune"))
    for part in ("run", "env", "stop"):
        if space_outside := find_search_space(tree.get(part), part):
            key, word = space_outside
            raise UserError(f"{key}: {word} outside config; search spaces belong under config")
    space = tuple(find_search_keys(read_table(tree, "config")))
    if not space:
        raise UserError(
            "config: no search space in it, so there is nothing to search; write one, such as "
            "lr: {grid_search: [1e-5, 1e-4]}, or run the file with `train`"
        )
    run_tree = {part: value for part, value in tree.items() if part != "tune"}
    return SearchSpec(run_tree, space, options, _base(name, run_tree, space))


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
        int_errors = [f"{key.key}: expected a whole" for key in space if key.word in RANGES]
        if str(error).startswith(tuple(int_errors)):
            raise UserError(f"{error}; to draw whole numbers, use quniform with whole bounds and step") from None
        raise


def _check_trial(spec: SearchSpec, values: Values) -> None:
    try:
        spec.trial(values)
    except UserError as error:
        chosen = ", ".join(f"{'.'.join(path)} = {value!r}" for path, value in values.items())
        raise UserError(f"{error} (in a trial with {chosen})") from None


def describe_search(spec: SearchSpec) -> str:
    """The text that `tune --dry-run` prints; it is a search file again, with the rest in comments."""
    singles = [spec.trial(values) for values in single_values(spec.space)]
    dependent = _dependent_keys(spec, singles)
    tree = _search_tree(spec, dependent)
    lines = yaml.safe_dump(as_json(tree), sort_keys=False, allow_unicode=True, width=120).splitlines()
    if dependent:
        lines += ["", f"# set by each trial's own values: {', '.join(dependent)}"]
    lines += ["", "# search space", *(f"# {_describe_key(spec, key)}" for key in spec.space)]
    combined = prod(len(key.values) for key in spec.space)
    checked = "each value by itself" if combined > MAX_COMBINATIONS else "each value, and all together"
    lines += [f"# {checked}: checked against the options", "", *_work(spec)]
    return "\n".join(lines) + "\n"


def search_as_json(spec: SearchSpec, seed: int) -> dict[str, Any]:
    """What `describe_search` has, as plain data: the base run with the search spaces in place, and the number of trials."""
    dependent = _dependent_keys(spec, [spec.trial(values) for values in single_values(spec.space)])
    tree = _search_tree(spec, dependent)[spec.base.name]
    return {
        "name": spec.base.name,
        "seed": seed,
        **tree,
        "trials": spec.trials,
        "space": {key.key: {key.word: _typed(spec, key)} for key in spec.space},
        "set_by_each_trial": dependent,
    }


def _dependent_keys(spec: SearchSpec, singles: Sequence[RunSpec]) -> list[str]:
    """Keys that the file leaves open and that differ between trials: a preset's, or planned steps."""
    in_file, base = set(spec.tree["config"]), spec.base.config
    return [key for key in base if key not in in_file and any(run.config[key] != base[key] for run in singles)]


def _search_tree(spec: SearchSpec, dependent: Sequence[str]) -> dict[str, Any]:
    """The shape of a run file, with the resolved base config, the search spaces in place and the `tune:` block."""
    (run,) = spec.base.as_tree().values()
    config = {key: value for key, value in run["config"].items() if key not in dependent}
    spaces = {key.path: {key.word: _typed(spec, key)} for key in spec.space}
    return {spec.base.name: {**with_values({**run, "config": config}, spaces), "tune": spec.options}}


def _typed(spec: SearchSpec, key: SearchKey) -> list[Any]:
    """Candidates as their option takes them; bounds of a range as the file has them."""
    if key.word not in LISTS:
        return list(key.arguments)
    resolved = [{"config": spec.trial({key.path: value}).config} for value in key.values]
    return [reduce(getitem, key.path, tree) for tree in resolved]


def _describe_key(spec: SearchSpec, key: SearchKey) -> str:
    if key.word in LISTS:
        values = [
            yaml.safe_dump(as_json(value), default_flow_style=True, width=1000).splitlines()[0]
            for value in _typed(spec, key)
        ]
        return f"{key.key}: {'each' if key.is_grid else 'one'} of {len(values)}: {', '.join(values)}"
    bounds = ", ".join(f"{name} {value}" for name, value in zip(RANGES[key.word], key.arguments, strict=True))
    return f"{key.key}: {key.word}, {bounds}"


def _work(spec: SearchSpec) -> list[str]:
    """The number of trials, and the counts of a trial and of all; a range where they differ or are yet to be drawn."""
    lines = [f"# {spec.trials} trials: {spec.grid_points} grid points x {spec.options['num_samples']}"]
    counts = _counts(spec)
    if counts is None:
        return [*lines, f"# their sizes combine in more than {MAX_COMBINATIONS} ways, too many to count"]
    names = counts[0][0]

    def line(name: str, low: int, high: int) -> str:
        return f"# {name:<44} {f'{low:,}' if low == high else f'{low:,} .. {high:,}':>14}"

    lines.append("# a trial")
    for name in names:
        values = [draw[name] for point in counts for draw in point]
        lines.append(line(name, min(values), max(values)))
    lines.append("# all trials")
    repeats = spec.trials // len(counts)
    for name in (name for name in IN_ALL if name in names):
        low, high = (sum(end(draw[name] for draw in point) for point in counts) for end in (min, max))
        lines.append(line(name, repeats * low, repeats * high))
    return lines


def _counts(spec: SearchSpec) -> list[list[Mapping[str, int]]] | None:
    """Batch arithmetic of [grid point][what may be drawn there], over the keys that change it; None if too many."""

    def arithmetic(values: Values) -> dict[str, int]:
        run = spec.trial(values)
        return run.options.work(run.iterations).counts()

    base = spec.base.options.work(spec.base.iterations).counts()
    sizing = [key for key in spec.space if any(arithmetic({key.path: value}) != base for value in key.values)]
    if prod(len(key.values) for key in sizing) > MAX_COMBINATIONS:
        return None
    grid, drawn = [key for key in sizing if key.is_grid], [key for key in sizing if not key.is_grid]
    return [[arithmetic(point | draw) for draw in combinations_of(drawn)] for point in combinations_of(grid)]
