"""A run's data is read once: what that found is kept while the files are the same, and never longer."""

import json
import os

import pytest
from PIL import Image

from sharegrpo_rl.algorithms import run_data
from sharegrpo_rl.algorithms.registry import build_config
from sharegrpo_rl.algorithms.run_data import check_run_data
from sharegrpo_rl.errors import UserError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Eight rows a split, with a picture each; the cache is the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "test"):
        for i in range(8):
            Image.new("RGB", (28, 28 + i)).save(data / f"{split}{i}.png")
        write(data / f"{split}.jsonl", [{"id": f"{split}{i}", "image": f"{split}{i}.png"} for i in range(8)])
    return data


def write(file, rows):
    plain = {"question": "How many dots?", "answer": "<answer>2</answer>"}
    file.write_text("".join(json.dumps(plain | row) + "\n" for row in rows))


@pytest.fixture
def walks(monkeypatch):
    """The walks over the data, each as the number of its banks; every look is that of a new process."""
    found = []
    check = run_data._check

    def counted(config, envs):
        found.append(len(envs))
        return check(config, envs)

    monkeypatch.setattr(run_data, "_check", counted)
    return found


def look(data, **options):
    run_data._REPORTS.clear()
    settings = {"env_config": {"data": str(data)}, **options}
    return check_run_data(build_config("GRPO", "MultimodalQA-v0", settings, 0))


def test_rows_are_read_once_while_nothing_changes(folder, walks, caplog):
    first = look(folder)
    assert set(first) == {"train", "test"}
    assert first["train"] != first["test"]
    assert look(folder) == first
    assert len(walks) == 1
    told = [message for message in caplog.messages if "<answer> tags: 8" in message]
    assert len(told) == 4  # of both splits, by both processes


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("what", ["row", "picture", "new file", "time alone"])
def test_what_changes_is_read_again_and_has_another_digest(folder, walks, split, what):
    before = look(folder)
    if what == "row":
        write(
            folder / f"{split}.jsonl",
            [{"id": f"{split}{i}", "image": f"{split}{i}.png", "answer": "3"} for i in range(8)],
        )
    elif what == "picture":
        Image.new("RGB", (28, 40)).save(folder / f"{split}3.png")
    elif what == "new file":
        (folder / "notes.txt").write_text("not a row")
    else:
        os.utime(folder / f"{split}3.png", (1, 1))
    after = look(folder)
    assert len(walks) == 2
    changed = {name for name in before if before[name] != after[name]}
    assert changed == ({split} if what in ("row", "picture") else set())


def test_a_picture_beside_a_single_file_counts(folder, walks):
    options = {"env_config": {"data": str(folder / "train.jsonl"), "test_fraction": 0.25}}
    before = look(folder, **options)
    Image.new("RGB", (28, 60)).save(folder / "train3.png")
    after = look(folder, **options)
    assert len(walks) == 2
    assert before != after


@pytest.mark.parametrize("options", [{"answer_format": "boxed"}, {"system_prompt": "Look."}, {"max_pixels": 100_000}])
def test_other_options_that_decide_prompts_or_formats_are_another_walk(folder, walks, options):
    assert look(folder) == look(folder, **options)
    assert len(walks) == 2


def test_a_bad_row_is_never_kept_as_good(folder, walks):
    write(folder / "test.jsonl", [{"id": "bad", "answer": "5 ### 6"}])
    for _ in range(2):
        with pytest.raises(UserError, match=r"test.jsonl line 1, id bad: .*does not earn its own reward"):
            look(folder, answer_format="steps")
    assert len(walks) == 2


def test_a_damaged_or_unwritable_cache_only_costs_another_walk(folder, walks, tmp_path, monkeypatch):
    first = look(folder)
    (kept,) = (tmp_path / "cache").rglob("checked_data/*.json")
    kept.write_text("[]")
    assert look(folder) == first
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert look(folder) == look(folder) == first
    assert len(walks) == 4


def test_sets_of_a_mixture_are_read_once_each_however_often_their_rows_come(folder, walks):
    sets = [{"data": str(folder), "weight": 9.0}, {"data": str(folder), "weight": 1.0}]
    digests = look(folder, env_config={"data": sets})
    assert digests["train"].count("+") == 1
    reports = next(iter(run_data._REPORTS.values()))
    assert [report.rows for report in reports["train"]] == [8, 8]


def test_generated_questions_have_no_digest(walks):
    assert check_run_data(build_config("GRPO", "DrawnShapes-v0", {}, 0)) == {}
    assert walks == []
