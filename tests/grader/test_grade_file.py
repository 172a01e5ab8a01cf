"""Files of responses: rows in order, a summary, and errors that name file and row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.grader import AnswerKey, grade_file, print_grades
from sharegrpo_rl.grader import grading as grading_module
from sharegrpo_rl.grader.key import Match


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
    assert all(set(row) == {"row", "score", "extracted", "reason", "kind"} for row in rows)
    assert [row["kind"] for row in rows] == ["text", "number", "option"]
    assert last == {"summary": {"rows": 3, "correct": 2, "labelled": 2, "agree": 1, "errors": 0}}
    json.dumps([*rows, last])


def test_a_row_that_the_grader_fails_on_is_counted_and_the_next_ones_are_graded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compare = grading_module._compare

    def fails_on_3(answer: str, key: AnswerKey) -> Match:
        if answer == "3":
            raise IndexError("list index out of range")
        return compare(answer, key)

    monkeypatch.setattr(grading_module, "_compare", fails_on_3)
    path = write(tmp_path / "r.jsonl", *({"response": f"<answer>{i}</answer>", "gold": "4"} for i in (3, 4, 3, 4)))
    *rows, last = grade_file(path)
    assert [row["score"] for row in rows] == [0.0, 1.0, 0.0, 1.0]
    assert ["unexpected: IndexError" in row.get("error", "") for row in rows] == [True, False, True, False]
    assert last["summary"]["errors"] == 2
    assert last["summary"]["errors_by_kind"] == {"unexpected": 2}
    print_grades(path, "auto", as_json=False)
    assert capsys.readouterr().out.endswith("rows 4, correct 2, labelled 0, agree 0, errors 2 (2 unexpected)\n")


def test_many_rows_stay_in_order(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", *({"response": f"<answer>{i}</answer>", "gold": str(i)} for i in range(200)))
    *rows, _ = grade_file(path)
    assert [row["extracted"] for row in rows] == [str(i) for i in range(200)]


def test_rows_before_a_bad_line_come_first(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", *[{"response": "5", "gold": "5"}] * 3, "[]")
    graded = grade_file(path)
    assert [next(graded)["row"] for _ in range(3)] == [1, 2, 3]
    with pytest.raises(UserError, match="row 4"):
        next(graded)


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
