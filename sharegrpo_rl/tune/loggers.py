"""`loggers`: a run's rows, sent to Weights & Biases or MLflow through Ray's own logger callbacks."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from uuid import uuid4

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.options import check_option
from sharegrpo_rl.options.option import option
from sharegrpo_rl.tune.peer_names import suggestion
from sharegrpo_rl.tune.run_folder import LOGGED_AS, storage_errors, write_atomically


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


@dataclass(eq=False)
class LoggedRun:
    """A run as Ray's callbacks see it: the part of Tune's Trial that they read."""

    name: str
    trial_id: str
    config: dict[str, Any]
    local_path: str
    experiment_dir_name: str

    def __str__(self) -> str:
        return self.name


class RunLoggers:
    """Ray's logger callbacks of one run. Made before anything else, so that a missing package or key is told at once."""

    def __init__(self, tables: Mapping[str, Mapping[str, Any]], say: Callable[[str], None]) -> None:
        self._say = say
        self._callbacks = {name: _make(name, options) for name, options in tables.items()}
        self._run: LoggedRun | None = None

    def start(self, folder: Path, params: Mapping[str, Any]) -> None:
        """Begin, or with a resumed run go on where the service allows it. Needs Ray."""
        if not self._callbacks:
            return
        import ray

        if not ray.is_initialized():
            ray.init(include_dashboard=False, log_to_driver=False)
        config = {"run": params["run"], "env": params["env"], "seed": params["seed"], **params["config"]}
        path = folder.absolute()
        self._run = LoggedRun(path.name, _identity(path), config, str(path), path.parent.name)
        for callback in self._callbacks.values():
            callback.log_trial_start(self._run)

    def row(self, row: Mapping[str, Any]) -> None:
        """One line of result.json."""
        if self._run is not None:
            for callback in self._callbacks.values():
                callback.log_trial_result(row["training_iteration"], self._run, dict(row))

    def end(self, *, failed: bool = False) -> None:
        """Let the services finish; says what could not be sent."""
        if self._run is None:
            return
        for name, callback in self._callbacks.items():
            sending = list(getattr(callback, "_trial_logging_futures", {}).values())  # W&B's: an actor sends
            callback.log_trial_end(self._run, failed=failed)
            callback.on_experiment_end(trials=[self._run])
            self._complain(name, sending)
        self._run = None

    def _complain(self, name: str, sending: list[Any]) -> None:
        import ray

        for future in sending:
            try:
                ray.get(future, timeout=0)
            except Exception as error:  # whatever the service's client raises: the run itself is whole
                lines = [line for line in str(error).strip().splitlines() if line.strip()]
                self._say(f"loggers.{name}: not everything was sent: {lines[-1] if lines else type(error).__name__}")


def _make(name: str, options: Mapping[str, Any]) -> Any:
    try:
        callback = _wandb(options) if name == "wandb" else _mlflow(options)
        callback.setup()
    except ImportError:
        package = PACKAGES[name]
        raise UserError(f"loggers.{name}: the package {package} is not installed; pip install {package}") from None
    except ValueError as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"loggers.{name}: {first} (for W&B: `wandb login`, or mode: offline)") from None
    return callback


def _wandb(options: Mapping[str, Any]) -> Any:
    from ray.air.integrations.wandb import WandbLoggerCallback

    if options["mode"] == "offline":
        os.environ["WANDB_MODE"] = "offline"  # read by Ray's callback, which would ask for a key otherwise
    given = {key: options[key] for key in ("entity", "mode") if options[key] is not None}
    return WandbLoggerCallback(options["project"], options["group"], resume="allow", **given)


def _mlflow(options: Mapping[str, Any]) -> Any:
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    uri = options["tracking_uri"] or os.environ.get("MLFLOW_TRACKING_URI")
    return MLflowLoggerCallback(tracking_uri=uri, experiment_name=options["experiment_name"])


def _identity(folder: Path) -> str:
    """The run's name at the services: drawn once, kept in its folder, so that a resumed run is the same one."""
    file = folder / LOGGED_AS
    if not file.exists():
        with storage_errors(file):
            write_atomically(file, uuid4().hex[:12])
    return file.read_text(encoding="utf-8").strip()
