"""Files of responses: rows in order, a summary, and errors that name file and row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.grader import grade_file


def write(path: Path, *rows: dict[str, Any] | str) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_rows_in_order_and_a_summary(tmp_path: Path) -> None:
    path = write(
        tmp_path / "r.jsonl",
        {"response": "<answer>5</answer>", "gold": "5", "label": True},
        "",
        {"response": "\\boxed{4}", "gold": 5, "label": True},
        {"response": "The answer is B", "gold": "x", "choices": ["y", "x"]},
    )
    *rows, last = grade_file(path)
    assert [row["row"] for row in rows] == [1, 2, 3]
    assert [row["score"] for row in rows] == [1.0, 0.0, 1.0]
    assert all(set(row) == {"row", "score", "extracted", "reason"} for row in rows)
    assert last == {"summary": {"rows": 3, "correct": 2, "labelled": 2, "agree": 1, "errors": 0}}
    json.dumps([*rows, last])


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"response": "x"}, "gold"),
        ({"response": "x", "gold": None}, "gold"),
        ({"response": "x", "gold": " "}, "gold"),
        ({"gold": "x"}, "response"),
        ('{"response": "x", ', "JSON"),
        ("[1, 2]", "object"),
        ({"response": "x", "gold": "1", "choices": "AB"}, "choices"),
        ({"response": "x", "gold": "1", "precision": "two"}, "precision"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, row: dict[str, Any] | str, named: str) -> None:
    path = write(tmp_path / "bad.jsonl", {"response": "5", "gold": "5"}, row)
    with pytest.raises(UserError) as raised:
        list(grade_file(path))
    message = str(raised.value)
    assert "bad.jsonl" in message
    assert "row 2" in message
    assert named in message
    assert "\n" not in message


def test_a_missing_file_and_an_unknown_mode_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.jsonl"):
        list(grade_file(tmp_path / "none.jsonl"))
    path = write(tmp_path / "r.jsonl", {"response": "5", "gold": "5"})
    with pytest.raises(UserError, match="guess"):
        list(grade_file(path, "guess"))


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    path.write_bytes(b'{"response": "\xff\xfe"}')
    with pytest.raises(UserError, match=r"b\.jsonl, row 1"):
        list(grade_file(path))
