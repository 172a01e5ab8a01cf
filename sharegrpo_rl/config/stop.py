"""When a run ends: after its iterations or completions, where a figure is reached, or where one no longer improves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from sharegrpo_rl.config import check_option
from sharegrpo_rl.config.names import is_open, known_metrics, suggestion, value_of
from sharegrpo_rl.config.option import option
from sharegrpo_rl.errors import UserError

# ---- Which checkpoint of a run is its best.

SMOOTHED = 10  # iterations that a training accuracy is averaged over when no evaluation ranks the checkpoints


def check_best_metric(config: Mapping[str, Any]) -> None:
    """UserError where `best_metric` is none of the run's figures."""
    metric = config["best_metric"]
    known = known_metrics(config, config["rewards"])
    if metric is not None and metric not in known and not is_open(metric):
        raise UserError(f"config.best_metric: this run reports no {metric!r}{suggestion(metric, known)}")


def best_iteration(
    rows: Sequence[Mapping[str, Any]], candidates: Sequence[int], config: Mapping[str, Any]
) -> int | None:
    """The best of the saved iterations, the earliest of equal ones; None where none of them was measured."""
    sign = 1 if config["best_mode"] == "max" else -1
    scores = {i: sign * value for i in candidates if (value := _score(rows, i, config)) is not None}
    return max(scores, key=lambda i: (scores[i], -i)) if scores else None


def _score(rows: Sequence[Mapping[str, Any]], iteration: int, config: Mapping[str, Any]) -> float | None:
    if config["best_metric"] is not None or config["evaluation_interval"] > 0:
        return value_of(rows[iteration - 1], config["best_metric"] or "evaluation/accuracy")
    recent = [value_of(row, "env_runners/accuracy") for row in rows[max(0, iteration - SMOOTHED) : iteration]]
    known = [value for value in recent if value is not None]
    return sum(known) / len(known) if known else None


LENGTHS = ("training_iteration", "completions")
PLATEAU = "plateau"
Row = Mapping[str, Any]


@dataclass
class PlateauOptions:
    """`stop.plateau`: end a run whose figure no longer improves."""

    metric: str = option("evaluation/accuracy", "the figure: a path into result.json")
    mode: str = option("max", "which direction is better", choices=("max", "min"))
    patience: int = option(5, "measurements without an improvement that end the run", minimum=1)
    min_delta: float = option(0.0, "what a measurement must be better by to count", minimum=0)


def check_stop(stop: Mapping[str, Any]) -> dict[str, Any]:
    """The table `stop` with types checked; figures are checked against the run by `check_stop_metrics`."""
    if stop.get("training_iteration") is None:
        raise UserError("stop.training_iteration: missing; say how many iterations to train")
    checked: dict[str, Any] = {}
    for key, value in stop.items():
        if value is None:
            continue
        if key in LENGTHS:
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f"stop.{key}: expected a whole number of at least 1, got {value!r}")
            checked[key] = value
        elif key == PLATEAU:
            checked[key] = _check_plateau(value)
        elif "/" in key:
            if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
                raise UserError(f"stop.{key}: expected a number, got {value!r}")
            checked[key] = float(value)
        else:
            known = (*LENGTHS, PLATEAU)
            raise UserError(
                f"stop.{key}: no such key{suggestion(key, known)}; a run stops at {', '.join(known)}, or where a figure "
                "such as evaluation/accuracy reaches a number"
            )
    return checked


def check_stop_metrics(stop: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """UserError where a figure is none of the run's, or is never measured before the end."""
    named = {f"stop.{key}": key for key in stop if "/" in key}
    if PLATEAU in stop:
        named["stop.plateau.metric"] = stop[PLATEAU]["metric"]
    known = known_metrics(config, config["rewards"])
    for key, metric in named.items():
        if metric not in known and not is_open(metric):
            raise UserError(f"{key}: this run reports no {metric!r}{suggestion(metric, known)}")
        interval = config["evaluation_interval"]
        if metric.startswith("evaluation/") and (interval == 0 or interval >= stop["training_iteration"]):
            raise UserError(
                f"{key}: {metric} is not measured before the end with config.evaluation_interval = {interval}; "
                "set it to a number of iterations"
            )


def _check_plateau(table: Any) -> dict[str, Any]:
    if not isinstance(table, Mapping):
        raise UserError(f"stop.plateau: expected a table such as {{patience: 5}}, got {table!r}")
    names = [f.name for f in fields(PlateauOptions)]
    for key in table:
        if key not in names:
            raise UserError(f"stop.plateau.{key}: no such key{suggestion(key, names)} (known: {', '.join(names)})")
    try:
        given = {key: check_option(PlateauOptions, key, value) for key, value in table.items()}
    except UserError as error:
        raise UserError(f"stop.plateau.{error}") from None
    return vars(PlateauOptions(**given))


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
