"""`loggers`: what a run file may say of Weights & Biases and MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from sharegrpo_rl.config.names import suggestion
from sharegrpo_rl.config.option import check_option, option
from sharegrpo_rl.errors import UserError


@dataclass
class WandbOptions:
    """`loggers.wandb`; the key comes from `wandb login` or WANDB_API_KEY, never from a file that is shared."""

    project: str = option("sharegrpo_rl", "the project")
    group: str | None = option(None, "groups runs on the page; null = the storage folder's name")
    entity: str | None = option(None, "user or team; null = your default")
    mode: str = option("online", "offline keeps everything below the run's folder", choices=("online", "offline"))


@dataclass
class MlflowOptions:
    """`loggers.mlflow`."""

    experiment_name: str = option("sharegrpo_rl", "the experiment")
    tracking_uri: str | None = option(None, "server or file: URI; null = MLFLOW_TRACKING_URI, or MLflow's own default")


TABLES: dict[str, type] = {"wandb": WandbOptions, "mlflow": MlflowOptions}

PACKAGES = {"wandb": "wandb", "mlflow": "mlflow-skinny"}


def check_loggers(table: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The table `loggers`, checked, with defaults filled in; messages begin with the dotted key."""
    checked = {}
    for name, given in table.items():
        if name not in TABLES:
            raise UserError(f"loggers.{name}: no such logger{suggestion(name, TABLES)} (known: {', '.join(TABLES)})")
        if given is None:
            continue
        if not isinstance(given, Mapping):
            raise UserError(f"loggers.{name}: expected a table such as {{}}, got {given!r}")
        known = [f.name for f in fields(TABLES[name])]
        for key in given:
            if key not in known:
                raise UserError(
                    f"loggers.{name}.{key}: no such key{suggestion(key, known)} (known: {', '.join(known)})"
                )
        try:
            values = {key: check_option(TABLES[name], key, value) for key, value in given.items()}
        except UserError as error:
            raise UserError(f"loggers.{name}.{error}") from None
        checked[name] = vars(TABLES[name](**values))
    return checked
