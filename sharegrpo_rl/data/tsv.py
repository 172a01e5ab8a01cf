"""A TSV file with random access: tab-separated, quoted as pandas writes it, one header line; rows stay in the file."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharegrpo_rl.data.mapped_file import MappedFile
from sharegrpo_rl.errors import UserError

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
