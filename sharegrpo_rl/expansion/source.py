"""The data set to expand: its files one by one, each row raw and as a question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from sharegrpo_rl.data.columns import Columns, string_list
from sharegrpo_rl.data.images import ImageFile
from sharegrpo_rl.data.rows import SHARED_FILE, RowReader, read_question, read_shared_wordings
from sharegrpo_rl.data.splits import SplitFiles, find_split
from sharegrpo_rl.data.tables import HubTable, JsonlTable, ParquetTable, Table, hub_split, load_hub, looks_like_hub_name
from sharegrpo_rl.data.types import ImageSource, SeedQuestion
from sharegrpo_rl.errors import UserError

_ANY_SHARE = 0.5  # where one file holds both splits, all of it is expanded, however it is divided later


@dataclass(frozen=True)
class SourceFile:
    """One file (or hub split). `target`: its path in the new data set. The first `rows` rows are written there.

    `expanded` says whether the model is asked about them. `first` is the number of its first row within the split.
    """

    split: str
    target: Path
    table: Table
    rows: int
    first: int
    expanded: bool

    @property
    def on_disk(self) -> bool:
        """Whether this is a file of the user's, and no table of the hub's library."""
        return not isinstance(self.table, HubTable)


@dataclass(frozen=True)
class SourceRow:
    """A row of a file, raw and parsed; `text` is the question as the row has it, without choices of another column."""

    number: int
    raw: dict[str, Any]
    question: SeedQuestion
    text: str
    rewordings: tuple[str, ...]  # that the row has already


@dataclass(frozen=True)
class Source:
    """An opened data set; `root` is the folder that paths in it are relative to, `shared` its common wordings."""

    name: str
    root: Path
    files: tuple[SourceFile, ...]
    columns: Columns
    reader: RowReader
    shared: Path | None

    def read(self, file: SourceFile) -> Iterator[SourceRow]:
        """The rows that are written, in order; UserError names the file, the row and the column."""
        for number in range(file.rows):
            yield self.row(file, number)

    def row(self, file: SourceFile, number: int) -> SourceRow:
        """One row; UserError names the file, the row and the column."""
        raw, where = file.table[number], file.table.location(number)
        default_id = f"{file.split}-{file.first + number}"
        question = self.reader.read(raw, default_id=default_id, where=where, folder=file.table.folder(number))
        column, value = self.columns.require(raw, "question", where)
        text = read_question(value, f"{where}: {column}").text
        column, value = self.columns.pick(raw, "variants")
        return SourceRow(number, raw, question, text, string_list(value, f"{where}: {column}"))

    def check(self) -> str:
        """Read every row and image once, before anything is asked; returns a digest of questions, answers and images.

        UserError names the row and what is wrong with it.
        """
        digest = blake2b(digest_size=16)
        for file in self.files:
            for row in self.read(file):
                question = row.question
                try:
                    pictures = [_fingerprint(image, file.on_disk) for image in question.images]
                except UserError as error:
                    raise UserError(f"{file.table.location(row.number)}, id {question.id}: {error}") from None
                parts = (question.id, row.text, question.answer, question.solution or "", *row.rewordings, *pictures)
                digest.update("\0".join(parts).encode("utf-8", "surrogatepass") + b"\1")
        return digest.hexdigest()


def open_source(
    data: str,
    split: str,
    limit: int | None = None,
    columns: Mapping[str, str | None] | None = None,
    hub_config: str | None = None,
) -> Source:
    """The files of a folder, file or hub data set. `split`: train, test or all; the other split is carried over.

    `limit` keeps the first rows of each expanded split only. UserError where there is nothing to expand.
    """
    if not data.strip():
        raise UserError("DATA is empty; name a folder, a file or a hub data set")
    path = Path(data).expanduser()
    if path.exists():
        root = (path if path.is_dir() else path.parent).absolute()
        tables = _local_tables(path, root, split)
    elif looks_like_hub_name(data):
        root, tables = _hub_tables(data, hub_config)
    else:
        raise UserError(f"data set {data} is not there (looked for {path.absolute()}); name its folder or file")
    files = _files(tables, split, limit)
    if not any(file.rows for file in files if file.expanded):
        raise UserError(f"data set {data} has no rows in its {split} split; there is nothing to expand")
    folders = list(dict.fromkeys([root, *(file.table.folder(0) for file in files if len(file.table))]))
    shared = next((folder / SHARED_FILE for folder in folders if (folder / SHARED_FILE).is_file()), None)
    chosen = Columns(columns)
    reader = RowReader(chosen, root, read_shared_wordings(folders), templates=False)
    return Source(data, root, files, chosen, reader, shared)


def _local_tables(path: Path, root: Path, split: str) -> list[tuple[str, Path, Table]]:
    """(split, path in the new data set, table) of every file; a file that holds both splits counts as train."""
    splits: dict[str, SplitFiles] = {}
    errors: dict[str, UserError] = {}
    for name in ("train", "test"):
        try:
            splits[name] = find_split(path, name, _ANY_SHARE)
        except UserError as error:
            errors[name] = error
    if split in errors or not splits:
        raise errors.get(split) or errors["train"]
    if "test" in splits and splits["test"].shared:
        if split == "test":
            raise UserError(f"{path} has no separate file for the test split; expand --split train, or all")
        del splits["test"]
    return [
        (name, file.absolute().relative_to(root), JsonlTable(file) if file.suffix == ".jsonl" else ParquetTable(file))
        for name, files in splits.items()
        for file in files.files
    ]


def _hub_tables(data: str, config: str | None) -> tuple[Path, list[tuple[str, Path, Table]]]:
    splits = load_hub(data, config)
    named = [(name, hub_split(splits, name)) for name in ("train", "test")]
    tables: list[tuple[str, Path, Table]] = [
        (n, Path(f"{n}.parquet"), table) for n, table in named if table is not None
    ]
    if not tables:
        raise UserError(f"hub data set {data} has neither a train nor a test split (found {', '.join(splits)})")
    return next(iter(splits.values())).folder(0), tables


def _files(tables: list[tuple[str, Path, Table]], split: str, limit: int | None) -> tuple[SourceFile, ...]:
    files = []
    before = {"train": 0, "test": 0}
    for name, target, table in tables:
        expanded = split in (name, "all")
        rows = len(table)
        if expanded and limit is not None:
            rows = max(0, min(rows, limit - before[name]))
        files.append(SourceFile(name, target, table, rows, before[name], expanded))
        before[name] += len(table)
    return tuple(files)


def _fingerprint(image: ImageSource, on_disk: bool) -> str:
    if on_disk and isinstance(image, ImageFile) and Path(image.name).is_absolute():
        raise UserError(f"the image path {image.name} is absolute; make it relative to the data set's folder")
    return image.fingerprint()
