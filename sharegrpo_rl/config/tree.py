"""A strict YAML reader: YAML 1.2 scalars, no tags, no duplicate keys, no bombs; every complaint names file and line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sharegrpo_rl.errors import UserError

MAX_BYTES = 256 * 1024
MAX_DEPTH = 64
MAX_NODES = 20_000  # counted after aliases are written out


class _CoreLoader(yaml.SafeLoader):
    """PyYAML's reader with the YAML 1.2 core scalars instead of YAML 1.1's (where `no` is false and `1e-5` a word)."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  (PyYAML's own name; emptied on purpose)
    label = ""


# Core schema, chapter 10.3 of YAML 1.2.2. The second argument lists the characters that such a scalar may begin with.
_CoreLoader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:null|Null|NULL|~|)$"), [*"nN~", ""])
_CoreLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), [*"tTfF"]
)
_CoreLoader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"), [*"-+0123456789"]
)
_CoreLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    [*"-+.0123456789"],
)


def _construct_int(loader: _CoreLoader, node: yaml.ScalarNode) -> int:
    text = node.value
    base = 8 if text.startswith("0o") else 16 if text.startswith("0x") else 10
    if len(text) > 100:
        raise UserError(f"{_place(loader.label, node.start_mark)}: a number of {len(text)} digits")
    return int(text[2:] if base != 10 else text, base)


def _construct_float(loader: _CoreLoader, node: yaml.ScalarNode) -> float:
    text = node.value.lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


def _construct_mapping(loader: _CoreLoader, node: yaml.MappingNode) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        place = _place(loader.label, key_node.start_mark)
        key = loader.construct_object(key_node, deep=True) if isinstance(key_node, yaml.ScalarNode) else None
        if not isinstance(key, str):
            raise UserError(
                f"{place}: a key must be a word, not {getattr(key_node, 'value', None)!r}; put it in quotes"
            )
        if key in result:
            raise UserError(f"{place}: the key {key!r} appears twice; remove one")
        result[key] = loader.construct_object(value_node, deep=True)
    return result


def _construct_sequence(loader: _CoreLoader, node: yaml.SequenceNode) -> list[Any]:
    return [loader.construct_object(child, deep=True) for child in node.value]


_CoreLoader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_CoreLoader.add_constructor("tag:yaml.org,2002:float", _construct_float)
_CoreLoader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)
_CoreLoader.add_constructor("tag:yaml.org,2002:seq", _construct_sequence)


def load_yaml_file(path: Path) -> Any:
    """The content of one YAML file; UserError naming the file (and line) where it cannot be read."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    if len(raw) > MAX_BYTES:
        raise UserError(f"{path}: larger than {MAX_BYTES // 1024} KiB; a run file is a page of settings")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start})") from None
    return load_yaml(text, str(path))


def load_yaml(text: str, label: str) -> Any:
    """The value of one YAML document; `label` (a file, or the option it came from) begins every complaint."""
    try:
        _check_events(text, label)
        loader = _CoreLoader(text)
        loader.label = label
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_size(node, label)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = _place(label, mark) if mark else label
        raise UserError(f"{place}: not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{label}: not valid YAML: {str(error).splitlines()[0]}") from None


def _place(label: str, mark: Any) -> str:
    # A value on the command line has one line; counting it would only puzzle.
    return label if label.startswith("--") else f"{label}, line {mark.line + 1}"


def _check_events(text: str, label: str) -> None:
    """Refuse tags and deep nesting on the flat stream of events, before anything recursive looks at the text."""
    depth = documents = 0
    for event in yaml.parse(text, Loader=_CoreLoader):
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise UserError(f"{_place(label, event.start_mark)}: the tag {tag!r} is not allowed; plain values only")
        if any("\ud800" <= char <= "\udfff" for char in getattr(event, "value", None) or ""):
            raise UserError(
                f"{_place(label, event.start_mark)}: half a character (a lone surrogate); write it in UTF-8"
            )
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise UserError(f"{_place(label, event.start_mark)}: a second document begins; keep one in a file")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise UserError(f"{_place(label, event.start_mark)}: nested more than {MAX_DEPTH} deep")


def _check_size(root: yaml.Node, label: str) -> None:
    """Refuse documents whose aliases, written out, would be huge, deep or endless."""
    measured: dict[int, tuple[int, int]] = {}
    open_nodes: set[int] = set()

    def measure(node: yaml.Node) -> tuple[int, int]:
        """Values and levels of a node, aliases written out."""
        if id(node) in measured:
            return measured[id(node)]
        if id(node) in open_nodes:
            raise UserError(f"{_place(label, node.start_mark)}: an alias contains itself")
        open_nodes.add(id(node))
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        parts = [measure(child) for child in children]
        open_nodes.discard(id(node))
        measured[id(node)] = (1 + sum(size for size, _ in parts), 1 + max((levels for _, levels in parts), default=0))
        if measured[id(node)][1] > MAX_DEPTH:
            raise UserError(f"{_place(label, node.start_mark)}: nested more than {MAX_DEPTH} deep by its aliases")
        return measured[id(node)]

    if measure(root)[0] > MAX_NODES:
        raise UserError(f"{label}: more than {MAX_NODES} values once its aliases are written out")


# ---- `--set a.b.c=value`: dotted settings that override a run file, read by the same parser, remembered by origin.

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
    """A copy of the run's tree with every setting applied; later ones win."""
    result: dict[str, Any] = copy_tree(tree)
    for setting in settings:
        table = result
        for depth, part in enumerate(setting.path[:-1], start=1):
            inner = table.get(part)
            if inner is None:
                inner = {}
            if not isinstance(inner, dict):
                where = ".".join(setting.path[:depth])
                raise UserError(f"--set {setting.key}: {where} is {inner!r}, not a table")
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
    """The first search space (dotted key, word), if there is one."""
    if isinstance(value, Mapping):
        if len(value) == 1 and next(iter(value)) in SEARCH_WORDS:
            return path, str(next(iter(value)))
        inner = (find_search_space(v, f"{path}.{k}") for k, v in value.items())
        return next((found for found in inner if found), None)
    if isinstance(value, list):
        return next((found for v in value if (found := find_search_space(v, path))), None)
    return None
