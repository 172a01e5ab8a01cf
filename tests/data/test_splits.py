from pathlib import Path

import pytest

from sharegrpo_rl.data.splits import find_split
from sharegrpo_rl.errors import UserError


def folder_with(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.mark.parametrize(
    ("names", "train", "test"),
    [
        (["train.jsonl", "test.jsonl", "README.md"], ["train.jsonl"], ["test.jsonl"]),
        (["train.parquet", "validation.parquet"], ["train.parquet"], ["validation.parquet"]),
        (["train.parquet", "val.parquet", "test.parquet"], ["train.parquet"], ["test.parquet"]),
        (["data/train.jsonl", "data/test.jsonl"], ["data/train.jsonl"], ["data/test.jsonl"]),
        (
            ["train/0000.parquet", "train/0001.parquet", "test/0000.parquet"],
            ["train/0000.parquet", "train/0001.parquet"],
            ["test/0000.parquet"],
        ),
        (
            [
                "data/train-00001-of-00002.parquet",
                "data/train-00000-of-00002.parquet",
                "data/test-00000-of-00001.parquet",
            ],
            ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
            ["data/test-00000-of-00001.parquet"],
        ),
        (
            ["train-00000-of-00002-0a1b2c3d4e5f6071.parquet", "train-00001-of-00002-91b2c3d4e5f60718.parquet"],
            ["train-00000-of-00002-0a1b2c3d4e5f6071.parquet", "train-00001-of-00002-91b2c3d4e5f60718.parquet"],
            None,
        ),
        (
            ["train.part1.jsonl", "train.part2.jsonl", "test_0.jsonl", "test_1.jsonl"],
            ["train.part1.jsonl", "train.part2.jsonl"],
            ["test_0.jsonl", "test_1.jsonl"],
        ),
        (["geo_train.jsonl", "geo_test.jsonl"], ["geo_train.jsonl"], ["geo_test.jsonl"]),
    ],
)
def test_splits_are_told_by_name(tmp_path: Path, names: list[str], train: list[str], test: list[str] | None) -> None:
    folder = folder_with(tmp_path / "test", *names)  # the data set's own folder may be called anything
    for split, files in (("train", train), *([("test", test)] if test else [])):
        assert find_split(folder, split).files == tuple(folder / file for file in files)
        assert not find_split(folder, split).shared


def test_a_file_finds_the_other_split_beside_it(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "a_train.jsonl", "a_test.jsonl", "b_train.jsonl", "b_test.jsonl")
    for given in ("a_train.jsonl", "a_test.jsonl"):
        assert find_split(folder / given, "train").files == (folder / "a_train.jsonl",)
        assert find_split(folder / given, "test").files == (folder / "a_test.jsonl",)


def test_one_file_is_divided_only_on_request(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "questions.jsonl")
    for data in (folder, folder / "questions.jsonl"):
        for split in ("train", "test"):
            with pytest.raises(UserError, match="test_fraction"):
                find_split(data, split)
            found = find_split(data, split, 0.1)
            assert (found.files, found.shared) == ((folder / "questions.jsonl",), True)


def test_a_missing_test_is_taken_from_train_on_request(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "train.jsonl")
    with pytest.raises(UserError, match=r"no test split \(found train\.jsonl\)"):
        find_split(folder, "test")
    assert find_split(folder, "test", 0.1).shared
    assert find_split(folder, "train", 0.1).shared
    assert not find_split(folder_with(tmp_path, "test.jsonl"), "train", 0.1).shared


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["README.md"], "no .jsonl or .parquet file"),
        (["train.jsonl", "train.parquet"], "several tables"),
        (["a_train.jsonl", "b_train.jsonl"], "several tables"),
        (["train-00000-of-00002.parquet"], "1 of 2 shards; add the others"),
        ([f"train-0000{i}-of-00002-{d * 8}.parquet" for i in (0, 1) for d in "ab"], "4 files for 2 shards"),
        (["test.jsonl"], "no train split"),
        (["test.jsonl", "train.json"], r"found test\.jsonl; train\.json is not read: write it as \.jsonl"),
        (["train.jsonl.gz", "train.csv"], r"no .* file in .*; train\.csv, train\.jsonl\.gz is not read"),
    ],
)
def test_what_is_unclear_is_refused(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_split(folder_with(tmp_path, *names), "train")


def test_other_files_and_splits_are_refused(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "train.csv", "train.jsonl")
    with pytest.raises(UserError, match=r"train\.csv"):
        find_split(folder / "train.csv", "train")
    with pytest.raises(UserError, match="unknown split 'dev'"):
        find_split(folder, "dev")
