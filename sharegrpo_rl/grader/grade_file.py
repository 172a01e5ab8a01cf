"""Grading a file of responses, row by row: the `grade` command."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.grader.grading import EXTRACT_MODES, ExtractMode, grade


def print_grades(file: Path, extract: str, as_json: bool) -> None:
    """Print a line for each row in order and the summary last; UserError names the file and row of a malformed one."""
    for entry in grade_file(file, extract):
        if as_json:
            line = json.dumps(entry, ensure_ascii=False)
        elif "summary" in entry:
            line = ", ".join(f"{name} {value}" for name, value in entry["summary"].items())
        else:
            answer = entry["extracted"] or "(no answer)"
            line = f"row {entry['row']}: {entry['score']:g}  {answer}  {entry['reason']}"
        sys.stdout.write(line + "\n")


def grade_file(path: Path, extract: str = "auto") -> Iterator[dict[str, Any]]:
    """Yield {"row", "score", "extracted", "reason"} for each row in order, from 1, and last {"summary": {...}}.

    The summary counts rows, correct, labelled, agree (of the labelled) and errors (rows that the grader failed on,
    which are in no other count but rows and labelled). Raises UserError for a bad line, naming the file and the row.
    """
    if extract not in EXTRACT_MODES:
        raise UserError(f"--extract {extract!r} is unknown; choose one of {', '.join(EXTRACT_MODES)}")
    summary = {"rows": 0, "correct": 0, "labelled": 0, "agree": 0, "errors": 0}
    for row, fields in _read_rows(Path(path)):
        verdict = grade(
            str(fields["response"]),
            str(fields["gold"]),
            extract=cast(ExtractMode, extract),
            **{name: fields.get(name) for name in ("choices", "question", "answer_type", "unit", "precision")},
        )
        is_right = verdict.score >= 0.5
        summary["rows"] += 1
        summary["errors"] += verdict.error is not None
        summary["correct"] += is_right
        if fields.get("label") is not None:
            summary["labelled"] += 1
            summary["agree"] += verdict.error is None and is_right == bool(fields["label"])
        line = {"row": row, "score": verdict.score, "extracted": verdict.extracted, "reason": verdict.reason}
        yield line if verdict.error is None else {**line, "error": verdict.error}
    yield {"summary": summary}


def _read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row, fields), rows counted from 1 over the lines that are not blank; raises UserError naming file and row."""
    row = 0
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                if line.strip():
                    row += 1
                    yield row, _fields(line, f"{path}, row {row}")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give a file of one JSON object a line") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}, row {row + 1}: not UTF-8 text; save the file as UTF-8") from error


def _fields(line: str, where: str) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not a JSON object ({str(error)[:80]}); write one object a line") from error
    if not isinstance(fields, dict):
        raise UserError(f"{where}: a JSON object is expected, not {type(fields).__name__}")
    for name in ("response", "gold"):
        if fields.get(name) is None:
            raise UserError(f"{where}: no {name!r}; every row needs a response and a gold answer")
    if not str(fields["gold"]).strip():
        raise UserError(f"{where}: 'gold' is empty; every row needs a gold answer")
    choices, precision = fields.get("choices"), fields.get("precision")
    if choices is not None and not isinstance(choices, list):
        raise UserError(f"{where}: 'choices' must be a list")
    if precision is not None and (isinstance(precision, bool) or not isinstance(precision, int | float)):
        raise UserError(f"{where}: 'precision' must be a number of decimals")
    return fields
