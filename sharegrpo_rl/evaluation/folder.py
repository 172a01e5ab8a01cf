"""A folder with an evaluation's files: protocol.json at the start, predictions.jsonl as it grows, result.json at the end."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.evaluation.protocol import Protocol, differences
from sharegrpo_rl.evaluation.report import EvaluationRecord, record_of

PROTOCOL, PREDICTIONS, RESULT, SCORES = "protocol.json", "predictions.jsonl", "result.json", "external_scores.json"


class EvaluationFolder:
    """The Journal of one evaluation. A start with the same protocol goes on after the last whole batch."""

    def __init__(self, path: Path, protocol: Protocol) -> None:
        self.path = path
        self.batch: int = protocol["batch"]
        with _naming(path):
            path.mkdir(parents=True, exist_ok=True)
            if (path / PROTOCOL).exists():
                _check_same(path, protocol)
            elif any(not file.name.startswith(".") for file in path.iterdir()):
                raise UserError(f"--out {path}: holds other files and no {PROTOCOL}; name a new folder")
            else:
                _replace(path / PROTOCOL, protocol)

    def done(self) -> list[EvaluationRecord]:
        """Records of the whole batches on disk; what a kill cut short is taken off the file. All of a finished one."""
        file = self.path / PREDICTIONS
        if not file.exists():
            return []
        if (self.path / RESULT).exists():
            return read_predictions(self.path)
        with _naming(self.path):
            lines = file.read_bytes().splitlines(keepends=True)
            whole = sum(line.endswith(b"\n") for line in lines) // self.batch * self.batch
            os.truncate(file, sum(map(len, lines[:whole])))
        return read_predictions(self.path)

    def append(self, records: list[EvaluationRecord]) -> None:
        """Write one batch, on disk before the next one begins."""
        with _naming(self.path), (self.path / PREDICTIONS).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(record.row(), allow_nan=False) + "\n" for record in records)
            file.flush()
            os.fsync(file.fileno())

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write result.json, by which an evaluation is known as finished."""
        with _naming(self.path):
            _replace(self.path / RESULT, result)


def is_evaluation(path: Path) -> bool:
    """Does the folder hold an evaluation's files?"""
    return (path / PROTOCOL).is_file()


def read_protocol(path: Path) -> Protocol:
    """The protocol of an evaluation's folder."""
    return _read(path / PROTOCOL)


def read_result(path: Path) -> dict[str, Any]:
    """The result of a finished evaluation; UserError where it is not finished."""
    if not (path / RESULT).exists():
        raise UserError(f"{path}: its evaluation is not finished; start the same command again")
    return _read(path / RESULT)


def read_predictions(path: Path) -> list[EvaluationRecord]:
    """The records of predictions.jsonl; UserError naming the line that is damaged."""
    file = path / PREDICTIONS
    records = []
    with _naming(path):
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            try:
                records.append(record_of(json.loads(line)))
            except (ValueError, TypeError, KeyError, AttributeError):
                raise UserError(
                    f"{file} line {number}: not a prediction that `evaluate` wrote; remove the folder"
                ) from None
    return records


def read_scores(path: Path) -> list[dict[str, Any]]:
    """Scores of other tools that were read back into this evaluation; [] without any."""
    return _read(path / SCORES)["scores"] if (path / SCORES).exists() else []


def add_scores(path: Path, scores: Mapping[str, Any]) -> None:
    """Keep the scores of another tool; a file that was read before is replaced."""
    others = [kept for kept in read_scores(path) if kept["file"] != scores["file"]]
    with _naming(path):
        _replace(path / SCORES, {"scores": [*others, dict(scores)]})


def _check_same(path: Path, protocol: Protocol) -> None:
    found = differences(read_protocol(path), json.loads(json.dumps(protocol)))
    if found:
        named = "; ".join(f"{key} was {was!r}, is {now!r}"[:200] for key, (was, now) in list(found.items())[:4])
        raise UserError(f"--out {path}: was made with another protocol ({named}); name a new folder")


def _read(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({error}); was it written by `evaluate --out`?") from None
    if not isinstance(value, dict):
        raise UserError(f"{file}: not a JSON object; was it written by `evaluate --out`?")
    return value


def _replace(file: Path, value: Mapping[str, Any]) -> None:
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    unfinished.replace(file)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"--out {path}: cannot be written or read ({error.strerror or error}); name another folder"
        ) from None
