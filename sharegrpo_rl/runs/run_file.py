"""A run file, `<run name>: {run, env, stop, config}`, checked and resolved to every option's value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from sharegrpo_rl.config.blocks import check_loggers, check_stop, check_stop_metrics
from sharegrpo_rl.config.environment import read_options
from sharegrpo_rl.config.metrics import check_metric
from sharegrpo_rl.config.names import closest, suggestion
from sharegrpo_rl.config.presets import ALGORITHM_OPTIONS
from sharegrpo_rl.config.resolve import options_of, resolve
from sharegrpo_rl.config.run import RunOptions
from sharegrpo_rl.config.search import SearchOptions
from sharegrpo_rl.config.tree import ROOTS, Setting, apply_settings, find_search_space, load_yaml_file, parse_setting
from sharegrpo_rl.config.user_code import find_callbacks
from sharegrpo_rl.envs.registry import ENVIRONMENTS
from sharegrpo_rl.errors import UserError

# ---- Environment ids and `env_config` keys, checked against the registry; and where the data of examples comes from.

# The data sets that tuned examples name by a relative folder; none of them travels in the wheel.
ORIGINS: dict[str, str] = {
    "easy_vqa": (
        "`pip install sharegrpo-rl[easy-vqa]`, then `python -m sharegrpo_rl.data.easy_vqa --out data/easy_vqa` "
        "writes it from the PyPI package easy-vqa"
    ),
    "mnist_pairs": (
        "pairs of MNIST test digits (yann.lecun.com/exdb/mnist) as train.parquet and test.parquet; "
        "the data page of the docs describes the columns"
    ),
    "counting_clevr": (
        "CLEVR and Super-CLEVR renders with their object lists (github.com/psunlpgroup/VisOnlyQA) as train.jsonl, "
        "test.jsonl and images/; the data page of the docs describes the columns"
    ),
    "mulberry_sft": (
        "HuanjinYao/Mulberry-SFT on the Hugging Face hub without its reflective rows, each chat as one row with problem, "
        "solution and images; the papers page of the docs describes it"
    ),
}


def check_environment(env: str) -> None:
    """UserError with the closest id where no such environment is registered."""
    if env not in ENVIRONMENTS:
        raise UserError(
            f"env: no environment {env!r}{suggestion(env, ENVIRONMENTS)} (known: {', '.join(ENVIRONMENTS)})"
        )


def check_environment_config(env: str, table: Mapping[str, Any]) -> dict[str, Any]:
    """`env_config` with every option of the environment, checked and typed; opens no data."""
    return read_options(ENVIRONMENTS[env].options, table).as_dict()


def check_data(env_config: Mapping[str, Any]) -> None:
    """UserError where data is needed and not named, or a tuned example's relative folder is not there."""
    if "data" not in env_config:
        return
    data = env_config["data"]
    if not data:
        raise UserError("config.env_config.data: missing; name a data set, such as --set config.env_config.data=FOLDER")
    if not isinstance(data, list):
        _check_origin("config.env_config.data", data, " with --set config.env_config.data=PATH")
        return
    for number, part in enumerate(data):
        _check_origin(f"config.env_config.data[{number}].data", part["data"], ", in the run file")


def _check_origin(key: str, data: str, how: str) -> None:
    path = Path(data)
    origin = ORIGINS.get(path.name)
    if origin and not path.exists():
        raise UserError(
            f"{key}: there is no {data} (looked in {Path.cwd()}); "
            f"set it to where {path.name} lies{how}. It comes from: {origin}"
        )


# ---- Tuned examples by path or by short name; they travel in the wheel as `sharegrpo_rl/tuned_examples`.


def examples_folder() -> Path:
    """Where the tuned examples lie: in the installed package, or beside it in a source tree."""
    package = Path(__file__).resolve().parent.parent
    shipped = package / "tuned_examples"
    return shipped if shipped.is_dir() else package.parent / "tuned_examples"


def list_examples() -> dict[str, Path]:
    """Every example by its short name (path without `.yaml`), sorted."""
    root = examples_folder()
    return {str(p.relative_to(root).with_suffix("").as_posix()): p for p in sorted(root.rglob("*.yaml"))}


def find_run_file(text: str) -> Path:
    """The file that a path or a short name (`share_grpo/drawn_shapes-tiny`, or its last part) means."""
    path = Path(text)
    if path.is_file():
        return path
    if path.is_dir():
        raise UserError(f"{text}: a folder; name a run file in it")
    examples = list_examples()
    short = text.removesuffix(".yaml").removeprefix("tuned_examples/")
    if short in examples:
        return examples[short]
    same_end = [name for name in examples if name.rsplit("/", 1)[-1] == short]
    if len(same_end) == 1:
        return examples[same_end[0]]
    if same_end:
        raise UserError(f"{text}: several examples have this name; say {' or '.join(same_end)}")
    near = closest(short, examples)
    hint = f"did you mean the example {near}?" if near else "`sharegrpo-rl list` names the examples"
    raise UserError(f"{text}: no such file or tuned example; {hint}")


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

    def as_tree(self) -> dict[str, Any]:
        """The shape of a run file, as `--dry-run` prints it and `params.json` keeps it."""
        loggers = {"loggers": self.loggers} if self.loggers else {}
        return {self.name: {"run": self.run, "env": self.env, "stop": self.stop, "config": self.config, **loggers}}


def load_run(path: Path, sets: Sequence[str] = ()) -> RunSpec:
    """The run that a file and its `--set` texts describe; UserError names file or setting, key and remedy."""

    def resolve(name: str, tree: Mapping[str, Any]) -> RunSpec:
        _refuse_search(tree, path)
        return resolve_run(name, tree)

    return read_run(path, sets, resolve)


def read_run(path: Path, sets: Sequence[str], resolve: Callable[[str, dict[str, Any]], Resolved]) -> Resolved:
    """What `resolve(name, tree)` makes of a file with its settings laid over; its complaints get their origin in front."""
    settings = [parse_setting(text) for text in sets]
    name, tree = _read_shape(path)
    try:
        _check_keys(tree, ROOTS)
        return resolve(name, apply_settings(tree, settings))
    except UserError as error:
        raise UserError(f"{_origin(str(error), path, settings)}: {error}") from None


def _refuse_search(tree: Mapping[str, Any], path: Path) -> None:
    see = f"see the search with `sharegrpo-rl tune {path} --dry-run`"
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
        find_callbacks(options.user_callbacks)
        if options.best_metric is not None:
            check_metric("best_metric", options.best_metric, options)
    except UserError as error:
        raise UserError(f"config.{error}") from None
    check_stop_metrics(stop, options)
    return RunSpec(name, run, env, stop, options, check_loggers(read_table(tree, "loggers")))


def _read_shape(path: Path) -> tuple[str, dict[str, Any]]:
    content = load_yaml_file(path)
    shape = "<run name>: {run: ..., env: ..., stop: ..., config: ...}"
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: expected {shape}")
    if set(content) & set(ROOTS):
        raise UserError(f"{path}: {next(iter(content))!r} stands at the top; put it under a name for the run: {shape}")
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
    """The table under a key, empty where there is none; UserError where something else stands there."""
    value = tree.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{key}: expected a table of keys, got {value!r}")
    return value
