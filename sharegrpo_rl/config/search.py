"""The `tune:` block of a run file: what a search optimises, how it picks trials, and what it may spend."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, Self

from pydantic import model_validator

from sharegrpo_rl.config.metrics import check_metric
from sharegrpo_rl.config.option import Options, check_at, option
from sharegrpo_rl.config.run import GRPOOptions, RunOptions
from sharegrpo_rl.config.tree import SEARCH_WORDS, copy_tree
from sharegrpo_rl.errors import UserError

# ---- Search spaces in a run file: `grid_search`, `choice`, `uniform`, `loguniform`, `quniform` under `config`. Data only.

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
        raise UserError(f"{key}: {word} next to {other!r}; a search space has no other key")
    if word in NOT_HERE:
        raise UserError(f"{key}: {word} is not for run files; they have {', '.join(SEARCH_WORDS)}")
    if len(path) == 1:
        raise UserError(f"{key}: {word} over the whole table; search over its keys")
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


class BudgetOptions(Options):
    """`tune.budget`."""

    seconds: int | None = option(None, "wall seconds of the search", ge=1)
    completions: int | None = option(None, "completions of all trials", ge=1)

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if self.seconds is None and self.completions is None:
            raise UserError("budget: empty; name seconds, completions, or both, or leave it out")
        return self


class SearchOptions(Options):
    """`tune`: how trials are made, compared, stopped and limited."""

    metric: str = option("evaluation/accuracy", "metric that trials are compared by: a path into result.json")
    mode: Literal["max", "min"] = option("max", "whether higher or lower is better")
    num_samples: int = option(1, "times to run the grid; choices and ranges are drawn again each time", ge=1)
    scheduler: Literal["none", "asha", "pbt", "median_stopping"] = option(
        "none", "what stops or changes trials before their end"
    )
    searcher: Literal["random", "optuna"] = option("random", "what draws from choices and ranges")
    max_concurrent: int | None = option(None, "trials at once; null = as many as fit the machine", ge=1)
    budget: BudgetOptions | None = option(
        None, "when the whole search ends: seconds, completions, or both; null = never"
    )
    scheduler_options: dict[str, Any] | None = option(None, "settings of the scheduler; null = its defaults")
    max_failures: int = option(2, "times to restart a failed trial from its checkpoint", ge=0)


class AshaOptions(Options):
    """`tune.scheduler_options` of `asha`: at each rung only the best 1/reduction_factor of the trials so far continue."""

    grace_period: int = option(1, "iterations before a trial can be stopped: the first rung", ge=1)
    reduction_factor: float = option(4.0, "rungs are this factor apart, and one trial in so many continues", gt=1)
    brackets: int = option(1, "ladders that trials are spread over; each begins a rung later", ge=1)


class MedianStoppingOptions(Options):
    """`tune.scheduler_options` of `median_stopping`: a trial stops below the median of the others' running means."""

    grace_period: int = option(1, "iterations before a trial can be stopped", ge=1)
    min_samples_required: int = option(3, "other trials that must have got as far", ge=1)


class PbtOptions(Options):
    """`tune.scheduler_options` of `pbt`: the worst trials copy the best ones' weights and vary their values."""

    perturbation_interval: int = option(5, "iterations between the rounds", ge=1)
    quantile_fraction: float = option(0.25, "share of the trials that copy, and of those copied from", gt=0, le=0.5)
    resample_probability: float = option(0.25, "chance that a value is drawn again instead of varied", ge=0, le=1)


SCHEDULERS: dict[str, type[Options]] = {
    "asha": AshaOptions,
    "median_stopping": MedianStoppingOptions,
    "pbt": PbtOptions,
}
# A trial's weights, prompts and questions depend on these; other trials' checkpoints do not fit if they differ.
UNCHANGEABLE = (
    "model", "model_config", "dtype", "lora", "freeze_vision_tower", "freeze_projector", "warm_start", "env_config",
    "system_prompt", "format_prompt", "answer_format", "max_prompt_tokens", "max_completion_tokens", "min_pixels",
    "max_pixels", "num_threads", "num_env_runners", "num_learners", "engine", "vllm", "preset",
)  # fmt: skip


def read_search_options(table: Any) -> dict[str, Any]:
    """The `tune:` block with its defaults; UserError where it is no table, or a key or value does not fit."""
    if table is not None and not isinstance(table, Mapping):
        raise UserError(f"tune: expected a table of keys, got {table!r}")
    options = check_at("tune.", SearchOptions, table or {}).as_dict()
    return {**options, "scheduler_options": _scheduler_options(options["scheduler"], options["scheduler_options"])}


def _scheduler_options(scheduler: str, table: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if scheduler in SCHEDULERS:
        return check_at("tune.scheduler_options.", SCHEDULERS[scheduler], table or {}).as_dict()
    if table:
        raise UserError(
            f"tune.scheduler_options: no scheduler is set; choose one that has options ({', '.join(SCHEDULERS)})"
        )
    return None


def check_search_options(
    options: Mapping[str, Any],
    run_options: RunOptions,
    iterations: int,
    keys: Sequence[str],
    grid_keys: Sequence[str],
) -> None:
    """UserError where the block does not fit the run that it searches over."""
    metric = options["metric"]
    check_metric("tune.metric", metric, run_options)
    if options["scheduler"] != "none" and metric.startswith("evaluation/") and run_options.evaluation_interval == 0:
        raise UserError(
            f"tune.scheduler: {options['scheduler']} compares running trials by {metric}, and with "
            "config.evaluation_interval: 0 no trial reports it before its end; set that interval"
        )
    if options["searcher"] == "optuna" and grid_keys:
        raise UserError(
            f"tune.searcher: optuna draws every value itself and takes no grid_search ({grid_keys[0]}); use choice"
        )
    _check_scheduler(options, run_options.evaluation_interval, iterations, keys)
    if (options["budget"] or {}).get("completions") and not isinstance(run_options, GRPOOptions):
        raise UserError("tune.budget.completions: this algorithm samples no completions; give seconds")


def _check_scheduler(
    options: Mapping[str, Any], evaluation_interval: int, iterations: int, keys: Sequence[str]
) -> None:
    """UserError where a scheduler could not act, or not correctly."""
    scheduler, own = options["scheduler"], options["scheduler_options"]
    if scheduler == "none":
        return
    first = {"pbt": "perturbation_interval"}.get(scheduler, "grace_period")
    if own[first] >= iterations:
        raise UserError(
            f"tune.scheduler_options.{first}: {own[first]} is not below stop.training_iteration = {iterations}, "
            f"so {scheduler} would never act"
        )
    if options["metric"].startswith("evaluation/") and evaluation_interval >= iterations:
        raise UserError(
            f"tune.scheduler: {scheduler} compares running trials by {options['metric']}, and config.evaluation_interval "
            f"= {evaluation_interval} reports it at the end of {iterations} iterations only; lower it"
        )
    if scheduler == "pbt":
        if options["searcher"] != "random":
            raise UserError(
                "tune.searcher: pbt changes the values itself, so its trials begin from random ones; use random"
            )
        for key in keys:
            if key.split(".")[1] in UNCHANGEABLE:
                raise UserError(
                    f"{key}: pbt changes values while a trial runs, and this one cannot change then; take it out of the search"
                )
