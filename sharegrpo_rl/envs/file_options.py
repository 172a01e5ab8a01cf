"""What `env_config` may hold where questions are read from data: one set, or a list of sets that are mixed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sharegrpo_rl.data.benchmarks.layout import find_layout
from sharegrpo_rl.envs.options import EnvOptions, about, read_options
from sharegrpo_rl.envs.registry import ENVIRONMENTS, environment_spec
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.rewards.rubric import Rubric

OF_THE_RUN = ("skip_questions", "transform_text_position")  # settings that a set cannot have for itself
NOT_INHERITED = ("data", "kinds", "max_questions", *OF_THE_RUN)


@dataclass(frozen=True)
class FileOptions(EnvOptions):
    """Options of every environment that reads a data set."""

    data: str | list = field(
        default="", metadata=about("the data set: a folder, a file, or a hub name; or a list of sets that are mixed")
    )
    kinds: list[str] = field(
        default_factory=list, metadata=about("keep only these kinds of question (`subtask`); empty = all")
    )
    columns: dict[str, str] = field(
        default_factory=dict, metadata=about("field -> the data set's name of that column, where it is not a known one")
    )
    test_fraction: float | None = field(
        default=None,
        metadata=about("share of a data set with one file only that is its test split", minimum=0, maximum=1),
    )
    hub_config: str | None = field(default=None, metadata=about("configuration of a hub data set"))
    benchmark: str | None = field(
        default=None,
        metadata=about("the layout of a published benchmark's file, such as mathvista; null = plain columns"),
    )
    template_wordings: bool = field(
        default=False, metadata=about("add rule-based wordings to questions that fit a template")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.benchmark is not None:
            find_layout(self.benchmark)
        if isinstance(self.data, list):
            mixed_sets(self)


@dataclass(frozen=True)
class SetOptions:
    """What a set of a mixture may hold beside the keys of its environment."""

    weight: float | None = field(
        default=None, metadata=about("its part of an epoch, beside the other sets' weights; null = its size")
    )
    task: str | None = field(
        default=None, metadata=about("the name of its curve; null = its rows' own `task`, else its folder's name")
    )
    env: str | None = field(
        default=None, metadata=about("whose checks, answer type and transforms apply to its rows; null = the run's env")
    )
    rewards: dict[str, float] | None = field(
        default=None, metadata=about("weight of each registered reward on its rows; null = the run's rewards")
    )


@dataclass(frozen=True)
class MixedSetOptions:
    """One entry of the list `env_config.data`: its `key` (`env_config.data[1]`), its own options, and those of its rows."""

    key: str
    mixing: SetOptions
    rows: FileOptions
    own_kinds: bool

    @property
    def name(self) -> str:
        """What the data is called: its folder, its file without split and ending, or the end of its hub name."""
        path = Path(str(self.rows.data))
        bare = path.name.removesuffix(".jsonl").removesuffix(".parquet")
        return path.resolve().parent.name if bare in ("train", "test") and bare != path.name else bare


def mixed_sets(run: FileOptions) -> list[MixedSetOptions]:
    """The sets of a list `env_config.data`, checked without opening any; what a set leaves out it takes from the run."""
    if not isinstance(run.data, list) or not run.data:
        raise UserError("env_config.data: the list is empty; name at least one set, such as {data: PATH}")
    sets = [_read_set(run, f"env_config.data[{number}]", table) for number, table in enumerate(run.data)]
    weighted = [mixed.mixing.weight is not None for mixed in sets]
    if any(weighted) and not all(weighted):
        missing = sets[weighted.index(False)]
        raise UserError(
            f"{missing.key}.weight: missing; give every set a weight, or none (then each counts by its size)"
        )
    return sets


def _read_set(run: FileOptions, key: str, table: Any) -> MixedSetOptions:
    if not isinstance(table, Mapping):
        raise UserError(f"{key}: expected a table such as {{data: PATH, weight: 1, task: NAME}}, got {table!r}")
    mixing_keys = [f.name for f in fields(SetOptions)]
    mixing = read_options(SetOptions, {k: v for k, v in table.items() if k in mixing_keys}, key)
    if mixing.weight is not None and not 0 < mixing.weight < float("inf"):
        raise UserError(f"{key}.weight: {mixing.weight:g} must be above 0; to leave the set out, remove it")
    options_type = _options_type(run, key, mixing.env)
    given = {k: v for k, v in table.items() if k not in mixing_keys}
    _check_keys(given, key, [*mixing_keys, *(f.name for f in fields(options_type))])
    if not isinstance(given.get("data"), str) or not given["data"]:
        raise UserError(f"{key}.data: expected a folder, a file, or a hub name, got {given.get('data')!r}")
    shared = {f.name for f in fields(options_type)} & {f.name for f in fields(run)} - set(NOT_INHERITED)
    with _naming(key):
        rows = read_options(options_type, {**{name: getattr(run, name) for name in shared}, **given}, key)
    if mixing.rewards is not None:
        with _naming(f"{key}.rewards"):
            Rubric(mixing.rewards)
    return MixedSetOptions(key, mixing, rows, "kinds" in given)


@contextmanager
def _naming(key: str) -> Iterator[None]:
    """Put the key before an error that does not name it."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error) if str(error).startswith(key) else f"{key}: {error}") from None


def _options_type(run: FileOptions, key: str, env: str | None) -> type[FileOptions]:
    """Options of the set's environment, which must be one that reads data."""
    if env is None:
        return type(run)
    try:
        options = environment_spec(env).options
    except UserError as error:
        raise UserError(f"{key}.{error}") from None
    if not issubclass(options, FileOptions):
        readers = [name for name, spec in ENVIRONMENTS.items() if issubclass(spec.options, FileOptions)]
        raise UserError(f"{key}.env: {env} makes its own questions and reads no data; choose from {', '.join(readers)}")
    return options


def _check_keys(given: Mapping[str, Any], key: str, known: list[str]) -> None:
    for name in given:
        if name in OF_THE_RUN:
            raise UserError(f"{key}.{name}: belongs to the whole mixture; set env_config.{name}")
        if name not in known:
            close = get_close_matches(str(name), known, n=1)
            free = [option for option in known if option not in OF_THE_RUN]
            hint = f"did you mean {close[0]}?" if close else f"known keys: {', '.join(free)}"
            raise UserError(f"{key}.{name}: unknown key; {hint}")
