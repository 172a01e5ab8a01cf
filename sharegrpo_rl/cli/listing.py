"""`list`: the names that run files can use, and the options of an algorithm or environment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic.fields import FieldInfo
from rich.console import Console
from rich.table import Table

from sharegrpo_rl.config import Options, meaning
from sharegrpo_rl.config.names import suggestion
from sharegrpo_rl.config.option import type_words
from sharegrpo_rl.config.registry import LOSSES, REWARDS, SELECTIONS, Registry
from sharegrpo_rl.config.run import TABLES
from sharegrpo_rl.errors import UserError

TOPICS = ("algorithms", "environments", "examples", "transforms", "rewards", "losses", "selections")


def listing(what: str | None, of: str | None) -> dict[str, dict[str, Any]]:
    """Of one topic, or all of them: name -> a line about it; of `options`: option -> type, default, meaning. UserError for
    a topic that does not exist."""
    if what == "options":
        return {of or "": option_entries(of)}
    if what is not None and what not in TOPICS:
        raise UserError(f"list {what}: no such topic{suggestion(what, TOPICS)} (topics: {', '.join(TOPICS)}, options)")
    return {topic: dict(_entries(topic)) for topic in ([what] if what else TOPICS)}


def print_listing(what: str | None, of: str | None) -> None:
    """Print what `listing` has, as tables."""
    console = Console()
    for name, entries in listing(what, of).items():
        if what == "options":
            console.print(options_table(name, entries))
        else:
            console.print(_topic_table(name, entries))
            console.print()


def _topic_table(topic: str, entries: Mapping[str, str]) -> Table:
    table = Table(title=topic, title_justify="left", show_header=False, box=None, padding=(0, 2))
    for name, doc in entries.items():
        table.add_row(name, doc)
    return table


def _entries(topic: str) -> Iterable[tuple[str, str]]:
    if topic == "algorithms":
        from sharegrpo_rl.config.presets import ALGORITHM_OPTIONS, PRESETS

        for name, options in ALGORITHM_OPTIONS.items():
            presets = ", ".join(PRESETS.get(name, {}))
            yield name, f"{_first_line(options)}{f' Presets: {presets}' if presets else ''}"
    elif topic == "environments":
        from sharegrpo_rl.envs.registry import ENVIRONMENTS

        yield from ((name, spec.doc) for name, spec in ENVIRONMENTS.items())
    elif topic == "examples":
        from sharegrpo_rl.runs.examples import list_examples

        yield from ((name, _comment(path.read_text(encoding="utf-8"))) for name, path in list_examples().items())
    elif topic == "transforms":
        from sharegrpo_rl.data.transforms import TRANSFORMS

        yield from ((name, transform.sentence) for name, transform in TRANSFORMS.items())
    else:
        registries: dict[str, Registry[Any]] = {"losses": LOSSES, "selections": SELECTIONS, "rewards": REWARDS}
        yield from registries[topic].describe()


def option_entries(name: str | None) -> dict[str, dict[str, Any]]:
    """Every option of an algorithm, an environment or a nested table: type, default, meaning with unit, bounds, source."""
    from sharegrpo_rl.config.presets import ALGORITHM_OPTIONS
    from sharegrpo_rl.envs.registry import ENVIRONMENTS

    known = [*ALGORITHM_OPTIONS, *ENVIRONMENTS, *TABLES]
    if name not in known:
        what = f"no options of {name!r}{suggestion(name, known)}" if name else "say of what"
        raise UserError(f"list options: {what} (known: {', '.join(known)})")
    options = ALGORITHM_OPTIONS.get(name) or TABLES.get(name) or ENVIRONMENTS[name].options
    return {
        key: {"type": type_words(field.annotation), "default": _default(field), "meaning": meaning(field)}
        for key, field in options.fields().items()
    }


def options_table(name: str, entries: Mapping[str, Mapping[str, Any]]) -> Table:
    """What `option_entries` has, as a table."""
    table = Table(title=f"options of {name}", title_justify="left")
    for heading in ("option", "type", "default", "meaning"):
        table.add_column(heading, overflow="fold")
    for key, entry in entries.items():
        default = "null" if entry["default"] is None else str(entry["default"])
        table.add_row(key, entry["type"], default, entry["meaning"])
    return table


def _default(field: FieldInfo) -> Any:
    value = field.get_default(call_default_factory=True)
    return {} if isinstance(value, Options) else value


def _first_line(thing: Any) -> str:
    return (getattr(thing, "__doc__", None) or "").strip().split("\n")[0]


def _comment(text: str) -> str:
    return text.splitlines()[0].removeprefix("#").strip() if text.startswith("#") else ""
