"""A file read in place, whose rows stay on disk."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any


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
