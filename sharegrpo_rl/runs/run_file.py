"""A run file, `<run name>: {run, env, stop, config, loggers}`, checked and resolved to every option's value.

A run ends after its iterations or completions, where a metric reaches a value, or where it stops improving.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import field_validator

from sharegrpo_rl.config.metrics import Row, check_metric, value_of
from sharegrpo_rl.config.names import suggestion
from sharegrpo_rl.config.option import Options, check_at, option
from sharegrpo_rl.config.presets import ALGORITHM_OPTIONS
from sharegrpo_rl.config.resolve import options_of, resolve
from sharegrpo_rl.config.run import RunOptions
from sharegrpo_rl.config.search import SearchOptions
from sharegrpo_rl.config.tree import ROOTS, Setting, apply_settings, find_search_space, load_yaml_file, parse_setting
from sharegrpo_rl.envs.registry import ENVIRONMENTS, check_env_config
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.files import as_json

LENGTHS = ("training_iteration", "completions")
PLATEAU = "plateau"


class PlateauOptions(Options):
    """`stop.plateau`: end a run whose metric no longer improves."""

    metric: str = option("evaluation/accuracy", "the metric: a path into result.json")
    mode: Literal["max", "min"] = option("max", "whether higher or lower is better")
    patience: int = option(5, "measurements without improvement before the run ends", ge=1)
    min_delta: float = option(0.0, "a measurement must be better by this much to count", ge=0)


Resolved = TypeVar("Resolved")


@dataclass(frozen=True)
class RunSpec:
    """One resolved run; its options are checked and typed."""

    name: str
    run: str
    env: str
    stop: dict[str, Any]  # whichever comes first; schedules are planned by training_iteration
    options: RunOptions
    loggers: dict[str, dict[str, Any]] = field(default_factory=dict)

    @cached_property
    def config(self) -> dict[str, Any]:
        """Every option by its name, as run files have them."""
        return self.options.as_dict()

    @property
    def iterations(self) -> int:
        return int(self.stop["training_iteration"])

    def committing_to(self, folder: Path) -> RunSpec:
        """This run, whose remote learners commit to a folder unless its file names one."""
        if not self.options.num_learners or self.options.commit_folder is not None:
            return self
        return replace(self, options=self.options.model_copy(update={"commit_folder": str(folder)}))

    def as_tree(self) -> dict[str, Any]:
        """The shape of a run file, as `--dry-run` prints it and `params.json` keeps it."""
        loggers = {"loggers": self.loggers} if self.loggers else {}
        return {self.name: {"run": self.run, "env": self.env, "stop": self.stop, "config": self.config, **loggers}}


class TrainOptions(Options):
    """The options of `train` and `tune`: everything that is not part of a run's own settings."""

    name: str | None = option(None, "the folder's name; by default the name in the file")
    storage_path: Path = option(Path("runs"), "folder of the run and search folders")
    resume: Literal["auto", "never"] = option("auto", "resume the run or search of this name")
    seed: int = option(0, "seed of everything random; in a search, of drawn values and of every trial", ge=0)

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str | None) -> str | None:
        return name if name is None else check_folder_name(name, "--name")


def load_run(path: Path, sets: Sequence[str] = ()) -> RunSpec:
    """The run that a file and its `--set` texts describe; UserError names file or setting, key and remedy."""

    def resolve(name: str, tree: Mapping[str, Any]) -> RunSpec:
        _refuse_search(tree, path)
        return resolve_run(name, tree)

    return read_run(path, sets, resolve)


def read_run(path: Path, sets: Sequence[str], resolve: Callable[[str, dict[str, Any]], Resolved]) -> Resolved:
    """What `resolve(name, tree)` makes of a file with its settings applied; error messages begin with their origin."""
    settings = [parse_setting(text) for text in sets]
    name, tree = _read_shape(path)
    try:
        _check_keys(tree, ROOTS)
        return resolve(name, apply_settings(tree, settings))
    except UserError as error:
        raise UserError(f"{_origin(str(error), path, settings)}: {error}") from None


def _refuse_search(tree: Mapping[str, Any], path: Path) -> None:
    see = f"see the search with `sharegrpo-rl tune {shlex.quote(str(path))} --dry-run`"
    if found := find_search_space(read_table(tree, "config")):
        raise UserError(
            f"{found[0]}: {found[1]} is a search space and this command takes one setting; {see}, "
            f"or give one value, such as --set {found[0]}=VALUE"
        )
    if tree.get("tune") is not None:
        raise UserError(
            f"tune: settings of a search, and this command takes one setting; {see}, or leave them out: --set tune=null"
        )


def resolve_run(name: str, tree: Mapping[str, Any]) -> RunSpec:
    """Check one run's tree and fill in presets and defaults; messages begin with the dotted key."""
    run = _word(tree, "run")
    options_of(run)
    env = _word(tree, "env")
    check_environment(env)
    stop = check_stop(read_table(tree, "stop"))
    try:
        options = resolve(run, read_table(tree, "config"))
        options = options.model_copy(update={"env_config": check_environment_config(env, options.env_config)})
        if options.total_steps is None:
            steps = options.optimizer_steps_per_iteration * stop["training_iteration"]
            options = options.model_copy(update={"total_steps": steps})
        options.check_together(run)
        if options.best_metric is not None:
            check_metric("best_metric", options.best_metric, options)
    except UserError as error:
        raise UserError(f"config.{error}") from None
    check_stop_metrics(stop, options)
    return RunSpec(name, run, env, stop, options, check_loggers(read_table(tree, "loggers")))


def describe_run(spec: RunSpec, seed: int) -> str:
    """The text that `--dry-run` prints; it is a run file again, with the counts in comments."""
    lines = yaml.safe_dump(as_json(spec.as_tree()), sort_keys=False, allow_unicode=True, width=120).splitlines()
    lines += ["", f"# seed {seed}"]
    counts = spec.options.work(spec.iterations).counts()
    lines += [f"# {name:<44} {count:>14,}" for name, count in counts.items()]
    lines += [f"# {line}" for line in _plan(spec)]
    return "\n".join(lines) + "\n"


def run_as_json(spec: RunSpec, seed: int) -> dict[str, Any]:
    """What `describe_run` has, as plain data, without memory and time: `sharegrpo-rl plan --json` has those."""
    tree = spec.as_tree()[spec.name]
    counts = spec.options.work(spec.iterations).counts()
    return {"name": spec.name, "seed": seed, **tree, "work": dict(counts)}


def _plan(spec: RunSpec) -> list[str]:
    """Memory of each process where the model's sizes are known by its name: to count them takes torch."""
    from sharegrpo_rl.models.sizes import known_sizes  # late: only `--dry-run` needs these, and rich takes long to load
    from sharegrpo_rl.planning.describe import short_lines
    from sharegrpo_rl.planning.estimate import EstimateRequest, estimate_run
    from sharegrpo_rl.planning.gpus import choose_gpu

    sizes = known_sizes(spec.config["model"])
    if sizes is None:
        return ["memory and time: sharegrpo-rl plan"]
    return short_lines(estimate_run(EstimateRequest(spec.config, spec.iterations, sizes, choose_gpu(None, None))))


def _read_shape(path: Path) -> tuple[str, dict[str, Any]]:
    content = load_yaml_file(path)
    shape = "<run name>: {run: ..., env: ..., stop: ..., config: ...}"
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: expected {shape}")
    if set(content) & set(ROOTS):
        raise UserError(
            f"{path}: {next(iter(content))!r} is at the top level; put it under a name for the run: {shape}"
        )
    if len(content) > 1:
        raise UserError(f"{path}: {len(content)} runs ({', '.join(content)}); a file holds one")
    name, tree = next(iter(content.items()))
    if not isinstance(tree, dict):
        raise UserError(f"{path}: {name} must be a table: {shape}")
    return check_folder_name(name, str(path)), tree


def check_folder_name(name: str, where: str) -> str:
    """A run's name, which also names its folder; UserError where it would leave the storage folder."""
    if (
        not name
        or name != name.strip()
        or name.startswith(".")
        or any(c in name for c in "/\\\0\n\r")
        or len(name) > 200
    ):
        raise UserError(f"{where}: {name!r} cannot name a run's folder; use letters, digits, - and _")
    return name


def _origin(message: str, path: Path, settings: Sequence[Setting]) -> str:
    """Who gave the key that a message begins with: the `--set` that touches it, else the file."""
    key = message.split(":")[0].split("[")[0]  # an entry of a list is set with its list
    touching = [s for s in settings if key == s.key or key.startswith(f"{s.key}.") or s.key.startswith(f"{key}.")]
    return "--set" if touching else str(path)


def _check_keys(tree: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in tree:
        if key not in known:
            options = {name for table in ALGORITHM_OPTIONS.values() for name in table.fields()}
            block = "config" if key in options else "tune" if key in SearchOptions.fields() else ""
            hint = f"; put it under {block}: {block}.{key}" if block else suggestion(key, known)
            raise UserError(f"{key}: no such key{hint} (a run has {', '.join(known)})")


def _word(tree: Mapping[str, Any], key: str) -> str:
    value = tree.get(key)
    if not isinstance(value, str) or not value:
        raise UserError(
            f"{key}: {'missing' if value is None else f'expected a name, got {value!r}'}; a run needs {key}: NAME"
        )
    return value


def read_table(tree: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The table under a key, empty if there is none; UserError if something else is there."""
    value = tree.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{key}: expected a table of keys, got {value!r}")
    return value


def check_environment(env: str) -> None:
    """UserError with the closest id where no such environment is registered."""
    if env not in ENVIRONMENTS:
        raise UserError(
            f"env: no environment {env!r}{suggestion(env, ENVIRONMENTS)} (known: {', '.join(ENVIRONMENTS)})"
        )


def check_environment_config(env: str, table: Mapping[str, Any]) -> dict[str, Any]:
    """`env_config` with every option of the environment, checked and typed; opens no data."""
    return check_env_config(env, table).as_dict()


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
        return bool(len(rows) >= value)
    if key == "completions":
        return bool(sum(row.get("env_runners", {}).get("num_completions", 0) or 0 for row in rows) >= value)
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
    return bool(since >= plateau["patience"])


class WandbOptions(Options):
    """`loggers.wandb`; the key comes from `wandb login` or WANDB_API_KEY, never from a file that is shared."""

    project: str = option("sharegrpo_rl", "the project")
    group: str | None = option(None, "groups runs on the page; null = the storage folder's name")
    entity: str | None = option(None, "user or team; null = your default")
    mode: Literal["online", "offline"] = option("online", "offline keeps everything inside the run's folder")


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
