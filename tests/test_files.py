"""errors.py and files.py: suggestions, versions, lines, replacement, locks."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from sharegrpo_rl.errors import UserError, closest, did_you_mean, package_version
from sharegrpo_rl.files import JsonLines, LockedError, locked, replacing, storage_errors, write_atomically, write_json


def test_a_misspelt_name_finds_the_known_one_whatever_its_case() -> None:
    known = ("num_questions", "DrawnShapes-v0")
    assert closest("num_question", known) == "num_questions"
    assert did_you_mean("drawnshape-v0", known) == "did you mean DrawnShapes-v0?"
    assert did_you_mean("zzz", known, f"known: {', '.join(known)}") == "known: num_questions, DrawnShapes-v0"
    assert closest(3, known) is None


def test_a_package_that_is_not_installed_has_no_version() -> None:
    assert package_version("numpy")
    assert package_version("no-such-distribution") is None


def test_rows_survive_and_a_torn_last_line_does_not_count(tmp_path: Path) -> None:
    file = JsonLines(tmp_path / "rows.jsonl")
    assert file.read(dict) == []
    file.append({"a": 1}, {"a": 2})
    with file.path.open("a") as raw:
        raw.write('{"a": 3')
    assert JsonLines(file.path).read(dict) == [{"a": 1}, {"a": 2}]
    again = JsonLines(file.path, sync=False)
    assert len(again) == 2
    again.append({"a": 4})
    assert file.path.read_text() == '{"a": 1}\n{"a": 2}\n{"a": 4}\n'


def test_a_damaged_line_is_named_or_ends_the_file(tmp_path: Path) -> None:
    file = JsonLines(tmp_path / "rows.jsonl")
    for damage in ("no json", "[]", '{"b": 1}', "\0\0"):
        file.path.write_text(f'{{"a": 1}}\n{damage}\n{{"a": 3}}\n')
        with pytest.raises(UserError, match=r"rows\.jsonl line 2: remove it"):
            file.read(lambda row: row["a"], "remove it")
        assert file.read(lambda row: row["a"]) == [1]
        file.append({"a": 2})
        assert file.read(lambda row: row["a"], "remove it") == [1, 2]


def test_cut_back_keeps_the_first_rows_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a":   0.10}\n{"a": 2}\n{"a": 3}\n{"a"')
    file = JsonLines(path)
    file.cut_back(2)
    assert path.read_bytes() == b'{"a":   0.10}\n{"a": 2}\n'
    file.append({"a": 4})
    assert len(file) == 3
    file.cut_back(0)
    assert path.read_bytes() == b""


def test_rows_that_find_no_space_leave_nothing_behind(tmp_path: Path) -> None:
    file = JsonLines(tmp_path / "rows.jsonl")
    file.append({"a": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (15, limits[1]))
    try:
        with pytest.raises(UserError, match=r"cannot be written .*; make room"), storage_errors(tmp_path, "make room"):
            file.append({"a": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.path.read_text() == '{"a": 1}\n'
    file.append({"a": 3})
    assert file.read(lambda row: row["a"]) == [1, 3]


def test_nothing_but_json_is_appended(tmp_path: Path) -> None:
    file = JsonLines(tmp_path / "rows.jsonl")
    with pytest.raises(ValueError, match="Out of range"):
        file.append({"a": 1}, {"a": float("nan")})
    assert not file.path.exists()


def test_a_folder_takes_the_place_of_the_older_one_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "export"
    for content in ("old", "new"):
        with replacing(target) as partial:
            partial.mkdir()
            (partial / content).write_text(content)
    assert [p.name for p in target.iterdir()] == ["new"]
    with pytest.raises(FileNotFoundError), replacing(target) as partial:
        (partial / "no folder was made").write_text("x")
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")] == [
        "deep",
        "deep/export",
        "deep/export/new",
    ]


def test_a_killed_process_leaves_a_partial_folder_that_the_next_one_removes(tmp_path: Path) -> None:
    (tmp_path / ".export.tmp").mkdir()
    (tmp_path / ".export.tmp" / "stale").write_text("x")
    with replacing(tmp_path / "export") as partial:
        assert not partial.exists()
        partial.mkdir()
    assert [p.name for p in tmp_path.iterdir()] == ["export"]


def test_text_bytes_and_json_are_replaced_in_one_step(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_atomically(target, b"\0\xff")
    assert target.read_bytes() == b"\0\xff"
    write_json(target, {"nan": float("nan"), "deep": {"x": (1,)}}, indent=1)
    assert json.loads(target.read_text()) == {"nan": None, "deep": {"x": [1]}}
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_lock_is_held_by_one_process_and_given_back_when_it_dies(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from sharegrpo_rl.files import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match="busy here"), locked(tmp_path, "busy here"):
            pass
        other.kill()
    with locked(tmp_path):
        pass
