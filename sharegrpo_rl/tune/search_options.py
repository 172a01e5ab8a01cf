"""The `tune:` block of a run file: what a search optimises, how it picks trials, and what it may spend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.options import check_option, option
from sharegrpo_rl.tune.metric_names import is_open, known_metrics
from sharegrpo_rl.tune.peer_names import closest


@dataclass
class SearchOptions:
    """`tune`: how trials are made, compared, stopped and limited."""

    metric: str = option("evaluation/accuracy", "figure that trials are compared by: a path into result.json")
    mode: str = option("max", "is more of it better, or less", choices=("max", "min"))
    num_samples: int = option(1, "times that the grid is run; choices and ranges are drawn anew each time", minimum=1)
    scheduler: str = option(
        "none", "what stops or changes trials on their way", choices=("none", "asha", "pbt", "median_stopping")
    )
    searcher: str = option("random", "what draws from choices and ranges", choices=("random", "optuna"))
    max_concurrent: int | None = option(None, "trials at once; null = as many as fit the machine", minimum=1)
    budget: dict | None = option(None, "where the whole search ends: seconds, completions, or both; null = never")


@dataclass
class BudgetOptions:
    """`tune.budget`."""

    seconds: int | None = option(None, "wall seconds of the search", minimum=1)
    completions: int | None = option(None, "completions of all trials", minimum=1)


def read_search_options(given: Any) -> dict[str, Any]:
    """The `tune:` block with its defaults; UserError where it is no table, or a key or value does not fit."""
    if given is None:
        return vars(SearchOptions())
    if not isinstance(given, Mapping):
        raise UserError(f"tune: expected a table of keys, got {given!r}")
    options = vars(SearchOptions()) | _checked(SearchOptions, given, "tune")
    if options["budget"] is not None:
        options["budget"] = _checked(BudgetOptions, options["budget"], "tune.budget")
        if not any(options["budget"].values()):
            raise UserError("tune.budget: empty; name seconds, completions, or both, or leave it out")
    return options


def check_search_options(options: Mapping[str, Any], config: Mapping[str, Any], grid_keys: Iterable[str]) -> None:
    """UserError where the block does not fit the run that it searches over. `config`: the resolved one."""
    metric = options["metric"]
    known = known_metrics(config, config["rewards"])
    if metric not in known and not is_open(metric):
        near = closest(metric, known)
        hint = f"did you mean {near}?" if near else f"known: {', '.join(known)}"
        raise UserError(f"tune.metric: this run reports no {metric!r}; {hint}")
    if options["scheduler"] != "none" and metric.startswith("evaluation/") and config["evaluation_interval"] == 0:
        raise UserError(
            f"tune.scheduler: {options['scheduler']} compares running trials by {metric}, and with "
            "config.evaluation_interval: 0 none reports it before its end; set that interval"
        )
    if options["searcher"] == "optuna" and (keys := list(grid_keys)):
        raise UserError(
            f"tune.searcher: optuna draws every value itself and takes no grid_search ({keys[0]}); use choice"
        )
    if (options["budget"] or {}).get("completions") and "num_samples" not in config:
        raise UserError("tune.budget.completions: this algorithm samples no completions; give seconds")


def _checked(table: type, given: Mapping[str, Any], where: str) -> dict[str, Any]:
    known = [f.name for f in fields(table)]
    values = {}
    for name, value in given.items():
        if name not in known:
            near = closest(name, known)
            hint = f"; did you mean {near}?" if near else ""
            raise UserError(f"{where}.{name}: no such key{hint} (known: {', '.join(known)})")
        try:
            values[name] = check_option(table, name, value)
        except UserError as error:
            raise UserError(f"{where}.{error}") from None
    return values
