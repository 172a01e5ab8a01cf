"""`result.json`: one JSON object an iteration, appended durably, cut back to a checkpoint on resume."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sharegrpo_rl.errors import UserError


def as_json(value: Any) -> Any:
    """A copy made of JSON values alone: numpy scalars become numbers, NaN and infinities null, anything else text."""
    if isinstance(value, Mapping):
        return {str(key): as_json(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray):
        return as_json(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [as_json(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)


class ResultLog:
    """The lines of one `result.json`, in memory and on disk alike."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self._ends: list[int] = []  # byte offset behind each line, so that a cut leaves the lines before it untouched
        if path.exists():
            self._read()

    def __len__(self) -> int:
        return len(self.rows)

    def _read(self) -> None:
        content = self.path.read_bytes()
        start = 0
        while (end := content.find(b"\n", start)) >= 0:  # what follows the last newline is a line cut short by a kill
            row = self._parse(content[start:end])
            if row is None:
                break
            self.rows.append(row)
            self._ends.append(end + 1)
            start = end + 1

    def _parse(self, line: bytes) -> dict[str, Any] | None:
        try:
            row = json.loads(line)
        except ValueError:
            return None
        return row if isinstance(row, dict) and row.get("training_iteration") == len(self.rows) + 1 else None

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one line and wait until the disk has it; iterations must follow each other."""
        expected = len(self.rows) + 1
        if row.get("training_iteration") != expected:
            raise RuntimeError(f"iteration {row.get('training_iteration')} follows {expected - 1} results")
        line = json.dumps(row, allow_nan=False).encode() + b"\n"
        start = self._ends[-1] if self._ends else 0
        with self.path.open("r+b" if self.path.exists() else "w+b", buffering=0) as file:
            file.seek(start)
            file.truncate()  # a torn line from before
            try:
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
                os.fsync(file.fileno())
            except OSError:
                file.truncate(start)
                raise
        self.rows.append(dict(row))
        self._ends.append(start + len(line))

    def cut_back(self, iteration: int, row: Mapping[str, Any] | None = None) -> None:
        """Keep the lines up to `iteration`; `row` is its own line, for a kill that came before it was written."""
        if len(self.rows) == iteration - 1 and row is not None:
            self.append(row)
        if len(self.rows) < iteration:
            raise UserError(
                f"{self.path}: holds {len(self.rows)} iterations but the checkpoint is from iteration {iteration}; "
                "the run cannot go on, begin another with --name"
            )
        del self.rows[iteration:], self._ends[iteration:]
        if self.path.exists():
            with self.path.open("r+b") as file:
                file.truncate(self._ends[-1] if self._ends else 0)
                os.fsync(file.fileno())

    def mean(self, *path: str) -> float | None:
        """Mean of one metric over all iterations that have it; None where none has."""
        values = [value for row in self.rows if isinstance(value := _at(row, path), int | float)]
        return sum(values) / len(values) if values else None

    def highest(self, *path: str) -> float | None:
        """Largest value of one metric over all iterations that have it; None where none has."""
        return max((value for row in self.rows if isinstance(value := _at(row, path), int | float)), default=None)

    def total(self, *path: str) -> float:
        """Sum of one metric over all iterations."""
        return sum(value for row in self.rows if isinstance(value := _at(row, path), int | float))


def _at(row: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        row = row.get(key) if isinstance(row, Mapping) else None
    return row
