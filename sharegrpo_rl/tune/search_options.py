"""The `tune:` block of a run file: what a search optimises, how it picks trials, and what it may spend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    scheduler_options: dict | None = option(None, "settings of the scheduler; null = its defaults")
    max_failures: int = option(2, "times that a failed trial is started again from its checkpoint", minimum=0)


@dataclass
class BudgetOptions:
    """`tune.budget`."""

    seconds: int | None = option(None, "wall seconds of the search", minimum=1)
    completions: int | None = option(None, "completions of all trials", minimum=1)


@dataclass
class AshaOptions:
    """`tune.scheduler_options` of `asha`: at each rung only the best 1/reduction_factor of the trials so far go on."""

    grace_period: int = option(1, "iterations before a trial can be stopped: the first rung", minimum=1)
    reduction_factor: float = option(
        4.0, "rungs lie this factor apart, one in so many goes on", minimum=1, exclusive_minimum=True
    )
    brackets: int = option(1, "ladders that trials are spread over; each begins a rung later", minimum=1)


@dataclass
class MedianStoppingOptions:
    """`tune.scheduler_options` of `median_stopping`: a trial stops below the median of the others' running means."""

    grace_period: int = option(1, "iterations before a trial can be stopped", minimum=1)
    min_samples_required: int = option(3, "other trials that must have come as far", minimum=1)


@dataclass
class PbtOptions:
    """`tune.scheduler_options` of `pbt`: the worst trials take over the best ones' weights and vary their values."""

    perturbation_interval: int = option(5, "iterations between the rounds", minimum=1)
    quantile_fraction: float = option(
        0.25,
        "share of the trials that take over, and of those taken from",
        minimum=0,
        maximum=0.5,
        exclusive_minimum=True,
    )
    resample_probability: float = option(0.25, "chance that a value is drawn anew, not varied", minimum=0, maximum=1)


SCHEDULERS: dict[str, type] = {"asha": AshaOptions, "median_stopping": MedianStoppingOptions, "pbt": PbtOptions}
# A trial's weights, prompts and questions hang on these; other trials' checkpoints do not fit where they differ.
UNCHANGEABLE = (
    "model", "model_config", "dtype", "lora", "freeze_vision_tower", "freeze_projector", "warm_start", "env_config",
    "system_prompt", "format_prompt", "answer_format", "max_prompt_tokens", "max_completion_tokens", "min_pixels",
    "max_pixels", "num_threads", "num_env_runners", "num_learners", "engine", "vllm", "preset",
)  # fmt: skip


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
    options["scheduler_options"] = _scheduler_options(options["scheduler"], options["scheduler_options"])
    return options


def _scheduler_options(scheduler: str, given: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if scheduler not in SCHEDULERS:
        if given:
            raise UserError(f"tune.scheduler_options: there is no scheduler to set ({', '.join(SCHEDULERS)} have some)")
        return None
    return vars(SCHEDULERS[scheduler]()) | _checked(SCHEDULERS[scheduler], given or {}, "tune.scheduler_options")


def check_search_options(
    options: Mapping[str, Any],
    config: Mapping[str, Any],
    iterations: int,
    keys: Sequence[str],
    grid_keys: Sequence[str],
) -> None:
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
    if options["searcher"] == "optuna" and grid_keys:
        raise UserError(
            f"tune.searcher: optuna draws every value itself and takes no grid_search ({grid_keys[0]}); use choice"
        )
    _check_scheduler(options, config, iterations, keys)
    if (options["budget"] or {}).get("completions") and "num_samples" not in config:
        raise UserError("tune.budget.completions: this algorithm samples no completions; give seconds")


def _check_scheduler(
    options: Mapping[str, Any], config: Mapping[str, Any], iterations: int, keys: Sequence[str]
) -> None:
    """UserError where a scheduler could not do anything, or not do it right."""
    scheduler, own = options["scheduler"], options["scheduler_options"]
    if scheduler == "none":
        return
    first = {"pbt": "perturbation_interval"}.get(scheduler, "grace_period")
    if own[first] >= iterations:
        raise UserError(
            f"tune.scheduler_options.{first}: {own[first]} is not below stop.training_iteration = {iterations}, "
            f"so {scheduler} would never act"
        )
    if options["metric"].startswith("evaluation/") and config["evaluation_interval"] >= iterations:
        raise UserError(
            f"tune.scheduler: {scheduler} compares running trials by {options['metric']}, and config.evaluation_interval "
            f"= {config['evaluation_interval']} reports it at the end of {iterations} iterations only; lower it"
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
