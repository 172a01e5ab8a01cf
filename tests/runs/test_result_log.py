"""result.json: JSON only, whole lines only, cut back without touching what stays."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.files import as_json
from sharegrpo_rl.runs.journal import ResultLog


def row(iteration: int, **more: float) -> dict:
    return {"training_iteration": iteration, "groups": more}


def test_values_become_json_and_nothing_else() -> None:
    value = {
        "a": np.float32(0.5),
        "b": float("nan"),
        "c": np.inf,
        "d": np.arange(3),
        "e": (1, None, True),
        3: np.int64(7),
        "f": ResultLog,
        "g": np.array(2.0),
    }
    clean = as_json(value)
    assert json.loads(json.dumps(clean, allow_nan=False)) == clean
    assert clean["a"] == 0.5
    assert clean["b"] is None
    assert clean["c"] is None
    assert clean["d"] == [0, 1, 2]
    assert clean["3"] == 7
    assert clean["g"] == 2.0


def test_lines_survive_a_new_start_and_a_torn_last_one_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    log = ResultLog(path)
    for i in (1, 2, 3):
        log.append(row(i, x=i / 3))
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"training_iteration": 4, "gro')
    again = ResultLog(path)
    assert again.rows == log.rows
    again.append(row(4))
    assert path.read_bytes() == whole + json.dumps(row(4)).encode() + b"\n"


def test_cut_back_leaves_earlier_lines_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(b'{"training_iteration":1,   "x": 0.10}\n{"training_iteration": 2}\n{"training_iteration": 3}\n')
    log = ResultLog(path)
    log.cut_back(1)
    assert path.read_bytes() == b'{"training_iteration":1,   "x": 0.10}\n'
    log.cut_back(2, row(2, y=1))
    assert [r["training_iteration"] for r in ResultLog(path).rows] == [1, 2]
    log.cut_back(0)
    assert path.read_bytes() == b""
    with pytest.raises(UserError, match="holds 0 iterations"):
        log.cut_back(3, row(3))


def test_iterations_follow_each_other(tmp_path: Path) -> None:
    log = ResultLog(tmp_path / "result.json")
    with pytest.raises(RuntimeError):
        log.append(row(2))


def test_means_and_totals_skip_what_is_missing(tmp_path: Path) -> None:
    log = ResultLog(tmp_path / "result.json")
    for i, x in ((1, 0.5), (2, None), (3, 1.0)):
        log.append(row(i, x=x) if x is not None else {"training_iteration": i, "groups": {"x": None}})
    assert log.mean("groups", "x") == 0.75
    assert sum(log.values("groups", "x")) == 1.5
    assert log.mean("groups", "y") is None
    assert log.mean("groups", "x", "deeper") is None
