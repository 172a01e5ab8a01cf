"""`loggers`: what a run file may say about Weights & Biases and MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from sharegrpo_rl.config.names import suggestion
from sharegrpo_rl.config.option import Options, check_at, option
from sharegrpo_rl.errors import UserError


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
