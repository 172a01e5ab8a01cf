"""A parquet file with random access: converted once to an Arrow file in the cache, then memory-mapped.

Parquet is compressed in large row groups, so that one row costs the reading of thousands; an Arrow file is not.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sharegrpo_rl.data.cache import cache_folder, file_identity, replacing
from sharegrpo_rl.errors import UserError

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
