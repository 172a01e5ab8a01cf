"""The blocks of a run file beside `config`: `stop` says when a run ends, `loggers` who else gets its rows.

A run ends after its iterations or completions, where a metric reaches a value, or where it stops improving.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from sharegrpo_rl.config.metrics import Row, check_metric, value_of
from sharegrpo_rl.config.names import suggestion
from sharegrpo_rl.config.option import Options, check_at, option
from sharegrpo_rl.config.run import RunOptions
from sharegrpo_rl.errors import UserError

LENGTHS = ("training_iteration", "completions")
PLATEAU = "plateau"


class PlateauOptions(Options):
    """`stop.plateau`: end a run whose metric no longer improves."""

    metric: str = option("evaluation/accuracy", "the metric: a path into result.json")
    mode: Literal["max", "min"] = option("max", "whether higher or lower is better")
    patience: int = option(5, "measurements without an improvement that end the run", ge=1)
    min_delta: float = option(0.0, "a measurement must be better by this much to count", ge=0)


def check_stop(stop: Mapping[str, Any]) -> dict[str, Any]:
    """The table `stop` with types checked; metrics are checked against the run by `check_stop_metrics`."""
    if stop.get("training_iteration") is None:
        raise UserError("stop.training_iteration: missing; say how many iterations to train")
    return {key: _check_entry(key, value) for key, value in stop.items() if value is not None}


def _check_entry(key: str, value: Any) -> Any:
    if key in LENGTHS:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"stop.{key}: expected a whole number of at least 1, got {value!r}")
        return value
    if key == PLATEAU:
        if not isinstance(value, Mapping):
            raise UserError(f"stop.plateau: expected a table such as {{patience: 5}}, got {value!r}")
        return check_at("stop.plateau.", PlateauOptions, value).as_dict()
    if "/" in key:
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise UserError(f"stop.{key}: expected a number, got {value!r}")
        return float(value)
    known = (*LENGTHS, PLATEAU)
    raise UserError(
        f"stop.{key}: no such key{suggestion(key, known)}; a run stops at {', '.join(known)}, or where a metric "
        "such as evaluation/accuracy reaches a number"
    )


def check_stop_metrics(stop: Mapping[str, Any], options: RunOptions) -> None:
    """UserError where the run does not report a metric, or never measures it before the end."""
    named = {f"stop.{key}": key for key in stop if "/" in key}
    if PLATEAU in stop:
        named["stop.plateau.metric"] = stop[PLATEAU]["metric"]
    interval = options.evaluation_interval
    for key, metric in named.items():
        check_metric(key, metric, options)
        if metric.startswith("evaluation/") and (interval == 0 or interval >= stop["training_iteration"]):
            raise UserError(
                f"{key}: {metric} is not measured before the end with config.evaluation_interval = {interval}; "
                "set it to a number of iterations"
            )


def reason_to_stop(rows: Sequence[Row], stop: Mapping[str, Any]) -> str | None:
    """The key of `stop` that ends a run with these rows, in the order given; None while it goes on."""
    return next((key for key, value in stop.items() if rows and _ends(key, value, rows)), None)


def _ends(key: str, value: Any, rows: Sequence[Row]) -> bool:
    if key == "training_iteration":
        return len(rows) >= value
    if key == "completions":
        return sum(row.get("env_runners", {}).get("num_completions", 0) or 0 for row in rows) >= value
    if key == PLATEAU:
        return _is_flat([v for row in rows if (v := value_of(row, value["metric"])) is not None], value)
    measured = value_of(rows[-1], key)
    return measured is not None and measured >= value


def _is_flat(values: Sequence[float], plateau: Mapping[str, Any]) -> bool:
    """Have the last `patience` measurements not beaten the best before them?"""
    sign = 1 if plateau["mode"] == "max" else -1
    best, since = -math.inf, 0
    for value in values:
        if sign * value > best + plateau["min_delta"]:
            best, since = sign * value, 0
        else:
            since += 1
    return since >= plateau["patience"]


class WandbOptions(Options):
    """`loggers.wandb`; the key comes from `wandb login` or WANDB_API_KEY, never from a file that is shared."""

    project: str = option("sharegrpo_rl", "the project")
    group: str | None = option(None, "groups runs on the page; null = the storage folder's name")
    entity: str | None = option(None, "user or team; null = your default")
    mode: Literal["online", "offline"] = option("online", "offline keeps everything below the run's folder")


class MlflowOptions(Options):
    """`loggers.mlflow`."""

    experiment_name: str = option("sharegrpo_rl", "the experiment")
    tracking_uri: str | None = option(None, "server or file: URI; null = MLFLOW_TRACKING_URI, or MLflow's own default")


LOGGERS: dict[str, type[Options]] = {"wandb": WandbOptions, "mlflow": MlflowOptions}
PACKAGES = {"wandb": "wandb", "mlflow": "mlflow-skinny"}


def check_loggers(table: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The table `loggers`, checked, with defaults filled in; messages begin with the dotted key."""
    checked = {}
    for name, settings in table.items():
        if name not in LOGGERS:
            raise UserError(f"loggers.{name}: no such logger{suggestion(name, LOGGERS)} (known: {', '.join(LOGGERS)})")
        if settings is None:
            continue
        if not isinstance(settings, Mapping):
            raise UserError(f"loggers.{name}: expected a table such as {{}}, got {settings!r}")
        checked[name] = check_at(f"loggers.{name}.", LOGGERS[name], settings).as_dict()
    return checked
