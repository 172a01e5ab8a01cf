"""A JSONL file with random access: the offset of each line is kept, the text stays in the memory-mapped file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharegrpo_rl.data.mapped_file import MappedFile
from sharegrpo_rl.errors import UserError

_CHUNK = 1 << 24
_BOM = b"\xef\xbb\xbf"


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
            row = json.loads(self._file.content[start:end].removeprefix(_BOM))
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
        while chunk := file.read(_CHUNK):
            breaks.append(np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n")) + size)
            size += len(chunk)
        newlines = np.concatenate(breaks)
        spans = np.stack([np.append(0, newlines + 1), np.append(newlines, size)], axis=1)
        filled = spans[:, 1] > spans[:, 0]
        for number in np.flatnonzero(spans[:, 1] - spans[:, 0] == 1):  # an empty line that ends in CR LF
            file.seek(spans[number, 0])
            filled[number] = file.read(1) != b"\r"
    return spans[filled], np.flatnonzero(filled) + 1
