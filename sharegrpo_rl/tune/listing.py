"""`list`: the names that run files can use, and the options of an algorithm or environment."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, Field, fields
from typing import Any, get_type_hints

from rich.console import Console
from rich.table import Table

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.options import meaning
from sharegrpo_rl.tune.nested_options import TABLES
from sharegrpo_rl.tune.peer_names import suggestion

TOPICS = ("algorithms", "environments", "examples", "transforms", "rewards")


def print_listing(what: str | None, of: str | None) -> None:
    """Print one topic, or all of them; UserError for a topic that does not exist."""
    console = Console()
    if what == "options":
        console.print(options_table(of))
        return
    if what is not None and what not in TOPICS:
        raise UserError(f"list {what}: no such topic{suggestion(what, TOPICS)} (topics: {', '.join(TOPICS)}, options)")
    for topic in [what] if what else TOPICS:
        table = Table(title=topic, title_justify="left", show_header=False, box=None, padding=(0, 2))
        for name, doc in _entries(topic):
            table.add_row(name, doc)
        console.print(table)
        console.print()


def _entries(topic: str) -> Iterable[tuple[str, str]]:
    if topic == "algorithms":
        from sharegrpo_rl.presets import ALGORITHM_OPTIONS, PRESETS

        for name, options in ALGORITHM_OPTIONS.items():
            presets = ", ".join(PRESETS.get(name, {}))
            yield name, f"{_first_line(options)}{f' Presets: {presets}' if presets else ''}"
    elif topic == "environments":
        from sharegrpo_rl.envs.registry import ENVIRONMENTS

        yield from ((name, spec.doc) for name, spec in ENVIRONMENTS.items())
    elif topic == "examples":
        from sharegrpo_rl.tune.examples import list_examples

        yield from ((name, _comment(path.read_text(encoding="utf-8"))) for name, path in list_examples().items())
    elif topic == "transforms":
        from sharegrpo_rl.data.transforms import TRANSFORMS

        yield from ((name, transform.sentence) for name, transform in TRANSFORMS.items())
    else:
        from sharegrpo_rl.rewards.rubric import REWARDS

        yield from ((name, _first_line(reward)) for name, reward in REWARDS.items())


def options_table(name: str | None) -> Table:
    """Every option of an algorithm, an environment or a nested table: default, meaning, unit, bounds, source."""
    from sharegrpo_rl.envs.registry import ENVIRONMENTS
    from sharegrpo_rl.presets import ALGORITHM_OPTIONS

    known = [*ALGORITHM_OPTIONS, *ENVIRONMENTS, *TABLES]
    if name not in known:
        what = f"no options of {name!r}{suggestion(name, known)}" if name else "say of what"
        raise UserError(f"list options: {what} (known: {', '.join(known)})")
    options: Any = ALGORITHM_OPTIONS.get(name) or TABLES.get(name) or ENVIRONMENTS[name].options
    hints = get_type_hints(options)
    table = Table(title=f"options of {name}", title_justify="left")
    for heading in ("option", "type", "default", "meaning"):
        table.add_column(heading, overflow="fold")
    for entry in fields(options):
        table.add_row(entry.name, _type_name(hints[entry.name]), _default(entry), meaning(entry))
    return table


def _default(entry: Field) -> str:
    value = entry.default_factory() if entry.default_factory is not MISSING else entry.default
    return "null" if value is None else str(value)


def _type_name(hint: Any) -> str:
    return str(hint).replace("<class '", "").replace("'>", "").replace("None", "null")


def _first_line(thing: Any) -> str:
    return (getattr(thing, "__doc__", None) or "").strip().split("\n")[0]


def _comment(text: str) -> str:
    return text.splitlines()[0].removeprefix("#").strip() if text.startswith("#") else ""
