"""What every kind of table offers: rows with random access, each with a name for error messages."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol


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
