"""A data set named on the Hugging Face hub, through `datasets`, which keeps it as memory-mapped Arrow files."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sharegrpo_rl.data.splits import SPLIT_WORDS, SUFFIXES
from sharegrpo_rl.errors import UserError

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
