"""Which files of a data set hold `train` and which `test`, by their names.

A folder: `train.jsonl`, `test.parquet`, `train-00000-of-00002.parquet`, `geometry_train.jsonl`, in the folder itself,
in its `data/`, or in folders named `train/` and `test/`. A validation split replaces a missing test. A file: its own
split, and next to it the file of the other split. If there is only one kind of file, `test_fraction` divides it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from sharegrpo_rl.errors import UserError

SUFFIXES = (".jsonl", ".parquet")
_WORDS = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "validation": ("validation", "valid", "val", "dev"),
}
SPLIT_WORDS = {"train": (_WORDS["train"],), "test": (_WORDS["test"], _WORDS["validation"])}  # best first
_EVERY_WORD = [word for words in _WORDS.values() for word in words]
# `-00000-of-00002`, until 2023 with a digest behind it; `_3`, `.part2`
_SHARD = re.compile(r"(?:^|[-_.])(?:(?:part|shard)[-_.]?)?(\d+)(?:-of-(\d+)(?:-[0-9a-f]{6,40})?)?$")


@dataclass(frozen=True)
class SplitFiles:
    """The files of one split, in order; `shared` = they hold both splits, and a fraction of the rows is the test."""

    files: tuple[Path, ...]
    shared: bool = False


def find_split(data: Path, split: str, test_fraction: float | None = None) -> SplitFiles:
    """The files of `train` or `test`; UserError naming the folder and what is missing."""
    if split not in SPLIT_WORDS:
        raise UserError(f"unknown split {split!r}; choose train or test")
    splits = _tables_in(data) if data.is_dir() else _tables_beside(data)
    if not splits:
        raise UserError(
            f"no {' or '.join(SUFFIXES)} file in {data}{_unread(data, split)}; put train and test files there"
        )
    for words in SPLIT_WORDS[split]:
        if files := tuple(path for path, name in splits.items() if name == words[0]):
            has_test = any(name in ("test", "validation") for name in splits.values())
            return SplitFiles(_one_table(files), shared=test_fraction is not None and not has_test)
    if test_fraction is None:
        names = ", ".join(path.name for path in list(splits)[:5])
        raise UserError(
            f"{data} has no {split} split (found {names}{_unread(data, split)}): name the files train.* and test.*, "
            "or set env_config.test_fraction, for example 0.1"
        )
    for name in ("train", None):
        if files := tuple(path for path, named in splits.items() if named == name):
            return SplitFiles(_one_table(files), shared=True)
    raise UserError(f"{data} has no training file that could be divided; add train.jsonl or train.parquet")


def _unread(data: Path, split: str) -> str:
    """What to say of files that are named like the split and are of another kind; nothing where there are none."""
    folder = data if data.is_dir() else data.parent
    names = [
        p.name for p in sorted(folder.iterdir()) if p.is_file() and _split_named(p.name.partition(".")[0]) == split
    ]
    others = [name for name in names if not name.endswith(SUFFIXES)]
    return f"; {', '.join(others[:5])} is not read: write it as .jsonl, a row a line, or .parquet" if others else ""


def _tables_in(folder: Path) -> dict[Path, str | None]:
    """Every data file of the folder, with the split in its name, else in its subfolder's."""
    splits: dict[Path, str | None] = {}
    for parent in (folder, folder / "data", *(folder / word for word in _EVERY_WORD)):
        for path in sorted(parent.iterdir()) if parent.is_dir() else ():
            if path.suffix in SUFFIXES and path.is_file() and not path.name.startswith("."):
                splits[path] = _split_named(path.stem) or (_split_named(parent.name) if parent != folder else None)
    return splits


def _tables_beside(file: Path) -> dict[Path, str | None]:
    """The file and, where its name has a split, the files that differ from it by split word and shard only."""
    if file.suffix not in SUFFIXES:
        raise UserError(f"{file} is no data file; accepted are {' and '.join(SUFFIXES)}")
    if _split_named(file.stem) is None:
        return {file: None}
    same = [path for path in sorted(file.parent.glob(f"*{file.suffix}")) if _base_name(path) == _base_name(file)]
    return {path: _split_named(path.stem) for path in same}


def _split_named(text: str) -> str | None:
    """`train`, `test` or `validation`; None where the text has no such word, or several."""
    parts = set(re.split(r"[-_.]", text.lower()))
    named = [split for split, words in _WORDS.items() if parts & set(words)]
    return named[0] if len(named) == 1 else None


def _base_name(path: Path) -> str:
    """The file's name without shard number and split word."""
    return re.sub(rf"(?:^|(?<=[-_.]))(?:{'|'.join(_EVERY_WORD)})(?=$|[-_.])", "*", without_shard(path).lower())


def without_shard(path: Path) -> str:
    """The file's name without its ending and the number of its shard."""
    return _SHARD.sub("", path.stem)


def shard_count(path: Path) -> int | None:
    """How many shards the file's name speaks of; None where it does not."""
    shard = _SHARD.search(path.stem)
    return int(shard.group(2)) if shard and shard.group(2) else None


def _one_table(files: tuple[Path, ...]) -> tuple[Path, ...]:
    """The files, if they are the complete shards of one table; UserError otherwise."""
    if len({(path.parent, without_shard(path), path.suffix) for path in files}) > 1:
        names = ", ".join(path.name for path in files[:5])
        raise UserError(f"{files[0].parent} holds several tables ({names}); name one file instead of the folder")
    count = shard_count(files[0])
    if count is not None and count != len(files):
        what, remedy = (
            ("of", "add the others") if len(files) < count else ("files for", "remove those of another table")
        )
        raise UserError(f"{files[0].parent} holds {len(files)} {what} {count} shards; {remedy}")
    return files
