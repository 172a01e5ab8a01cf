"""The tables of the papers: their figures, and for each row the run file that trains it and its tiny twin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.tune.peer_names import suggestion
from sharegrpo_rl.tune.yaml_loader import load_yaml_file

FOLDER = Path(__file__).with_name("paper_tables")


@dataclass(frozen=True)
class Recipe:
    """A run file by its short name, and what is set over it."""

    file: str
    sets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One row. Neither `full` nor `base` = quoted only; `tiny` trains the same difference on drawn shapes."""

    name: str
    paper: tuple[float | None, ...]
    full: Recipe | None = None
    tiny: Recipe | None = None
    base: str | None = None

    @property
    def slug(self) -> str:
        """The name as part of a folder's name."""
        words = "".join(c if c.isalnum() else " " for c in self.name.lower()).split()
        return "-".join(words)


@dataclass(frozen=True)
class PaperTable:
    """A table; `figures` names the columns of every row's `paper`."""

    name: str
    paper: str
    title: str
    figures: tuple[str, ...]
    measured_by: str
    rows: tuple[Row, ...]


def read_tables(folder: Path = FOLDER) -> dict[str, PaperTable]:
    """Every table by its name, `papers/share_grpo/table2`."""
    found = {}
    for path in sorted(folder.glob("*.yaml")):
        content = load_yaml_file(path)
        for key, table in content["tables"].items():
            name = f"papers/{path.stem}/{key}"
            rows = tuple(_row(row, len(table["figures"]), f"{name}, {row['name']}") for row in table["rows"])
            found[name] = PaperTable(
                name, content["paper"], table["title"], tuple(table["figures"]), content["measured_by"], rows
            )
    return found


def find_table(text: str, tables: Mapping[str, PaperTable]) -> PaperTable:
    """The table that a name means, with or without `papers/`; UserError where there is none."""
    name = text.removesuffix("/")
    for candidate in (name, f"papers/{name}"):
        if candidate in tables:
            return tables[candidate]
    raise UserError(
        f"{text}: no such table{suggestion(name, tables)}; `sharegrpo-rl reproduce` without a name lists them all"
    )


def _row(row: Mapping[str, Any], figures: int, where: str) -> Row:
    if len(row["paper"]) != figures:
        raise ValueError(f"{where}: {len(row['paper'])} figures for {figures} columns")
    full = Recipe(row["file"], tuple(row.get("set", ()))) if "file" in row else None
    twin = row.get("tiny")
    tiny = Recipe(twin["file"], tuple(twin.get("set", ()))) if twin else None
    return Row(row["name"], tuple(row["paper"]), full, tiny, row.get("base"))
