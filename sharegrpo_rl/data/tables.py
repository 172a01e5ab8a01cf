"""Tables whose rows stay on disk until they are read: JSONL, TSV and parquet files, and tables of the `datasets` library
(of the hub by name, or from a folder of `save_to_disk`).
"""

from __future__ import annotations

import json
import logging
import mmap
import os
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

from sharegrpo_rl.data.splits import SPLIT_WORDS, SUFFIXES
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.files import cache_folder, cached_file, file_identity

MAX_ROW_BYTES = 512_000_000
_CHUNK = 1 << 24  # bytes of a text file that are searched for line ends at once
_BOM = b"\xef\xbb\xbf"
_BATCH_ROWS = 64  # rows of one Arrow batch, which is read as a whole
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?")
_LONGEST_STEM = 120  # bytes of a file's name that its copy in the cache keeps; file systems take 255 in all


class Table(Protocol):
    """Rows with random access. Tables are picklable; another process opens the files again."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...

    def location(self, index: int) -> str:
        """The row's file and line or row number, for error messages."""

    def folder(self, index: int) -> Path:
        """The folder that the row's image paths are relative to."""


def open_table(path: Path) -> Table:
    """The table in a file, by its suffix: .jsonl, .tsv or .parquet."""
    if path.suffix == ".jsonl":
        return JsonlTable(path)
    return TsvTable(path) if path.suffix == ".tsv" else ParquetTable(path)


def open_tables(paths: Sequence[Path]) -> Table:
    """One or several files as one table."""
    tables = [open_table(path) for path in paths]
    return tables[0] if len(tables) == 1 else ChainedTable(tables)


class ChainedTable:
    """Several tables one after the other, as one."""

    def __init__(self, tables: Sequence[Table]) -> None:
        self._tables = list(tables)
        self._ends = list(accumulate(len(table) for table in self._tables))

    def __len__(self) -> int:
        return _last(self._ends)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, row = _locate(self._ends, index)
        return self._tables[number][row]

    def location(self, index: int) -> str:
        """The file and the row within it."""
        number, row = _locate(self._ends, index)
        return self._tables[number].location(row)

    def folder(self, index: int) -> Path:
        """The folder of the row's file."""
        number, row = _locate(self._ends, index)
        return self._tables[number].folder(row)


def _locate(ends: list[int], index: int) -> tuple[int, int]:
    """(part, row within it) of a row of the whole; `ends` [parts] are the rows up to each part's end."""
    number = bisect_right(ends, index)
    return number, index - (ends[number - 1] if number else 0)


def _last(ends: list[int]) -> int:
    return ends[-1] if ends else 0


class _FileTable:
    """What all tables of one file share; rows are counted from 0, as table tools do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def location(self, index: int) -> str:
        """File and row."""
        return f"{self.path} row {index}"

    def folder(self, index: int) -> Path:
        """The file's folder."""
        return self.path.parent


class _TextTable(_FileTable):
    """Records of a text file, read from the memory-mapped file by their byte spans [records, 2].

    A mapped file that another program writes anew ends the process where it became shorter, and gives pieces of other
    rows where it did not. So each access first looks whether the file is still the one that was indexed.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._map: mmap.mmap | None = None
        self._mapped: tuple[int, ...] = ()  # the mapped file's identity; in each process its own
        self._size: int | None = None  # of the file whose spans these are
        try:
            self._spans, self._lines = self._index()
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}") from None

    def __len__(self) -> int:
        return len(self._spans)

    @property
    def _content(self) -> mmap.mmap:
        if self._map is None:
            with self.path.open("rb") as file:
                self._mapped = _identity(os.fstat(file.fileno()))
                self._check_same(self._size in (None, self._mapped[0]))
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                self._size = len(self._map)
        elif self.path.exists():  # a file that was removed stays mapped
            self._check_same(_identity(self.path.stat()) == self._mapped)
        return self._map

    def _check_same(self, same: bool) -> None:
        if not same:
            raise UserError(
                f"{self.path}: was written anew while it was read; start again, and write other data to a new file"
            )

    def _index(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The spans of the records that are not empty, and their numbers from 1, the empty ones counted."""
        if self.path.stat().st_size == 0:  # cannot be mapped
            return np.empty((0, 2), np.int64), np.empty(0, np.int64)
        _check_encoding(self.path, self._content[:4])
        spans = self._all_spans()
        filled = spans[:, 1] > spans[:, 0]
        for number in np.flatnonzero(spans[:, 1] - spans[:, 0] == 1):  # an empty line that ends in CR LF
            filled[number] = self._content[spans[number, 0]] != ord("\r")
        return spans[filled], np.flatnonzero(filled) + 1

    def _all_spans(self) -> NDArray[np.int64]:
        """The span of every record, empty ones too: here, of every line."""
        content = self._content
        line_ends = []
        for start in range(0, len(content), _CHUNK):
            data = np.frombuffer(content[start : start + _CHUNK], np.uint8)
            line_ends.append(np.flatnonzero(data == ord("\n")) + start)
        ends = np.append(np.concatenate(line_ends), len(content))
        return np.stack([np.append(0, ends[:-1] + 1), ends], axis=1)

    def _record(self, index: int) -> bytes:
        start, end = self._spans[index]
        return self._content[start:end].removeprefix(_BOM)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None}


class JsonlTable(_TextTable):
    """One JSON object a line; empty lines are skipped but counted in line numbers."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            row = json.loads(self._record(index).decode("utf-8"))
        except UnicodeDecodeError as error:
            raise UserError(not_utf8(self.location(index), error)) from None
        except (ValueError, RecursionError) as error:
            reason = f"{error.msg} at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else error
            raise UserError(f"{self.location(index)}: not valid JSON ({reason}); correct or delete the line") from None
        if not isinstance(row, dict):
            raise UserError(
                f"{self.location(index)}: a {type(row).__name__}, not an object; write one {{...}} on each line"
            )
        return row

    def location(self, index: int) -> str:
        """File and line, counted from 1."""
        return f"{self.path} line {self._lines[index]}"


class TsvTable(_TextTable):
    """Tab-separated rows {column: text} after a line of column names; an empty cell is None.

    Quoted as pandas reads it: a quote at the beginning of a cell opens it, so that it may hold tabs and line breaks; a
    quote anywhere else, such as an inch sign, is a character.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        if len(self._spans) == 0:
            raise UserError(f"{path} is empty; a TSV file begins with a line of column names")
        self.columns = self._cells(0, "header")
        if len(set(self.columns)) != len(self.columns) or "" in self.columns:
            raise UserError(f"{path}: its first line has an empty or repeated column name; write each once")

    def __len__(self) -> int:
        return len(self._spans) - 1

    def __getitem__(self, index: int) -> dict[str, Any]:
        cells = self._cells(index + 1, f"row {index}")
        if len(cells) != len(self.columns):
            raise UserError(
                f"{self.location(index)}: {len(cells)} cells, {len(self.columns)} columns; "
                "quote cells that hold tabs or line breaks"
            )
        return {name: cell or None for name, cell in zip(self.columns, cells, strict=True)}

    def _all_spans(self) -> NDArray[np.int64]:
        content = self._content
        start = len(_BOM) if content[: len(_BOM)] == _BOM else 0
        spans = []
        while start <= len(content):
            end = self._record_end(start)
            spans.append((start, end))
            start = end + 1
        return np.array(spans, np.int64)

    def _record_end(self, start: int) -> int:
        """Where the record that begins at `start` ends: the first line end outside of quoted cells."""
        content = self._content
        end = _find(content, b"\n", start)
        quote = start if content[start : start + 1] == b'"' else _next_quoted(content, start, end)
        while quote >= 0:
            close = _closing_quote(content, quote + 1)
            if close < 0:
                raise UserError(
                    f"{self.path}: a quote is left open (at byte {quote}); download or write the file again"
                )
            if close > end:
                end = _find(content, b"\n", close)
            quote = _next_quoted(content, close, end)
        return end

    def find(self, value: str) -> int | None:
        """The row whose first cell is `value`; None where there is none."""
        return self._rows_by_first_cell.get(value)

    @cached_property
    def _rows_by_first_cell(self) -> dict[str, int]:
        rows: dict[str, int] = {}
        for row, (start, end) in enumerate(self._spans[1:]):
            tab = self._content.find(b"\t", start, end)
            first = self._content[start : tab if tab >= 0 else end]
            rows.setdefault(first.decode("utf-8", "replace").strip('"'), row)
        return rows

    def _cells(self, record: int, name: str) -> list[str]:
        start, end = self._spans[record]
        if end - start > MAX_ROW_BYTES:
            raise UserError(f"{self.path} {name}: larger than {MAX_ROW_BYTES // 10**6} MB; is a quote left open?")
        try:
            return [cell.decode("utf-8") for cell in _split_cells(self._record(record).removesuffix(b"\r"))]
        except UnicodeDecodeError as error:
            raise UserError(not_utf8(f"{self.path} {name}", error)) from None

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in super().__getstate__().items() if key != "_rows_by_first_cell"}


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_size, status.st_mtime_ns, status.st_ino


def _find(content: mmap.mmap, what: bytes, start: int) -> int:
    """Where `what` stands next; the end of the content where it does not."""
    place = content.find(what, start)
    return len(content) if place < 0 else place


def _next_quoted(content: mmap.mmap, start: int, end: int) -> int:
    """Where the next quote stands that opens a cell, -1 without one."""
    tab = content.find(b'\t"', start, end)
    return tab + 1 if tab >= 0 else -1


def _closing_quote(text: mmap.mmap | bytes, start: int) -> int:
    """The next quote that is not doubled, -1 without one."""
    while (quote := text.find(b'"', start)) >= 0 and text[quote + 1 : quote + 2] == b'"':
        start = quote + 2
    return quote


def _split_cells(record: bytes) -> list[bytes]:
    """The cells of one record: quotes that enclose removed and doubled ones halved, what follows them kept."""
    if b'"' not in record:
        return record.split(b"\t")
    cells = []
    start = 0
    while start <= len(record):
        opened = b""
        if record[start : start + 1] == b'"':
            close = _closing_quote(record, start + 1)  # the record was cut where its quotes are closed
            opened = record[start + 1 : close].replace(b'""', b'"')
            start = close + 1
        tab = record.find(b"\t", start)
        end = len(record) if tab < 0 else tab
        cells.append(opened + record[start:end])
        start = end + 1
    return cells


def _check_encoding(path: Path, beginning: bytes) -> None:
    """UserError where a file begins as one in UTF-16 or UTF-32 does."""
    if beginning.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in beginning:
        wide = "UTF-32" if beginning[:4] in (b"\xff\xfe\0\0", b"\0\0\xfe\xff") else "UTF-16"
        raise UserError(
            f"{path} is {wide} text, as PowerShell's > writes it; write it as UTF-8: "
            f"iconv -f {wide} -t UTF-8 FILE > NEW_FILE"
        )


def not_utf8(where: str, error: UnicodeDecodeError) -> str:
    """What is wrong with a text that is not UTF-8, and what to do."""
    return (
        f"{where}: not UTF-8 (byte 0x{error.object[error.start]:02x}, as Latin-1 or Windows-1252 have it); "
        "write the file as UTF-8: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW_FILE"
    )


class ParquetTable(_FileTable):
    """Rows of one parquet file as Python values; image structs keep their encoded bytes.

    Parquet is compressed in large row groups, so that one row costs the reading of thousands. The file is therefore
    converted once to an Arrow file in the cache, which is memory-mapped.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._reader: Any = None  # pyarrow has no types
        self._batch: Any = None  # the one read last: neighbouring rows cost no second look-up
        self._batch_number = -1
        reader = self._opened()
        self._ends = list(accumulate(reader.get_batch(i).num_rows for i in range(reader.num_record_batches)))

    def __len__(self) -> int:
        return _last(self._ends)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, row = _locate(self._ends, index)
        if self._batch_number != number:
            self._batch = self._opened().get_batch(number)
            self._batch_number = number
        values: dict[str, Any] = self._batch.slice(row, 1).to_pylist()[0]
        return values

    def _opened(self) -> Any:
        if self._reader is None:
            self._reader = pa.ipc.open_file(pa.memory_map(str(_arrow_copy(self.path))))
        return self._reader

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reader": None, "_batch": None, "_batch_number": -1}


def _arrow_copy(path: Path) -> Path:
    """The Arrow file with the same rows, written to the cache where it is not there yet."""
    with _reading_errors(path):
        stem = path.stem.encode("utf-8", "surrogateescape")[:_LONGEST_STEM].decode("utf-8", "ignore")
        target = cache_folder("arrow") / f"{stem}-{file_identity(path)}.arrow"
        if target.exists():
            return target
        source = pq.ParquetFile(path)
    with (
        cached_file(target) as unfinished,
        pa.OSFile(str(unfinished), "wb") as file,
        pa.ipc.new_file(file, source.schema_arrow) as writer,
    ):
        for group in range(source.num_row_groups):  # one after the other: a reader of all groups keeps all in memory
            batches = source.iter_batches(batch_size=_BATCH_ROWS, row_groups=[group])
            while True:
                with _reading_errors(path):  # reading only: errors of writing to the cache are `cached_file`'s
                    batch = next(batches, None)
                if batch is None:
                    break
                writer.write_batch(batch)
    return target


@contextmanager
def _reading_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is not a readable parquet file ({first_line}); write or download it again") from None


class HubTable:
    """Rows of one split of a `datasets.Dataset`, which keeps them as memory-mapped Arrow files; images stay encoded."""

    def __init__(self, dataset: Any, name: str, folder: Path | None = None) -> None:
        """`folder` holds the images whose paths the rows give; None = the hub's cache."""
        import datasets

        for column, feature in dataset.features.items():
            inner = getattr(feature, "feature", feature)
            if isinstance(inner, datasets.Image):
                plain = datasets.Image(decode=False)
                dataset = dataset.cast_column(column, plain if inner is feature else datasets.List(plain))
        self._dataset = dataset
        self._name = name
        self._folder = Path(datasets.config.HF_CACHE_HOME) if folder is None else folder

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        values: dict[str, Any] = self._dataset[index]
        return values

    def arrow_tables(self, rows: int) -> Iterator[pa.Table]:
        """All rows in order as Arrow tables of at most `rows` rows, image files read into them."""
        from datasets.table import embed_table_storage

        description = self._dataset.features.arrow_schema.metadata
        for table in self._dataset.with_format("arrow").iter(batch_size=rows):
            yield embed_table_storage(table.replace_schema_metadata(description))

    def location(self, index: int) -> str:
        """Data set and row, counted from 0."""
        return f"{self._name} row {index}"

    def folder(self, index: int) -> Path:
        """The folder that holds the images whose paths `datasets` gives."""
        return self._folder


def looks_like_hub_name(data: str) -> bool:
    """`name` or `owner/name`; anything under `data/` or with a data file's suffix is read as a path."""
    return bool(_HUB_NAME.fullmatch(data)) and not data.startswith("data/") and not data.endswith(SUFFIXES)


def load_hub(name: str, config: str | None) -> dict[str, HubTable]:
    """The splits of a hub data set by name; UserError where it is unknown or the hub out of reach."""
    import datasets

    try:
        with _quiet_retries():
            splits = datasets.load_dataset(name, config)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise UserError(
            f"data set {name} is not here ({Path(name).absolute()}), and the hub does not provide it: {reason}; "
            "check the name or the path, or download it once where there is a network"
        ) from None
    return {split: HubTable(rows, f"{name} [{split}]") for split, rows in splits.items()}


def is_saved(path: Path) -> bool:
    """Is this a folder that `save_to_disk` of `datasets` wrote?"""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def load_saved(path: Path) -> dict[str, HubTable]:
    """The splits in a folder of `save_to_disk`; one that holds a single table calls it train."""
    import datasets

    try:
        saved = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, pa.ArrowException, datasets.exceptions.DatasetsError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise UserError(f"{path}: not a whole folder of save_to_disk ({reason}); save or copy it again") from None
    splits = saved if isinstance(saved, datasets.DatasetDict) else {"train": saved}
    return {str(split): HubTable(rows, f"{path} [{split}]", path.absolute()) for split, rows in splits.items()}


def hub_split(tables: dict[str, HubTable], split: str) -> HubTable | None:
    """The table of `train` or `test` (a validation split replaces a missing test); None if there is none."""
    return next((tables[word] for words in SPLIT_WORDS[split] for word in words if word in tables), None)


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
