import json
import pickle
import unicodedata
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sharegrpo_rl.data.bank_check import RowCheck, check_bank
from sharegrpo_rl.data.loading import TableBank, load_bank
from sharegrpo_rl.data.types import SeedQuestion
from sharegrpo_rl.errors import UserError


def ids(bank: TableBank) -> list[str]:
    return [bank[index].id for index in range(len(bank))]


def rows_of(count: int, row) -> list[dict]:
    return [row(id=f"r{i}", question=f"How many dots are in picture {i}?") for i in range(count)]


def test_a_folder_gives_both_splits(make_set, row) -> None:
    folder = make_set(rows_of(5, row))
    for split in ("train", "test"):
        bank = load_bank(str(folder), split)
        assert (bank.name, bank.split, len(bank)) == (str(folder), split, 5)
        assert bank[3].question == "How many dots are in picture 3?"
        assert bank[3].images[0].open().size == (8, 6)


def test_a_file_inside_data_finds_its_images(make_set, row) -> None:
    folder = make_set(rows_of(3, row), files=("data/train.jsonl", "data/test.jsonl"))
    check_bank(load_bank(str(folder), "train"))
    (folder / "data/images").mkdir()
    (folder / "data/images/a.png").write_bytes((folder / "images/a.png").read_bytes())
    check_bank(load_bank(str(folder / "data/train.jsonl"), "train"))


def test_parquet_and_jsonl_give_the_same_fingerprints(make_set, row, tmp_path: Path, picture: bytes) -> None:
    folder = make_set(rows_of(2, row))
    other = tmp_path / "parquet"
    other.mkdir()
    table = pa.Table.from_pylist([row(id=i, image={"bytes": picture, "path": "x.png"}) for i in range(2)])
    pq.write_table(table, other / "train-00000-of-00001.parquet")
    mine, theirs = load_bank(str(folder), "train"), load_bank(str(other), "train")
    prints = {bank[i].images[0].fingerprint() for bank in (mine, theirs) for i in range(2)}
    assert len(prints) == 1


def test_one_file_is_divided_without_overlap(make_set, row) -> None:
    folder = make_set(rows_of(30, row), files=("questions.jsonl",))
    train, test = (ids(load_bank(str(folder), split, test_fraction=0.2)) for split in ("train", "test"))
    assert (len(train), len(test)) == (24, 6)
    assert set(train) | set(test) == {f"r{i}" for i in range(30)}
    with pytest.raises(UserError, match=r"test_fraction is 1\.5"):
        load_bank(str(folder), "train", test_fraction=1.5)
    with pytest.raises(UserError, match="no question left"):
        load_bank(str(folder), "train", test_fraction=1.0)


def test_ids_are_made_from_row_numbers(make_set) -> None:
    folder = make_set([{"question": "1 + 1?", "answer": 2}] * 3)
    assert ids(load_bank(str(folder), "train")) == ["train-0", "train-1", "train-2"]


def test_banks_travel_by_pickle(make_set, row) -> None:
    bank = load_bank(str(make_set(rows_of(9, row))), "train")
    again = pickle.loads(pickle.dumps(bank))
    assert [again[i] for i in range(5)] == [bank[i] for i in range(5)]
    assert again.location(2) == bank.location(2)


def test_places_beyond_the_end_are_refused(make_set, row) -> None:
    bank = load_bank(str(make_set(rows_of(3, row))), "train")
    with pytest.raises(IndexError):
        bank[3]


def test_extra_wordings(make_set, row) -> None:
    folder = make_set([row(question="How many dots are there?", subtask="dots")])
    assert load_bank(str(folder), "train")[0].variants == ()
    assert "Count the dots." in load_bank(str(folder), "train", template_wordings=True)[0].variants
    (folder / "question_variants.json").write_text(json.dumps({"dots": ["Tell the number of dots."]}))
    assert load_bank(str(folder), "train")[0].variants == ("Tell the number of dots.",)


@pytest.mark.parametrize("data", ["missing", "data/mnist_pairs", "./missing", "missing.jsonl"])
def test_a_missing_data_set_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str) -> None:
    monkeypatch.chdir(tmp_path)
    data = str(tmp_path / data) if data == "missing" else data
    with pytest.raises(UserError, match=r"missing|mnist_pairs") as caught:
        load_bank(data, "train")
    assert "env_config.data" in str(caught.value)


def test_an_empty_data_set_is_named(make_set) -> None:
    with pytest.raises(UserError, match=r"empty has no rows"):
        load_bank(str(make_set([], name="empty")), "train")
    with pytest.raises(UserError, match=r"env_config\.data"):
        load_bank("", "train")


def walk(folder: Path, *checks: RowCheck) -> None:
    check_bank(load_bank(str(folder), "train"), *checks)


@pytest.mark.parametrize(
    ("make_bad", "words"),
    [
        (lambda folder: None, ["images/b.png", "not there"]),
        (
            lambda folder: (folder / "images/b.png").write_bytes((folder / "images/a.png").read_bytes()[:45]),
            ["images/b.png", "truncated"],
        ),
        (lambda folder: (folder / "images/b.png").symlink_to("/etc/hostname"), ["images/b.png", "outside"]),
    ],
)
def test_a_bad_image_names_row_and_file(make_set, row, make_bad, words: list[str]) -> None:
    folder = make_set([*rows_of(4, row), row(id="bad", image="images/b.png")])
    make_bad(folder)
    with pytest.raises(UserError) as caught:
        walk(folder)
    assert all(word in str(caught.value) for word in [*words, "train.jsonl line 5", "id bad"])


def test_a_bad_image_in_a_table_names_its_row(tmp_path: Path, row, picture: bytes) -> None:
    images = [{"bytes": picture, "path": "a.png"}, {"bytes": picture[:45], "path": "b.png"}]
    pq.write_table(
        pa.Table.from_pylist([row(id=f"r{i}", image=images[i]) for i in range(2)]), tmp_path / "train.parquet"
    )
    with pytest.raises(UserError) as caught:
        walk(tmp_path)
    text = str(caught.value)
    assert all(word in text for word in ["b.png", "train.parquet row 1", "id r1", "truncated"])
    assert text.count("train.parquet row 1") == 1


def test_a_bad_truth_names_its_row(make_set, row) -> None:
    def check(question: SeedQuestion) -> None:
        if question.answer == "?":
            raise UserError("the answer '?' cannot be graded")

    folder = make_set([*rows_of(2, row), row(id="bad", answer="?")])
    with pytest.raises(UserError, match=r"train\.jsonl line 3, id bad: the answer '\?'"):
        walk(folder, check)


def test_images_found_whole_are_not_decoded_again(
    make_set, row, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sharegrpo_rl.data.bank_check._WORTH_KEEPING", 1)
    folder = make_set(rows_of(3, row))
    walk(folder)
    (kept,) = (own_cache / "checked_images").iterdir()
    assert len(kept.read_text().split()) == 1
    kept.write_bytes(b"\xff damaged")
    walk(folder)
    (folder / "images/a.png").write_bytes(b"changed")
    with pytest.raises(UserError, match=r"a\.png"):
        walk(folder)


def test_one_file_named_train_is_divided_without_overlap(make_set, row) -> None:
    folder = make_set(rows_of(30, row), files=("train.jsonl",))
    train, test = (ids(load_bank(str(folder), split, test_fraction=0.2)) for split in ("train", "test"))
    assert (len(train), len(test), set(train) & set(test)) == (24, 6, set())


def test_a_parquet_file_may_have_a_long_name(tmp_path: Path, row) -> None:
    pq.write_table(pa.Table.from_pylist([row(image=None)]), tmp_path / f"train-{'é' * 110}.parquet")
    assert len(load_bank(str(tmp_path), "train")) == 1


@pytest.mark.parametrize(("on_disk", "asked"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_the_accents_of_a_path_may_be_written_either_way(make_set, row, on_disk: str, asked: str) -> None:
    folder = make_set(rows_of(2, row), name=unicodedata.normalize(on_disk, "déjà"))
    check_bank(load_bank(str(folder.parent / unicodedata.normalize(asked, "déjà")), "train"))


def saved(rows: list[dict], folder: Path, *splits: str) -> Path:
    table = datasets.Dataset.from_list(rows)
    (datasets.DatasetDict(dict.fromkeys(splits, table)) if splits else table).save_to_disk(str(folder))
    return folder


def test_folders_of_save_to_disk_are_read(tmp_path: Path, row, picture: bytes) -> None:
    rows = [row(id=f"r{i}", image={"bytes": picture, "path": None}) for i in range(10)]
    folder = saved(rows, tmp_path / "both", "train", "validation")
    for split in ("train", "test"):
        bank = load_bank(str(folder), split)
        check_bank(bank)
        assert ids(bank) == [f"r{i}" for i in range(10)]
    folder = saved(rows, tmp_path / "one")
    with pytest.raises(UserError, match="has no test split"):
        load_bank(str(folder), "test")
    train, test = (ids(load_bank(str(folder), split, test_fraction=0.2)) for split in ("train", "test"))
    assert (len(train), len(test), set(train) & set(test)) == (8, 2, set())


def test_a_damaged_folder_of_save_to_disk_is_named(tmp_path: Path, row) -> None:
    folder = saved([row(image=None)], tmp_path / "one")
    next(folder.glob("*.arrow")).unlink()
    with pytest.raises(UserError, match=r"one: not a whole folder of save_to_disk"):
        load_bank(str(folder), "train")


def test_the_walk_says_what_was_converted(make_set, row, caplog) -> None:
    folder = make_set([row(id=f"r{i}", answer=f"<think>x</think><answer>{i}</answer>") for i in range(3)])
    report = check_bank(load_bank(str(folder), "train"))
    assert report.lines == ("ground truths taken out of <answer> tags: 3",)
    report.log()
    assert caplog.messages == [f"{folder} (train), 3 rows: ground truths taken out of <answer> tags: 3"]


def test_the_walk_says_nothing_of_plain_rows(make_set, row, caplog) -> None:
    report = check_bank(load_bank(str(make_set(rows_of(3, row))), "train"))
    report.log()
    assert (report.lines, caplog.messages) == ((), [])


@pytest.mark.parametrize("change", [{"answer": "4"}, {"question": "Why?"}, {"unit": "cm"}, {"own_column": 1}, None])
def test_the_digest_is_of_all_that_a_run_may_read(make_set, row, change) -> None:
    folder = make_set(rows_of(3, row))

    def digest() -> str:
        return check_bank(load_bank(str(folder), "train")).digest

    before = digest()
    assert digest() == before
    if change is None:
        (picture := next(folder.rglob("*.png"))).write_bytes(picture.read_bytes() + b"more")
    else:
        lines = (folder / "train.jsonl").read_text().splitlines()
        lines[1] = json.dumps(json.loads(lines[1]) | change)
        (folder / "train.jsonl").write_text("\n".join(lines))
    assert digest() != before


def test_the_walk_names_equal_ids_and_rows_without_a_picture(make_set, row) -> None:
    folder = make_set([row(), row(question="How many red dots?"), row(id="r1", image=None)])
    without, repeated = check_bank(load_bank(str(folder), "train")).lines
    assert without == "rows without a picture, unlike the others: 1"
    assert repeated.startswith("ids that repeat, so that no page can show their pictures: 1, such as 'r0'")
    assert ids(load_bank(str(folder), "train", columns={"id": None})) == ["train-0", "train-1", "train-2"]
