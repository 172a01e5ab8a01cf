"""The folder of an evaluation: protocol.json first, predictions.jsonl as it grows, result.json at the end.

The protocol names everything that a figure depends on, so that two evaluations can be compared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from sharegrpo_rl import __version__, grader, rewards
from sharegrpo_rl.data.types import QuestionBank
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.evaluation.report import EvaluationRecord, record_of, wording_of
from sharegrpo_rl.files import PREDICTIONS, JsonLines, storage_errors, write_json

Protocol = dict[str, Any]
PROTOCOL, RESULT, SCORES = "protocol.json", "result.json", "external_scores.json"
REMEDY = "free space or name another --out"


class EvaluationFolder:
    """One evaluation's folder. A start with the same protocol resumes after the last whole batch."""

    def __init__(self, path: Path, protocol: Protocol) -> None:
        self.path, self.protocol = path, protocol
        self._predictions = JsonLines(path / PREDICTIONS)
        with storage_errors(path, REMEDY):
            path.mkdir(parents=True, exist_ok=True)
            if (path / PROTOCOL).exists():
                _check_same(path, protocol)
            elif any(not file.name.startswith(".") for file in path.iterdir()):
                raise UserError(f"--out {path}: holds other files and no {PROTOCOL}; name a new folder")
            else:
                write_json(path / PROTOCOL, protocol, indent=1)

    def completed_batches(self) -> list[EvaluationRecord]:
        """The records on disk; those of a batch that a kill cut short are removed from the file."""
        if not (self.path / RESULT).exists():
            with storage_errors(self.path, REMEDY):
                batch: int = self.protocol["batch"]
                self._predictions.cut_back(len(self._predictions) // batch * batch)
        return read_predictions(self.path)

    def append(self, records: list[EvaluationRecord]) -> None:
        """Write one batch, on disk before the next one begins."""
        with storage_errors(self.path, REMEDY):
            self._predictions.append(*(record.row() for record in records))

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write result.json, which marks the evaluation as finished."""
        with storage_errors(self.path, REMEDY):
            write_json(self.path / RESULT, result, indent=1)


def is_evaluation(path: Path) -> bool:
    """Whether the folder holds an evaluation."""
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
    """The records of predictions.jsonl, [] without one; UserError naming the line that is damaged."""
    damaged = "not a prediction that `evaluate` wrote; remove the folder"
    return JsonLines(path / PREDICTIONS).read(record_of, damaged)


def read_scores(path: Path) -> list[dict[str, Any]]:
    """Scores of other tools that were read back into this evaluation; [] without any."""
    return _read(path / SCORES)["scores"] if (path / SCORES).exists() else []


def add_scores(path: Path, scores: Mapping[str, Any]) -> None:
    """Keep the scores of another tool; a file that was read before is replaced."""
    others = [kept for kept in read_scores(path) if kept["file"] != scores["file"]]
    with storage_errors(path, REMEDY):
        write_json(path / SCORES, {"scores": [*others, dict(scores)]}, indent=1)


def _check_same(path: Path, protocol: Protocol) -> None:
    changed = differences(read_protocol(path), json.loads(json.dumps(protocol)))
    if changed:
        named = "; ".join(f"{key} was {was!r}, is {now!r}"[:200] for key, (was, now) in list(changed.items())[:4])
        raise UserError(f"--out {path}: was made with another protocol ({named}); name a new folder")


def _read(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({error}); was it written by `evaluate --out`?") from None
    if not isinstance(value, dict):
        raise UserError(f"{file}: not a JSON object; was it written by `evaluate --out`?")
    return value


def grader_version() -> str:
    """Names the rules that graded: the package's version and a digest of the source of `grader/` and `rewards/`."""
    digest = blake2b(digest_size=6)
    for folder in (Path(room.__path__[0]) for room in (grader, rewards)):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.relative_to(folder.parent).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return f"rule-based, sharegrpo_rl {__version__}, rules {digest.hexdigest()}"


def data_digest(bank: QuestionBank, questions: int) -> str:
    """Digest of the first questions: ids, wordings, answers, choices and image contents, in order."""
    digest = blake2b(digest_size=16)
    for index in range(questions):
        question = bank[index]
        texts = [question.id, question.wordings[wording_of(question, index)], question.answer, *question.choices]
        images = [image.fingerprint() for image in question.images]
        digest.update(json.dumps([texts, images], ensure_ascii=True).encode() + b"\n")
    return digest.hexdigest()


def model_digest(folder: Path) -> str:
    """Digest of a model folder's weights and settings, by content."""
    digest = blake2b(digest_size=16)
    for path in sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".json", ".jinja")):
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            while chunk := file.read(1 << 22):
                digest.update(chunk)
    return digest.hexdigest()


def differences(one: Any, other: Any, name: str = "") -> dict[str, tuple[Any, Any]]:
    """{dotted key: (value of one, value of the other)} wherever two protocols differ."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        changed: dict[str, tuple[Any, Any]] = {}
        for key in dict.fromkeys([*one, *other]):
            changed |= differences(one.get(key), other.get(key), f"{name}.{key}" if name else str(key))
        return changed
    return {} if one == other else {name: (one, other)}
