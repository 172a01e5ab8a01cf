"""Write the tables of options and presets into the docs, from the definitions in the code.

python docs/make_options_table.py           writes them
python docs/make_options_table.py --check   exit code 1 where a committed table is not current
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from sharegrpo_rl.config import Options, meaning
from sharegrpo_rl.config.names import PEER_NAMES
from sharegrpo_rl.config.option import type_words
from sharegrpo_rl.config.presets import ALGORITHM_OPTIONS, PRESETS
from sharegrpo_rl.config.run import TABLES
from sharegrpo_rl.envs.multimodal_qa import EnvOptions
from sharegrpo_rl.envs.registry import ENVIRONMENTS

DOCS = Path(__file__).resolve().parent
Row = tuple[str, ...]


def table(headings: Row, rows: Iterable[Row]) -> str:
    """A Markdown table; pipes inside cells are escaped."""
    lines = [headings, tuple("---" for _ in headings), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def option_rows(options: type[Options], without: Mapping[str, FieldInfo] | None = None) -> list[Row]:
    """A row for each field; those that `without` holds with the same default are left out."""
    without = without or {}
    return [
        (f"`{name}`", type_words(f.annotation), f"`{shown(default(f))}`", meaning(f, quote="`"))
        for name, f in options.fields().items()
        if name not in without or default(f) != default(without[name])
    ]


def default(field: FieldInfo) -> Any:
    value = field.get_default(call_default_factory=True)
    return {} if isinstance(value, Options) else value


def shown(value: Any) -> str:
    """A value as a run file would have it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {shown(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(shown, value)) + "]"
    return str(value) if value != "" else "''"


def options_table(options: type[Options], without: type[Options] | None = None) -> str:
    return table(("option", "type", "default", "meaning"), option_rows(options, without.fields() if without else None))


def presets_table(algorithm: str) -> str:
    """Every key that a preset of the algorithm sets, beside the default."""
    presets = PRESETS[algorithm]
    defaults = ALGORITHM_OPTIONS[algorithm].defaults()
    keys = dict.fromkeys(key for settings in presets.values() for key in settings)
    rows = [
        (f"`{key}`", *(f"`{shown(p[key])}`" if key in p else "" for p in presets.values()), f"`{shown(defaults[key])}`")
        for key in keys
    ]
    return table(("key", *(f"`{name}`" for name in presets), "default"), rows)


def peers_table() -> str:
    """Our keys with the names that other trainers use for them."""
    names: dict[str, list[str]] = {}
    for theirs, ours in PEER_NAMES.items():
        names.setdefault(ours, []).append(theirs)
    return table(("here", "elsewhere"), [(f"`{o}`", ", ".join(f"`{t}`" for t in names[o])) for o in sorted(names)])


def environment_tables() -> str:
    """What every environment has, then what each adds."""
    parts = [f"Every environment:\n\n{options_table(EnvOptions)}"]
    by_options: dict[type, list[str]] = {}
    for name, spec in ENVIRONMENTS.items():
        by_options.setdefault(spec.options, []).append(f"`{name}`")
    for options, names in by_options.items():
        parts.append(f"{', '.join(names)}:\n\n{options_table(options, EnvOptions)}")
    return "\n\n".join(parts)


BLOCKS: dict[str, tuple[str, Callable[[], str]]] = {
    "options-grpo": ("configuration.md", lambda: options_table(ALGORITHM_OPTIONS["GRPO"])),
    "options-share-grpo": (
        "configuration.md",
        lambda: options_table(ALGORITHM_OPTIONS["ShareGRPO"], ALGORITHM_OPTIONS["GRPO"]),
    ),
    "options-grpo-d": (
        "configuration.md",
        lambda: options_table(ALGORITHM_OPTIONS["GRPOD"], ALGORITHM_OPTIONS["GRPO"]),
    ),
    "options-step-grpo": (
        "configuration.md",
        lambda: options_table(ALGORITHM_OPTIONS["StepGRPO"], ALGORITHM_OPTIONS["GRPO"]),
    ),
    "options-sft": ("configuration.md", lambda: options_table(ALGORITHM_OPTIONS["SFT"])),
    **{
        f"options-{name.replace('_', '-')}": ("configuration.md", partial(options_table, TABLES[name]))
        for name in TABLES
    },
    "options-environments": ("configuration.md", environment_tables),
    "names-elsewhere": ("configuration.md", peers_table),
    "presets-grpo": ("algorithms/grpo.md", lambda: presets_table("GRPO")),
    "presets-grpo-d": ("algorithms/grpo_d.md", lambda: presets_table("GRPOD")),
    "presets-sft": ("algorithms/sft.md", lambda: presets_table("SFT")),
    "presets-step-grpo": ("algorithms/step_grpo.md", lambda: presets_table("StepGRPO")),
    "presets-share-grpo": ("algorithms/share_grpo.md", lambda: presets_table("ShareGRPO")),
}


def filled(text: str, name: str, content: str) -> str:
    """The page with the block `name` replaced; ValueError where the page has no such block."""
    pattern = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"no block {name}: <!-- begin {name} --> and <!-- end {name} --> on lines of their own")
    return pattern.sub(lambda found: f"{found[1]}{content}\n{found[2]}", text)


def stale_pages(write: bool) -> list[str]:
    """Pages whose tables are not current; `write` brings them up to date."""
    stale = []
    for page in dict.fromkeys(page for page, _ in BLOCKS.values()):
        path = DOCS / page
        old = new = path.read_text(encoding="utf-8")
        for name, (home, content) in BLOCKS.items():
            if home == page:
                new = filled(new, name, content())
        if new != old:
            stale.append(page)
            if write:
                path.write_text(new, encoding="utf-8")
    return stale


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where a table is not current")
    check = parser.parse_args().check
    stale = stale_pages(write=not check)
    print("\n".join(f"{'not current' if check else 'written'}: docs/{page}" for page in stale) or "all current")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
