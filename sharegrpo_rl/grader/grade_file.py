"""Grading a file of responses, row by row: the `grade` command."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.grader.grading import EXTRACT_MODES, ExtractMode, Verdict, grade
from sharegrpo_rl.grader.key import errors_by_kind
from sharegrpo_rl.grader.symbolic import NUM_WORKERS

_ROWS_AHEAD = 32


def print_grades(file: Path, extract: str, as_json: bool) -> None:
    """Print a line for each row in order and the summary last; UserError names the file and row of a malformed one."""
    for entry in grade_file(file, extract):
        if as_json:
            line = json.dumps(entry, ensure_ascii=False)
        elif "summary" in entry:
            line = _summary_line(entry["summary"])
        else:
            answer = entry["extracted"] or "(no answer)"
            line = f"row {entry['row']}: {entry['score']:g}  {answer}  {entry['reason']}"
        sys.stdout.write(line + "\n")


def _summary_line(summary: dict[str, Any]) -> str:
    kinds = ", ".join(f"{n} {kind}" for kind, n in summary.get("errors_by_kind", {}).items())
    counts = ", ".join(f"{name} {value}" for name, value in summary.items() if name != "errors_by_kind")
    return f"{counts} ({kinds})" if kinds else counts


def grade_file(path: Path, extract: str = "auto") -> Iterator[dict[str, Any]]:
    """Yield {"row", "score", "extracted", "reason", "kind"} for each row in order, from 1, and last {"summary": {...}}.

    The summary counts rows, correct, labelled, agree (of the labelled) and errors (rows that the grader failed on,
    which are in no other count but rows and labelled); where there are any, `errors_by_kind` too. Raises UserError for
    a bad line, naming the file and the row.
    """
    if extract not in EXTRACT_MODES:
        raise UserError(f"--extract {extract!r} is unknown; choose one of {', '.join(EXTRACT_MODES)}")
    summary: dict[str, Any] = {"rows": 0, "correct": 0, "labelled": 0, "agree": 0, "errors": 0}
    errors: list[str] = []
    for row, fields, verdict in _graded(_read_rows(Path(path)), cast(ExtractMode, extract)):
        is_right = verdict.score >= 0.5
        summary["rows"] += 1
        summary["correct"] += is_right
        if fields.get("label") is not None:
            summary["labelled"] += 1
            summary["agree"] += verdict.error is None and is_right == bool(fields["label"])
        line = {"row": row} | {name: getattr(verdict, name) for name in ("score", "extracted", "reason", "kind")}
        if verdict.error is not None:
            summary["errors"] += 1
            errors.append(verdict.error)
        yield line if verdict.error is None else {**line, "error": verdict.error}
    kinds = {kind: n for kind, n in errors_by_kind(errors).items() if n}
    yield {"summary": {**summary, "errors_by_kind": kinds} if kinds else summary}


def _graded(
    rows: Iterator[tuple[int, dict[str, Any]]], extract: ExtractMode
) -> Iterator[tuple[int, dict[str, Any], Verdict]]:
    """Rows with their verdicts, in order; some are graded ahead, so that both of the children have work."""

    def verdict_of(fields: dict[str, Any]) -> Verdict:
        optional = {name: fields.get(name) for name in ("choices", "question", "answer_type", "unit", "precision")}
        return grade(str(fields["response"]), str(fields["gold"]), extract=extract, **optional)

    ahead: deque[tuple[int, dict[str, Any], Future[Verdict]]] = deque()
    with ThreadPoolExecutor(NUM_WORKERS) as threads:
        try:
            for row, fields in rows:
                ahead.append((row, fields, threads.submit(verdict_of, fields)))
                if len(ahead) > _ROWS_AHEAD:
                    yield _first(ahead)
        except UserError:  # of a bad line: those before it come first
            while ahead:
                yield _first(ahead)
            raise
        while ahead:
            yield _first(ahead)


def _first(ahead: deque[tuple[int, dict[str, Any], Future[Verdict]]]) -> tuple[int, dict[str, Any], Verdict]:
    row, fields, future = ahead.popleft()
    return row, fields, future.result()


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
