"""The table of agreement, on rows made here: groups, counts, others beside it, and labels judged to be wrong."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "grader_agreement.py"
ROWS: dict[str, list[dict[str, Any]]] = {
    "suites/fractions.jsonl": [
        {"source": "fractions", "response": "<answer>1/2</answer>", "gold": "0.5", "label": 1},
        {"source": "fractions", "response": "\\boxed{2}", "gold": "0.5", "label": 0},
        {"source": "fractions", "response": "\\boxed{3}", "gold": "0.5", "label": 1},  # ours refuses it
        {"source": "fractions", "response": "The answer is 0.5.", "gold": "0.5", "label": 1},
        {"source": "fractions", "response": "The answer is 0.5.", "gold": "0.5", "label": None},
    ],
    "suites/own_attack_7.jsonl": [
        {"source": "own_attack_7", "response": "<answer>7 or 8</answer>", "gold": "7", "label": 0},
        {"source": "own_attack_7", "response": "<answer>7</answer>", "gold": "7", "label": 0},  # ours pays it
    ],
    "logs.jsonl": [
        {"source": "logs", "response": "\\boxed{B}", "gold": "x", "choices": ["y", "x"], "label": 1, "label_by": "me"},
        {"source": "logs", "response": "\\boxed{A}", "gold": "x", "choices": ["y", "x"], "label": 1, "label_by": "me"},
        {"source": "logs", "response": "no gold here", "gold": None, "label": 1, "label_by": "me"},
    ],
}


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("grader_agreement", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "grader_agreement", module)
    spec.loader.exec_module(module)
    judged = tmp_path / "judged.json"
    judged.write_text(json.dumps({"logs": {"2": "A is y"}}))
    monkeypatch.setattr(module, "JUDGED", judged)
    return module


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, rows in ROWS.items():
        path = tmp_path / "rows" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "rows"


def cells(text: str) -> dict[str, list[str]]:
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {line[0]: line[1:] for line in lines}


def test_groups_and_counts(script: ModuleType, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script.main([str(folder), "--alone", "--by", "source", "--by", "kind", "--list"])
    out = capsys.readouterr().out
    found = cells(out)
    assert found["tagged or boxed, public"] == ["3", "0 of 1 (0.0 %)", "1 of 2 (50.0 %)"]
    assert found["free prose, public"] == ["1", "-", "0 of 1 (0.0 %)"]
    assert found["own attacks"] == ["2", "1 of 2 (50.0 %)", "-"]
    assert found["older files, tagged or boxed"] == ["2", "0 of 1 (0.0 %)", "0 of 1 (0.0 %)"]
    assert found["fractions"] == ["4", "0 of 1 (0.0 %)", "1 of 3 (33.3 %)"]
    assert found["option"] == ["2", "0 of 1 (0.0 %)", "0 of 1 (0.0 %)"]
    assert "fractions.jsonl:3 refused" in out
    assert "own_attack_7.jsonl:2 paid" in out
    cost = json.loads(out.splitlines()[-1])
    assert cost["rows"] == 8
    assert cost["errors"] == {}


def test_math_verify_is_asked_about_the_same_rows(
    script: ModuleType, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script.main([str(folder / "suites" / "fractions.jsonl")])
    out = capsys.readouterr().out
    assert "math-verify: wrong paid | math-verify: right refused" in out
    assert cells(out)["tagged or boxed, public"][3:5] == ["0 of 1 (0.0 %)", "1 of 2 (50.0 %)"]


def test_one_that_raises_is_counted(
    script: ModuleType, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(row: object) -> bool:
        raise ValueError("no verdict")

    monkeypatch.setattr(script, "PEERS", {"broken": broken})
    script.main([str(folder)])
    out = capsys.readouterr().out
    assert cells(out)["tagged or boxed, public"][3:] == ["0 of 1 (0.0 %)", "2 of 2 (100.0 %)"]
    assert json.loads(out.splitlines()[-1])["raised"] == {"broken": 8}
