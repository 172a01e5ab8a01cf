from collections import Counter
from pathlib import Path

import pytest

from sharegrpo_rl.data import easy_vqa
from sharegrpo_rl.data.bank_check import check_bank
from sharegrpo_rl.data.loading import load_bank

pytest.importorskip("easy_vqa", reason="the extra easy-vqa is not installed")


def test_one_command_writes_both_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert easy_vqa.main(["--out", str(tmp_path / "set"), "--train-images", "200", "--test-images", "50"]) == 0
    assert "train" in capsys.readouterr().out
    prints = {}
    for split, images in (("train", 200), ("test", 50)):
        bank = load_bank(str(tmp_path / "set"), split)
        check_bank(bank)
        questions = [bank[index] for index in range(len(bank))]
        prints[split] = {question.images[0].fingerprint() for question in questions}
        assert len(prints[split]) == images
        assert {question.subtask for question in questions} == {"colour", "shape", "yes_no"}
        assert min(len(question.wordings) for question in questions) >= 3
        closed = [question for question in questions if question.subtask == "yes_no"]
        kinds = Counter((" no" in question.question, question.answer) for question in closed)
        assert len(kinds) == 4
        assert max(kinds.values()) < 0.4 * len(closed)
        assert all(question.choices == ("yes", "no") for question in closed)
    assert not prints["train"] & prints["test"]


def test_the_same_seed_writes_the_same_file(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        easy_vqa.build(tmp_path / name, train_images=20, test_images=5, seed=seed)
    a, b, c = ((tmp_path / name / "train.parquet").read_bytes() for name in "abc")
    assert a == b != c


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert easy_vqa.main(["--out", str(tmp_path / "file"), "--train-images", "5", "--test-images", "5"]) == 2
    assert f"{tmp_path}/file: cannot be written" in capsys.readouterr().err
