"""The run folder: locked, atomic, and gone when nothing came of the run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.files import storage_errors, write_atomically
from sharegrpo_rl.runs.folder import RunFolder


def row(iteration: int) -> dict:
    return {"training_iteration": iteration, "x": 1.0}


def save(path: str) -> None:
    (Path(path) / "weights").write_text("w")


def test_a_folder_without_results_is_removed_with_the_parents_it_made(tmp_path: Path) -> None:
    with RunFolder.claim(tmp_path / "a" / "b", "run") as folder:
        folder.write_json("params.json", {"x": 1})
        assert (tmp_path / "a" / "b" / "run" / "params.json").exists()
    assert not (tmp_path / "a").exists()
    assert tmp_path.exists()


def test_a_folder_with_a_result_stays(tmp_path: Path) -> None:
    with RunFolder.claim(tmp_path, "run") as folder:
        folder.write_json("params.json", {})
        folder.results.append(row(1))
    assert (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize("storage", ["a_file", "a_file/runs"])
def test_a_file_in_the_way_is_named(tmp_path: Path, storage: str) -> None:
    (tmp_path / "a_file").write_text("")
    with pytest.raises(UserError, match="a_file"), RunFolder.claim(tmp_path / storage, "run"):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(UserError, match="locked"), RunFolder.claim(tmp_path / "locked", "run"):
        pass


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_named_and_a_torn_line_is_taken_back(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="full"), storage_errors(Path("/dev/full")):
        Path("/dev/full").write_text("x")
    with RunFolder.claim(tmp_path, "run") as folder:
        (folder.path / ".params.json.tmp").symlink_to("/dev/full")
        with pytest.raises(UserError, match="params"):
            folder.write_json("params.json", {"x": 1})
    assert not (tmp_path / "run").exists()


def test_errors_that_are_ours_stay_loud(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), storage_errors(tmp_path):
        (tmp_path / "missing").read_text()


def test_two_processes_cannot_train_in_one_folder(tmp_path: Path) -> None:
    with RunFolder.claim(tmp_path, "run") as folder:
        folder.results.append(row(1))
        with pytest.raises(UserError, match="another process"), RunFolder.claim(tmp_path, "run"):
            pass
        assert len(RunFolder(tmp_path / "run").results) == 1
    with RunFolder.claim(tmp_path, "run"):
        pass


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "home" / "export").mkdir(parents=True)
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="home: holds other files"), RunFolder.claim(tmp_path, "home"):
        pass
    assert (tmp_path / "home" / "export").is_dir()
    assert (tmp_path / "home" / "thesis.tex").exists()


def test_checkpoints_appear_whole_or_not_at_all(tmp_path: Path) -> None:
    with RunFolder.claim(tmp_path, "run") as folder:
        folder.save_checkpoint(save, row(1), 2.5)

        def failing(path: str) -> None:
            save(path)
            raise RuntimeError("killed half-way")

        with pytest.raises(RuntimeError):
            folder.save_checkpoint(failing, row(2), 3.0)
        latest = folder.latest_checkpoint()
        assert latest is not None
        assert (latest.iteration, latest.seconds, latest.row) == (1, 2.5, row(1))
        assert [p.name for p in (folder.path / "checkpoints").iterdir()] == ["000001"]


def test_the_last_checkpoints_and_the_best_are_kept(tmp_path: Path) -> None:
    with RunFolder.claim(tmp_path, "run") as folder:
        for i in range(1, 8):
            folder.save_checkpoint(save, row(i), 0.0)
            folder.prune_checkpoints(keep=2, best=3)
        assert [int(p.name) for p in folder.checkpoint_paths()] == [3, 6, 7]


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    target = tmp_path / "summary.json"
    write_atomically(target, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(target, "\ud800")
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]


def test_an_export_replaces_the_older_one_as_a_whole(tmp_path: Path) -> None:
    with RunFolder.claim(tmp_path, "run") as folder:
        folder.replace_folder("export", save)
        (folder.path / "export" / "stale").write_text("x")
        folder.replace_folder("export", save)
        assert [p.name for p in (folder.path / "export").iterdir()] == ["weights"]
        folder.write_json("summary.json", {"nan": float("nan")})
        assert json.loads((folder.path / "summary.json").read_text()) == {"nan": None}


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc, where no folder can be made")
def test_a_place_that_takes_no_folders_is_named_with_the_remedy() -> None:
    with (
        pytest.raises(UserError, match=r"/proc/runs/x: cannot be made .*give another --storage-path"),
        RunFolder.claim(Path("/proc/runs"), "x"),
    ):
        pytest.fail("claimed")


def test_a_current_folder_that_was_removed_is_named_with_the_remedy(tmp_path: Path, monkeypatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with (
        pytest.raises(UserError, match=r"runs/x: cannot be made .*give another --storage-path"),
        RunFolder.claim(Path("runs"), "x"),
    ):
        pytest.fail("claimed")
