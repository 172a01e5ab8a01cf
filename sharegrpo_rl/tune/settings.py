"""`--set a.b.c=value`: dotted settings laid over a run file, through the same parser, remembered by origin."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.tune.yaml_loader import load_yaml

ROOTS = ("run", "env", "stop", "config", "tune", "loggers")
SEARCH_WORDS = ("grid_search", "choice", "uniform", "loguniform", "quniform")


@dataclass(frozen=True)
class Setting:
    """One `--set`: the dotted path into the run, and its value."""

    path: tuple[str, ...]
    value: Any

    @property
    def key(self) -> str:
        return ".".join(self.path)


def parse_setting(text: str) -> Setting:
    """`config.lr=1e-5` as path and typed value; UserError for anything else."""
    key, equals, raw = text.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if not equals or not all(path):
        raise UserError(f"--set {text}: expected KEY=VALUE with a dotted key, such as config.lr=1e-5")
    if path[0] not in ROOTS:
        raise UserError(
            f"--set {text}: no such key {path[0]!r}; did you mean config.{key.strip()}? "
            f"(keys begin with {', '.join(ROOTS)})"
        )
    value = load_yaml(raw, f"--set {key.strip()}")
    if len(path) == 1 and (path[0] in ("stop", "config", "loggers") or (path[0] == "tune" and value is not None)):
        raise UserError(f"--set {text}: {path[0]} is a table; set one of its keys, such as {path[0]}.KEY=VALUE")
    if isinstance(value, str) and raw.strip()[:1] not in ("'", '"') and value != raw.strip():
        raise UserError(f"--set {text}: put the value in quotes, as YAML reads only {value!r} of it")
    return Setting(path, value)


def apply_settings(tree: Mapping[str, Any], settings: Iterable[Setting]) -> dict[str, Any]:
    """A copy of the run's tree with every setting laid over it; later ones win."""
    result = copy_tree(tree)
    for setting in settings:
        table = result
        for depth, part in enumerate(setting.path[:-1], start=1):
            inner = table.get(part)
            if inner is None:
                inner = {}
            if not isinstance(inner, dict):
                where = ".".join(setting.path[:depth])
                raise UserError(f"--set {setting.key}: {where} is {inner!r}, not a table with keys of its own")
            table[part] = inner
            table = inner
        table[setting.path[-1]] = setting.value
    return result


def copy_tree(value: Any) -> Any:
    """Dicts and lists copied all the way down, so that YAML aliases are no longer shared."""
    if isinstance(value, Mapping):
        return {key: copy_tree(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [copy_tree(inner) for inner in value]
    return value


def find_search_space(value: Any, path: str = "config") -> tuple[str, str] | None:
    """Where a search space stands (dotted key, word), if there is one."""
    if isinstance(value, Mapping):
        if len(value) == 1 and next(iter(value)) in SEARCH_WORDS:
            return path, str(next(iter(value)))
        inner = (find_search_space(v, f"{path}.{k}") for k, v in value.items())
        return next((found for found in inner if found), None)
    if isinstance(value, list):
        return next((found for v in value if (found := find_search_space(v, path))), None)
    return None
