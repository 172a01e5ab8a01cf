"""`load_bank`: a data set by folder, file or hub name -> a bank of questions whose rows are read on demand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sharegrpo_rl.data.benchmarks.layout import find_layout
from sharegrpo_rl.data.benchmarks.table import open_benchmark
from sharegrpo_rl.data.columns import Columns
from sharegrpo_rl.data.images import named_path
from sharegrpo_rl.data.rows import RowReader, read_shared_wordings
from sharegrpo_rl.data.splits import find_split
from sharegrpo_rl.data.tables import Table, hub_split, is_saved, load_hub, load_saved, looks_like_hub_name, open_tables
from sharegrpo_rl.data.types import SeedQuestion
from sharegrpo_rl.data.variants import derive_seed
from sharegrpo_rl.errors import UserError


class TableBank:
    """A QuestionBank over a table; `rows` [questions] holds row numbers. Picklable, and cheap to open elsewhere."""

    def __init__(self, name: str, split: str, table: Table, reader: RowReader, rows: NDArray[np.int64]) -> None:
        self.name = name
        self.split = split
        self._table = table
        self._reader = reader
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> SeedQuestion:
        row = int(self._rows[index])
        return self._reader.read(
            self._table[row],
            default_id=f"{self.split}-{row}",
            where=self._table.location(row),
            folder=self._table.folder(row),
        )

    def location(self, index: int) -> str:
        """File and line or row of a question, for error messages."""
        return self._table.location(int(self._rows[index]))


def load_bank(
    data: str,
    split: str,
    *,
    columns: Mapping[str, str | None] | None = None,
    test_fraction: float | None = None,
    template_wordings: bool = False,
    hub_config: str | None = None,
    benchmark: str | None = None,
) -> TableBank:
    """The `train` or `test` split of a data set; UserError names the file or folder and what to do.

    `test_fraction` divides the rows of a data set that has one file only, the same way in every run.
    `template_wordings` adds rule-based wordings to questions that fit a template.
    `benchmark` names the layout of a published file (`data/benchmarks/layout.py`), which then also chooses the split.
    """
    table: Table
    if benchmark is None:
        table, root, shared = _open(data, split, test_fraction, hub_config)
    else:
        table, root = open_benchmark(data, find_layout(benchmark), split, hub_config)
        shared = False
    if len(table) == 0:
        raise UserError(f"data set {data} has no rows in its {split} split; add some or name another data set")
    rows = _rows_of_split(len(table), split, test_fraction or 0.0) if shared else np.arange(len(table))
    if len(rows) == 0:
        raise UserError(
            f"data set {data} has no question left in its {split} split "
            f"(rows {len(table)}, test_fraction {test_fraction})"
        )
    wordings = read_shared_wordings(list(dict.fromkeys([root, table.folder(0)])))
    return TableBank(data, split, table, RowReader(Columns(columns), root, wordings, template_wordings), rows)


def _open(data: str, split: str, test_fraction: float | None, hub_config: str | None) -> tuple[Table, Path, bool]:
    """The table, the folder that its images must stay in, and whether it holds both splits."""
    if not isinstance(data, str) or not data.strip():
        raise UserError("env_config.data is empty; name a folder, a file or a hub data set")
    path = named_path(data)
    if is_saved(path):
        splits = load_saved(path)
    elif path.exists():
        split_files = find_split(path, split, test_fraction)
        root = path if path.is_dir() else path.parent
        return open_tables(split_files.files), root.absolute(), split_files.shared
    elif looks_like_hub_name(data):
        splits = load_hub(data, hub_config)
    else:
        raise UserError(
            f"data set {data} is not there (looked for {path.absolute()}); set env_config.data to its folder or file"
        )
    if (table := hub_split(splits, split)) is not None:
        divided = test_fraction is not None and hub_split(splits, "test") is None
        return table, table.folder(0), divided
    if test_fraction is None or (table := hub_split(splits, "train")) is None:
        raise UserError(
            f"data set {data} has no {split} split (found {', '.join(splits)}); "
            "set env_config.test_fraction, for example 0.1, or name another data set"
        )
    return table, table.folder(0), True


def _rows_of_split(rows: int, split: str, test_fraction: float) -> NDArray[np.int64]:
    """Row numbers of one split of a table that holds both; the draw depends on the number of rows alone."""
    if not 0 < test_fraction <= 1:
        raise UserError(f"env_config.test_fraction is {test_fraction}; give a share above 0 and at most 1, such as 0.1")
    shuffled = np.random.default_rng(derive_seed("test share", rows)).permutation(rows)
    held_out = max(1, round(rows * test_fraction))
    return np.sort(shuffled[:held_out] if split == "test" else shuffled[held_out:])
