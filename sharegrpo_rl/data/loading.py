"""One walk over a bank before training, so that bad rows are found at once and not after hours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sharegrpo_rl.data.benchmarks.layout import find_layout
from sharegrpo_rl.data.benchmarks.table import open_benchmark
from sharegrpo_rl.data.images import CheckedImages
from sharegrpo_rl.data.rows import Columns, RowReader, read_shared_wordings
from sharegrpo_rl.data.splits import find_split
from sharegrpo_rl.data.tables import (
    ChainedTable,
    JsonlTable,
    ParquetTable,
    Table,
    hub_split,
    load_hub,
    looks_like_hub_name,
)
from sharegrpo_rl.data.types import QuestionBank, SeedQuestion
from sharegrpo_rl.data.variants import derive_seed
from sharegrpo_rl.errors import UserError

# ---- `load_bank`: a data set named by a folder, a file or a hub name -> a bank of questions, rows read when asked for.


class TableBank:
    """A QuestionBank over a table; `order` [questions] holds row numbers. Picklable, and cheap to open elsewhere."""

    def __init__(self, name: str, split: str, table: Table, reader: RowReader, order: NDArray[np.int64]) -> None:
        self.name = name
        self.split = split
        self.reader = reader
        self._table = table
        self._order = order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> SeedQuestion:
        row = int(self._order[index])
        return self.reader.read(
            self._table[row],
            default_id=f"{self.split}-{row}",
            place=self._table.place(row),
            folder=self._table.folder(row),
        )

    def place(self, index: int) -> str:
        """File and line or row of a question, for error messages."""
        return self._table.place(int(self._order[index]))

    def part(self, start: int, stop: int | None = None) -> TableBank:
        """The questions `start` to `stop` as a bank of their own."""
        return TableBank(self.name, self.split, self._table, self.reader, self._order[start:stop])


def load_bank(
    data: str,
    split: str,
    *,
    columns: Mapping[str, str | None] | None = None,
    max_questions: int | None = None,
    subset_seed: int = 0,
    offset: int = 0,
    test_fraction: float | None = None,
    template_wordings: bool = False,
    hub_config: str | None = None,
    benchmark: str | None = None,
) -> TableBank:
    """The `train` or `test` split of a data set; UserError names the file or folder and what to do.

    `max_questions` draws that many rows by `subset_seed`, kept in file order; `offset` then skips the first ones.
    `test_fraction` divides the rows of a data set that has one file only, the same way in every run.
    `template_wordings` adds rule-based wordings to questions that fit a template.
    `benchmark` names the layout of a published file (`data/benchmarks/layout.py`), which then also chooses the split.
    """
    table: Table
    if benchmark is None:
        table, root, shared = _open_table(data, split, test_fraction, hub_config)
    else:
        shared = False
        table, root = open_benchmark(data, find_layout(benchmark), split, hub_config)
    if len(table) == 0:
        raise UserError(f"data set {data} has no rows in its {split} split; add some or name another data set")
    order = np.arange(len(table))
    if shared:
        order = _share(len(table), split, test_fraction or 0.0)
    if max_questions is not None and max_questions < len(order):
        rng = np.random.default_rng(derive_seed("subset", subset_seed))
        order = np.sort(rng.choice(order, size=max(max_questions, 0), replace=False))
    order = order[offset:]
    if len(order) == 0:
        raise UserError(
            f"data set {data} has no question left in its {split} split "
            f"(rows {len(table)}, max_questions {max_questions}, offset {offset}, test_fraction {test_fraction})"
        )
    folders = dict.fromkeys([root, table.folder(0)])
    reader = RowReader(Columns(columns), root, read_shared_wordings(list(folders)), template_wordings)
    return TableBank(data, split, table, reader, order)


def _open_table(data: str, split: str, test_fraction: float | None, hub_config: str | None) -> tuple[Table, Path, bool]:
    """The table, the folder that its images must stay in, and whether it holds both splits."""
    if not isinstance(data, str) or not data.strip():
        raise UserError("env_config.data is empty; name a folder, a file or a hub data set")
    path = Path(data).expanduser()
    if path.exists():
        found = find_split(path, split, test_fraction)
        tables = [JsonlTable(file) if file.suffix == ".jsonl" else ParquetTable(file) for file in found.files]
        root = path if path.is_dir() else path.parent
        return tables[0] if len(tables) == 1 else ChainedTable(tables), root.absolute(), found.shared
    if not looks_like_hub_name(data):
        raise UserError(
            f"data set {data} is not there (looked for {path.absolute()}); set env_config.data to its folder or file"
        )
    splits = load_hub(data, hub_config)
    own, train = hub_split(splits, split), hub_split(splits, "train")
    if own is None and (train is None or test_fraction is None):
        raise UserError(
            f"hub data set {data} has no {split} split (found {', '.join(splits)}); "
            "set env_config.test_fraction, for example 0.1, or name another data set"
        )
    table = own if own is not None else train
    assert table is not None
    return table, table.folder(0), own is None


def _share(rows: int, split: str, test_fraction: float) -> NDArray[np.int64]:
    """Row numbers of one split of a table that holds both; the draw depends on the number of rows alone."""
    if not 0 < test_fraction <= 1:
        raise UserError(f"env_config.test_fraction is {test_fraction}; give a share above 0 and at most 1, such as 0.1")
    shuffled = np.random.default_rng(derive_seed("test share", rows)).permutation(rows)
    held_out = max(1, round(rows * test_fraction))
    return np.sort(shuffled[:held_out] if split == "test" else shuffled[held_out:])


def check_bank(
    bank: QuestionBank,
    *,
    check_truth: Callable[[SeedQuestion], None] | None = None,
    limit: int | None = None,
) -> None:
    """Reads every row (or the first `limit`), decodes every distinct image, and has each ground truth checked.

    UserError names the file, the row, its id and the image. Images that an earlier walk found whole are not decoded
    again: they are known by their content.
    """
    if len(bank) == 0:
        raise UserError(f"data set {bank.name} has no questions in its {bank.split} split; add rows or name another")
    checked = CheckedImages(str(Path(bank.name).expanduser().absolute()))
    for index in range(len(bank) if limit is None else min(limit, len(bank))):
        question = bank[index]
        with _naming_row(bank, index, question):
            if check_truth is not None:
                check_truth(question)
            for image in question.images:
                checked.check(image)
    checked.save()


@contextmanager
def _naming_row(bank: QuestionBank, index: int, question: SeedQuestion) -> Iterator[None]:
    """Put the row's place before whatever is wrong with it."""
    try:
        yield
    except UserError as error:
        place = getattr(bank, "place", None)  # generated questions stand in no file
        where = place(index) if place else f"{bank.name} ({bank.split}) question {index}"
        known = where in str(error)
        raise UserError(str(error) if known else f"{where}, id {question.id}: {error}") from None
