"""A JSONL file with random access: the offset of each line is kept, the text stays in the memory-mapped file."""

from __future__ import annotations

import json
import logging
import mmap
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sharegrpo_rl.data.cache import cache_folder, file_identity, replacing
from sharegrpo_rl.data.splits import SPLIT_WORDS, SUFFIXES
from sharegrpo_rl.errors import UserError

# ---- A data set named on the Hugging Face hub, through `datasets`, which keeps it as memory-mapped Arrow files.

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?")


def looks_like_hub_name(data: str) -> bool:
    """`name` or `owner/name`; anything under `data/` or with a data file's suffix is taken for a path."""
    return bool(_NAME.fullmatch(data)) and not data.startswith("data/") and not data.endswith(SUFFIXES)


class HubTable:
    """Rows of one split of a `datasets.Dataset`, images left encoded."""

    def __init__(self, dataset: Any, name: str) -> None:
        import datasets

        for column, feature in dataset.features.items():
            inner = getattr(feature, "feature", feature)
            if isinstance(inner, datasets.Image):
                plain = datasets.Image(decode=False)
                dataset = dataset.cast_column(column, plain if inner is feature else datasets.List(plain))
        self._dataset = dataset
        self._name = name
        self._folder = Path(datasets.config.HF_CACHE_HOME)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._dataset[index]

    def arrow_tables(self, rows: int) -> Iterator[Any]:
        """All rows in order as Arrow tables of at most `rows` rows, image files read into them."""
        from datasets.table import embed_table_storage

        description = self._dataset.features.arrow_schema.metadata
        for table in self._dataset.with_format("arrow").iter(batch_size=rows):
            yield embed_table_storage(table.replace_schema_metadata(description))

    def place(self, index: int) -> str:
        """Data set and row, counted from 0."""
        return f"{self._name} row {index}"

    def folder(self, index: int) -> Path:
        """The hub's cache: image paths that `datasets` gives lie inside it."""
        return self._folder


def load_hub(name: str, config: str | None) -> dict[str, HubTable]:
    """The splits of a hub data set under their own names; UserError where it is unknown or the hub out of reach."""
    import datasets

    try:
        with _quiet_retries():
            splits = datasets.load_dataset(name, config)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise UserError(
            f"data set {name} is not here ({Path(name).absolute()}), and the hub does not give it: {reason}; "
            "check the name or the path, or download it once where there is a network"
        ) from None
    return {split: HubTable(rows, f"{name} [{split}]") for split, rows in splits.items()}


@contextmanager
def _quiet_retries() -> Iterator[None]:
    """Without a network the hub's client warns of each try; the one error at the end says it all."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def hub_split(tables: dict[str, HubTable], split: str) -> HubTable | None:
    """The table of `train` or `test` (a validation split stands in for a missing test); None where there is none."""
    for words in SPLIT_WORDS[split]:
        for word in words:
            if word in tables:
                return tables[word]
    return None


# ---- A file read in place, whose rows stay on disk.


class MappedFile:
    """Mapped into memory when it is first read; picklable, as a copy maps it anew."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._map: mmap.mmap | None = None

    @property
    def content(self) -> mmap.mmap:
        """The file's bytes."""
        if self._map is None:
            with self.path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._map

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None}


# ---- A parquet file with random access: converted once to an Arrow file in the cache, then memory-mapped.
#
# Parquet is compressed in large row groups, so that one row costs the reading of thousands; an Arrow file is not.

_BATCH_ROWS = 64  # rows of one Arrow batch: what is looked up at once


class ParquetTable:
    """Rows of one parquet file as Python values; image structs keep their encoded bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader: Any = None
        self._batch: Any = None
        self._batch_number = -1  # of the batch that was read last: neighbouring rows cost no second look-up
        reader = self._opened()
        self._ends = list(accumulate(reader.get_batch(i).num_rows for i in range(reader.num_record_batches)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> dict[str, Any]:
        number = bisect_right(self._ends, index)
        start = self._ends[number - 1] if number else 0
        if self._batch_number != number:
            self._batch = self._opened().get_batch(number)
            self._batch_number = number
        return self._batch.slice(index - start, 1).to_pylist()[0]

    def place(self, index: int) -> str:
        """File and row, counted from 0 as table tools do."""
        return f"{self.path} row {index}"

    def folder(self, index: int) -> Path:
        """The file's folder."""
        return self.path.parent

    def _opened(self) -> Any:
        if self._reader is None:
            self._reader = pa.ipc.open_file(pa.memory_map(str(arrow_copy(self.path))))
        return self._reader

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reader": None, "_batch": None, "_batch_number": -1}


def arrow_copy(path: Path) -> Path:
    """The Arrow file with the same rows, written to the cache where it is not there yet."""
    try:
        target = cache_folder("arrow") / f"{path.stem}-{file_identity(path)}.arrow"
        if target.exists():
            return target
        source = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from None
    with (
        replacing(target) as unfinished,
        pa.OSFile(str(unfinished), "wb") as file,
        pa.ipc.new_file(file, source.schema_arrow) as writer,
    ):
        for group in range(source.num_row_groups):  # one after the other: a reader of all groups keeps all in memory
            batches = source.iter_batches(batch_size=_BATCH_ROWS, row_groups=[group])
            while (batch := _next_batch(batches, path)) is not None:
                writer.write_batch(batch)
    return target


def _next_batch(batches: Any, path: Path) -> Any:
    """The next batch or None; reading errors are told apart here from those of writing to the cache."""
    try:
        return next(batches, None)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> UserError:
    first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(f"{path} is not a readable parquet file ({first_line}); write or download it again")


# ---- What every kind of table offers: rows with random access, each with a name for error messages.


class Table(Protocol):
    """Rows that stay on disk until asked for. Tables are picklable; another process opens the files again."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...

    def place(self, index: int) -> str:
        """Where the row stands, for error messages: the file and the line or row."""

    def folder(self, index: int) -> Path:
        """The folder that the row's image paths are relative to."""


class ChainedTable:
    """Several files one after the other, as one table."""

    def __init__(self, tables: Sequence[Table]) -> None:
        self._tables = list(tables)
        self._ends = list(accumulate(len(table) for table in self._tables))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> dict[str, Any]:
        table, row = self._locate(index)
        return table[row]

    def place(self, index: int) -> str:
        """The file and the row within it."""
        table, row = self._locate(index)
        return table.place(row)

    def folder(self, index: int) -> Path:
        """The folder of the row's file."""
        table, row = self._locate(index)
        return table.folder(row)

    def _locate(self, index: int) -> tuple[Table, int]:
        number = bisect_right(self._ends, index)
        start = self._ends[number - 1] if number else 0
        return self._tables[number], index - start


# ---- A TSV file with random access: tab-separated, quoted as pandas writes it, one header line; rows stay in the file.

MAX_ROW_BYTES = 512_000_000
_CHUNK = 1 << 24
_BOM = b"\xef\xbb\xbf"
_NEWLINE, _QUOTE = ord("\n"), ord('"')


class TsvTable:
    """Each row is {column: text}; an empty cell is None. A quoted cell may hold tabs and line breaks."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = MappedFile(path)
        try:
            spans = _record_spans(path)
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
        if len(spans) == 0:
            raise UserError(f"{path} is empty; a TSV file begins with a line of column names")
        self.columns = self._cells(spans[0], "header")
        if len(set(self.columns)) != len(self.columns) or "" in self.columns:
            raise UserError(f"{path}: its first line has an empty or repeated column name; write each once")
        self._spans = spans[1:]

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, index: int) -> dict[str, Any]:
        cells = self._cells(self._spans[index], f"row {index}")
        if len(cells) != len(self.columns):
            raise UserError(
                f"{self.place(index)}: {len(cells)} cells, {len(self.columns)} columns; "
                "quote cells that hold tabs or line breaks"
            )
        return {name: cell or None for name, cell in zip(self.columns, cells, strict=True)}

    def place(self, index: int) -> str:
        """File and row, counted from 0 after the header as table tools do."""
        return f"{self.path} row {index}"

    def folder(self, index: int) -> Path:
        """The file's folder."""
        return self.path.parent

    def find(self, value: str) -> int | None:
        """The row whose first cell is `value`; None where there is none."""
        return self._by_first_cell.get(value)

    @cached_property
    def _by_first_cell(self) -> dict[str, int]:
        text = self._file.content
        found: dict[str, int] = {}
        for row, (start, end) in enumerate(self._spans):
            stop = text.find(b"\t", start, end)
            first = text[start : stop if stop >= 0 else end]
            found.setdefault(first.decode("utf-8", "replace").strip('"'), row)
        return found

    def _cells(self, span: NDArray[np.int64], what: str) -> list[str]:
        start, end = int(span[0]), int(span[1])
        if end - start > MAX_ROW_BYTES:
            raise UserError(f"{self.path} {what}: larger than {MAX_ROW_BYTES // 10**6} MB; is a quote left open?")
        try:
            record = self._file.content[start:end].removeprefix(_BOM).decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{self.path} {what}: not UTF-8 ({error.reason}); write the file as UTF-8") from None
        return _split(record.removesuffix("\r"))

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_by_first_cell"}


def _record_spans(path: Path) -> NDArray[np.int64]:
    """Byte spans [records, 2] of the lines that are not empty; a line break between quotes ends none."""
    breaks = [np.empty(0, np.int64)]
    size, open_quotes = 0, 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            data = np.frombuffer(chunk, np.uint8)
            newlines = np.flatnonzero(data == _NEWLINE)
            quotes = np.flatnonzero(data == _QUOTE)
            inside = (np.searchsorted(quotes, newlines) + open_quotes) % 2
            breaks.append(newlines[inside == 0] + size)
            open_quotes = (open_quotes + len(quotes)) % 2
            size += len(chunk)
        if open_quotes:
            raise UserError(f"{path}: a quote is left open; download or write the file again")
        ends = np.append(np.concatenate(breaks), size)
        spans = np.stack([np.append(0, ends[:-1] + 1), ends], axis=1)
        filled = spans[:, 1] > spans[:, 0]
        for number in np.flatnonzero(spans[:, 1] - spans[:, 0] == 1):  # an empty line that ends in CR LF
            file.seek(spans[number, 0])
            filled[number] = file.read(1) != b"\r"
    return spans[filled]


def _split(record: str) -> list[str]:
    """The cells of one record; quotes taken off, doubled ones halved."""
    if '"' not in record:
        return record.split("\t")
    cells: list[str] = []
    pending: list[str] = []
    open_quote = False
    for piece in record.split("\t"):
        pending.append(piece)
        open_quote ^= piece.count('"') % 2 == 1
        if not open_quote:
            cells.append(_unquoted("\t".join(pending)))
            pending = []
    return cells + (["\t".join(pending)] if pending else [])


def _unquoted(cell: str) -> str:
    if len(cell) >= 2 and cell[0] == cell[-1] == '"':
        return cell[1:-1].replace('""', '"')
    return cell


_jsonl_CHUNK = 1 << 24
_jsonl_BOM = b"\xef\xbb\xbf"


class JsonlTable:
    """One JSON object a line; empty lines are passed over but counted in line numbers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._spans, self._lines = _index_lines(path)
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
        self._file = MappedFile(path)

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> dict[str, Any]:
        start, end = self._spans[index]
        try:
            row = json.loads(self._file.content[start:end].removeprefix(_jsonl_BOM))
        except (ValueError, RecursionError) as error:
            reason = f"{error.msg} at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else error
            raise UserError(f"{self.place(index)}: not valid JSON ({reason}); correct or delete the line") from None
        if not isinstance(row, dict):
            raise UserError(
                f"{self.place(index)}: a {type(row).__name__}, not an object; write one {{...}} on each line"
            )
        return row

    def place(self, index: int) -> str:
        """File and line, counted from 1."""
        return f"{self.path} line {self._lines[index]}"

    def folder(self, index: int) -> Path:
        """The file's folder."""
        return self.path.parent


def _index_lines(path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Byte spans [rows, 2] of the lines that are not empty, and their numbers [rows] from 1."""
    breaks = [np.empty(0, np.int64)]
    size = 0
    with path.open("rb") as file:
        while chunk := file.read(_jsonl_CHUNK):
            breaks.append(np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n")) + size)
            size += len(chunk)
        newlines = np.concatenate(breaks)
        spans = np.stack([np.append(0, newlines + 1), np.append(newlines, size)], axis=1)
        filled = spans[:, 1] > spans[:, 0]
        for number in np.flatnonzero(spans[:, 1] - spans[:, 0] == 1):  # an empty line that ends in CR LF
            file.seek(spans[number, 0])
            filled[number] = file.read(1) != b"\r"
    return spans[filled], np.flatnonzero(filled) + 1
