"""A published benchmark as a table: its file or hub name opened, each row in our own columns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from glob import escape
from pathlib import Path
from typing import Any

from sharegrpo_rl.data.benchmarks.cells import is_blank, text_of
from sharegrpo_rl.data.benchmarks.layout import Layout
from sharegrpo_rl.data.benchmarks.rows import COLUMN, BenchmarkFacts
from sharegrpo_rl.data.images import named_path
from sharegrpo_rl.data.splits import shard_count, without_shard
from sharegrpo_rl.data.tables import Table, TsvTable, is_saved, load_hub, load_saved, looks_like_hub_name, open_tables
from sharegrpo_rl.errors import UserError

SUFFIXES = (".tsv", ".parquet", ".jsonl")
LONGEST_REFERENCE = 64  # characters; VLMEvalKit takes a longer image cell for base64
IMAGE_COLUMNS = re.compile(r"(?:decoded_)?images?(?:_\d+)?")


class BenchmarkTable:
    """Rows of `table` as `layout` reads them; picklable where the table is."""

    def __init__(self, table: Table, layout: Layout) -> None:
        self.layout = layout
        self._table = table
        self._rows: Sequence[int] = range(len(table))
        if layout.row_splits and len(table) and "split" in table[0]:
            self._rows = [row for row in self._rows if table[row].get("split") in layout.row_splits]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        where = self.location(index)
        row = self._with_image(self._table[self._rows[index]], where)
        categories = self.layout.values(row, where)
        read = self.layout.read(row, where)
        facts = BenchmarkFacts(
            categories=categories,
            labels=read.pop("labels", {}),
            accepted_answers=tuple(read.pop("accepted_answers", ())),
            row={name: value for name, value in row.items() if not _is_image(name, value)},
        )
        kind = next((values[0] for values in categories.values() if len(values) == 1), None)
        return {**read, "subtask": kind, COLUMN: facts}

    def location(self, index: int) -> str:
        """The file and row, as the file counts it."""
        return self._table.location(self._rows[index])

    def folder(self, index: int) -> Path:
        """The folder of the row's file."""
        return self._table.folder(self._rows[index])

    def _with_image(self, row: dict[str, Any], where: str) -> dict[str, Any]:
        """The row with the image of the other row that a short image cell names by its index."""
        cell = row.get("image")
        if not isinstance(self._table, TsvTable) or is_blank(cell) or len(text_of(cell)) > LONGEST_REFERENCE:
            return row
        other = self._table.find(text_of(cell))
        image = None if other is None else self._table[other].get("image")
        if is_blank(image) or len(text_of(image)) <= LONGEST_REFERENCE:
            raise UserError(f"{where}: image {text_of(cell)!r} names no row that has an image; correct the row")
        return {**row, "image": image}


def _is_image(name: str, value: Any) -> bool:
    holds_bytes = isinstance(value, bytes) or (isinstance(value, dict) and isinstance(value.get("bytes"), bytes))
    return holds_bytes or (isinstance(value, str) and name == "image") or bool(IMAGE_COLUMNS.fullmatch(name))


def open_benchmark(data: str, layout: Layout, split: str, hub_config: str | None) -> tuple[BenchmarkTable, Path]:
    """The table and the folder that its images stay in. `split` "test" means the layout's own; others by their name."""
    names = layout.splits if split == "test" else (split,)
    path = named_path(data)
    if is_saved(path):
        splits = load_saved(path)
    elif path.exists():
        root = path if path.is_dir() else path.parent
        return BenchmarkTable(open_tables(_files(path, names)), layout), root.absolute()
    elif not looks_like_hub_name(data) or data.endswith(SUFFIXES):
        raise UserError(
            f"data set {data} is not there (looked for {path.absolute()}); name its file, folder or hub name"
        )
    else:
        splits = load_hub(data, hub_config or (layout.hub_config if data in layout.hub else None))
    if (name := next((name for name in names if name in splits), None)) is None:
        raise UserError(f"data set {data} has no split {names[0]} (found {', '.join(splits)}); choose one with --split")
    return BenchmarkTable(splits[name], layout), splits[name].folder(0)


def _files(path: Path, splits: Sequence[str]) -> list[Path]:
    """The file itself, with its shards; or the folder's files of the first split that it has."""
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise UserError(f"{path} is no benchmark file; accepted are {', '.join(SUFFIXES)}")
        return _shards([path, *sorted(path.parent.glob(f"{escape(without_shard(path))}-*{path.suffix}"))], path)
    folders = [folder for folder in (path, path / "data") if folder.is_dir()]
    files = sorted(file for folder in folders for file in folder.iterdir() if file.suffix in SUFFIXES)
    if len(files) == 1:
        return files
    for split in splits:
        if named := [file for file in files if split in re.split(r"[-_.]", file.stem)]:
            return _shards(named, named[0])
    names = ", ".join(file.name for file in files[:5]) or "no file"
    raise UserError(f"{path} has no {' or '.join(splits)} file (found {names}); name the file itself")


def _shards(files: Sequence[Path], first: Path) -> list[Path]:
    """The shards of the first file's table, all of them; the file alone where it is no shard."""
    count, base = shard_count(first), without_shard(first)
    if count is None:
        return [first]
    same = sorted({file for file in files if shard_count(file) == count and without_shard(file) == base})
    if len(same) != count:
        raise UserError(f"{first.parent} holds {len(same)} of {count} shards of {base}; add the others")
    return same
