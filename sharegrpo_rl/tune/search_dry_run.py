"""`tune --dry-run`: the resolved search as YAML, its space key by key, its trials and their work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import yaml

from sharegrpo_rl.tune.arithmetic import batch_arithmetic
from sharegrpo_rl.tune.result_log import as_json
from sharegrpo_rl.tune.run_file import RunSpec
from sharegrpo_rl.tune.search_file import MAX_COMBINATIONS, SearchSpec, combinations_of, single_values
from sharegrpo_rl.tune.search_space import LISTS, RANGES, SearchKey, with_values

IN_ALL = ("iterations", "completions", "taught targets", "optimizer steps")  # counts that trials add up to


def describe_search(spec: SearchSpec) -> str:
    """The text that `tune --dry-run` prints; it is a search file again, the rest stands in comments."""
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


def _dependent_keys(spec: SearchSpec, singles: Sequence[RunSpec]) -> list[str]:
    """Keys that the file leaves open and that differ between trials: a preset's, or planned steps."""
    given = set(spec.tree["config"])
    base = spec.base.config
    return [key for key in base if key not in given and any(run.config[key] != base[key] for run in singles)]


def _search_tree(spec: SearchSpec, dependent: Sequence[str]) -> dict[str, Any]:
    """The shape of a run file, with the resolved base config, the search spaces in place and the `tune:` block."""
    (run,) = spec.base.as_tree().values()
    config = {key: value for key, value in run["config"].items() if key not in dependent}
    spaces = {key.path: {key.word: _typed(spec, key)} for key in spec.space}
    return {spec.base.name: {**with_values({**run, "config": config}, spaces), "tune": spec.options}}


def _typed(spec: SearchSpec, key: SearchKey) -> list[Any]:
    """Candidates as their option takes them; bounds of a range as they are given."""
    if key.word not in LISTS:
        return list(key.arguments)
    typed = []
    for value in key.values:
        found: Any = {"config": spec.trial({key.path: value}).config}
        for part in key.path:
            found = found[part]
        typed.append(found)
    return typed


def _describe_key(spec: SearchSpec, key: SearchKey) -> str:
    if key.word in LISTS:
        values = _typed(spec, key)
        return f"{key.key}: {'each' if key.is_grid else 'one'} of {len(values)}: {', '.join(map(_short, values))}"
    bounds = ", ".join(f"{name} {value}" for name, value in zip(RANGES[key.word], key.arguments, strict=True))
    return f"{key.key}: {key.word}, {bounds}"


def _short(value: Any) -> str:
    return yaml.safe_dump(as_json(value), default_flow_style=True, width=1000).splitlines()[0]


def _work(spec: SearchSpec) -> list[str]:
    """The number of trials, and the counts of a trial and of all; a range where they differ or are yet to be drawn."""
    times = spec.options["num_samples"]
    lines = [f"# {spec.trials} trials: {spec.grid_points} grid points x {times}"]
    counts = _counts(spec)
    if counts is None:
        return [*lines, f"# their sizes combine in more than {MAX_COMBINATIONS} ways, too many to count"]
    everything = [one for point in counts for one in point]
    lines += ["# a trial"]
    lines += [_line(name, *_ends([c[name] for c in everything])) for name in everything[0]]
    lines += ["# all trials"]
    each = spec.trials // len(counts)
    for name in IN_ALL:
        if name in everything[0]:
            ends = [_ends([c[name] for c in point]) for point in counts]
            lines.append(_line(name, each * sum(low for low, _ in ends), each * sum(high for _, high in ends)))
    return lines


def _counts(spec: SearchSpec) -> list[list[Mapping[str, int]]] | None:
    """Batch arithmetic of [grid point][what may be drawn there], over the keys that change it; None if too many."""
    base = batch_arithmetic(spec.base.config, spec.base.iterations)
    sizing = [key for key in spec.space if any(_arithmetic(spec, {key.path: v}) != base for v in key.values)]
    grid, drawn = [key for key in sizing if key.is_grid], [key for key in sizing if not key.is_grid]
    if prod(len(key.values) for key in sizing) > MAX_COMBINATIONS:
        return None
    return [[_arithmetic(spec, point | draw) for draw in combinations_of(drawn)] for point in combinations_of(grid)]


def _arithmetic(spec: SearchSpec, values: Mapping[tuple[str, ...], Any]) -> dict[str, int]:
    run = spec.trial(values)
    return batch_arithmetic(run.config, run.iterations)


def _ends(values: Sequence[int]) -> tuple[int, int]:
    return min(values), max(values)


def _line(name: str, low: int, high: int) -> str:
    return f"# {name:<44} {f'{low:,}' if low == high else f'{low:,} .. {high:,}':>14}"
