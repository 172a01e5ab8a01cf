"""VLMEvalKit and lmms-eval: predictions in their formats, and their result files read back.

They score with their own rules and judges; their figures are kept apart from the rule-based ones.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from sharegrpo_rl.data.benchmarks.rows import facts_of
from sharegrpo_rl.data.types import QuestionBank
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.evaluation.report import EvaluationRecord
from sharegrpo_rl.grader import after_thinking, tagged_answers

FORMATS = ("vlmevalkit", "lmms-eval")
MAX_BYTES = 50_000_000  # of a result file
ROW_LABELS = ("split", "Task&Skill", "Subject", "Metric", "Model", "")  # columns that name a row of VLMEvalKit's tables


def export_predictions(
    records: Sequence[EvaluationRecord], bank: QuestionBank, form: str, *, folder: Path, model: str, name: str
) -> list[Path]:
    """Write the files of one format into the folder; `name` is VLMEvalKit's dataset or lmms-eval's task."""
    folder.mkdir(parents=True, exist_ok=True)
    write = _write_vlmevalkit if form == "vlmevalkit" else _write_lmms_eval
    return write(records, bank, folder, model, name)


def thinking_and_answer(text: str) -> tuple[str, str]:
    """A completion as (thoughts, answer to judge): what follows `</think>`, without answer tags."""
    visible = after_thinking(text)
    answers = tagged_answers(visible)
    return text[: len(text) - len(visible)].strip(), answers[-1] if answers else visible.strip()


def _write_vlmevalkit(
    records: Sequence[EvaluationRecord], bank: QuestionBank, folder: Path, model: str, name: str
) -> list[Path]:
    """MODEL_DATASET.tsv: the benchmark's columns without the image, `prediction`, and `thinking`."""
    rows = []
    for record in records:
        row = facts_of(bank[record.question_index]).row
        if "index" not in row:
            raise UserError(
                "--export vlmevalkit: needs the benchmark's own TSV as --data; other files lack its index column"
            )
        thinking, prediction = thinking_and_answer(record.text)
        rows.append({**row, "prediction": prediction, "thinking": thinking})
    path = folder / f"{model}_{name}.tsv"
    with path.open("w", encoding="utf-8", newline="") as file:
        # Everything is quoted, as VLMEvalKit does: it reads with pandas, which takes a bare word such as NA for a gap.
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: "" if value is None else value for key, value in row.items()} for row in rows)
    return [path]


def _write_lmms_eval(
    records: Sequence[EvaluationRecord], bank: QuestionBank, folder: Path, model: str, name: str
) -> list[Path]:
    """MODEL_samples_TASK.jsonl as `--log_samples` writes it, and TASK.json, which its model `from_log` reads again."""
    samples = [_lmms_sample(record, facts_of(bank[record.question_index]).row) for record in records]
    jsonl, log = folder / f"{model}_samples_{name}.jsonl", folder / f"{model}_{name}.json"
    jsonl.write_text("".join(json.dumps(sample) + "\n" for sample in samples), encoding="utf-8")
    limit = None if len(records) == len(bank) else len(records)
    arguments = {"model": model, "model_args": "", "tasks": name, "limit": limit}
    content = {"args": arguments, "model_configs": {"task": name}, "logs": samples, "time": "0101_0000"}
    log.write_text(json.dumps(content) + "\n", encoding="utf-8")
    return [jsonl, log]


def _lmms_sample(record: EvaluationRecord, row: Any) -> dict[str, Any]:
    _, answer = thinking_and_answer(record.text)
    return {
        "doc_id": record.question_index,
        "doc": dict(row),
        "target": record.gold,
        "input": record.question,
        "arguments": [record.question],
        "resps": [[answer]],
        "filtered_resps": [answer],
    }


def read_external_scores(file: Path) -> dict[str, Any]:
    """{"tool", "file", "digest", "scores": {row: {column: value}}}; UserError where the file is no result file.

    Values keep the file's own scale: some are shares, some percentages.
    """
    try:
        if file.stat().st_size > MAX_BYTES:
            raise UserError(f"--read-scores {file}: larger than {MAX_BYTES // 10**6} MB, which no result file is")
        content = file.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"--read-scores {file}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise UserError(
            f"--read-scores {file}: not a text file; give the *_acc.csv, *_score.csv or *_results.json"
        ) from None
    if file.suffix in (".csv", ".tsv"):
        tool, scores = "VLMEvalKit", _table(text, file)
    elif file.suffix == ".json":
        tool, scores = _json(text, file)
    else:
        raise UserError(f"--read-scores {file}: give VLMEvalKit's .csv or .json, or lmms-eval's _results.json")
    digest = blake2b(content, digest_size=16).hexdigest()
    return {"tool": tool, "file": file.name, "digest": digest, "scores": scores}


def _table(text: str, file: Path) -> dict[str, dict[str, Any]]:
    """Rows by the column that names them (`split`, `Task&Skill`, `Subject`), else by number."""
    rows = list(csv.reader(io.StringIO(text), delimiter="\t" if file.suffix == ".tsv" else ","))
    if len(rows) < 2 or any(len(row) != len(rows[0]) for row in rows):
        raise UserError(f"--read-scores {file}: not a table with a header and rows of equal length")
    header, *body = rows
    label = next((header.index(name) for name in ROW_LABELS if name in header and len(header) > 1), None)
    scores: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(body):
        name = str(number) if label is None else row[label].strip() or str(number)
        if len(body) == 1 and (label is None or not row[label].strip() or row[label].strip() == "0"):
            name = "Overall"
        scores[name] = {h: _value(cell) for i, (h, cell) in enumerate(zip(header, row, strict=True)) if i != label}
    if not any(_is_figure(value) for row in scores.values() for value in row.values()):
        raise UserError(f"--read-scores {file}: holds no number; give the *_acc.csv or *_score.csv")
    return scores


def _json(text: str, file: Path) -> tuple[str, dict[str, dict[str, Any]]]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"--read-scores {file}: not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"--read-scores {file}: a {type(content).__name__}, not an object with results")
    results = content.get("results")
    if isinstance(results, dict) and all(isinstance(task, dict) for task in results.values()):
        return "lmms-eval", {str(task): _numbers(figures) for task, figures in results.items()}
    flat = _numbers(content)
    if not any(_is_figure(value) for value in flat.values()):
        raise UserError(
            f"--read-scores {file}: holds no results; give lmms-eval's *_results.json or VLMEvalKit's score"
        )
    return "VLMEvalKit", {"Overall": flat}


def _numbers(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The single values; `metric,none` loses its filter, nested tables become dotted names."""
    numbers: dict[str, Any] = {}
    for name, value in figures.items():
        plain = str(name).removesuffix(",none").strip()
        if isinstance(value, dict):
            numbers |= {f"{plain}.{inner}": each for inner, each in _numbers(value).items()}
        elif not isinstance(value, list) and plain != "alias":
            numbers[plain] = _value(value)
    return numbers


def _is_figure(value: Any) -> bool:
    """A number, or a text such as `35.05%` or `41.90% (220)`."""
    return isinstance(value, float) or (isinstance(value, str) and value[:1].isdecimal() and "%" in value)


def _value(cell: Any) -> Any:
    """A number where the cell is one (`85.2`, `85.20%` stays text with its sign); NaN and infinities are None."""
    if isinstance(cell, bool) or cell is None:
        return cell
    try:
        number = float(cell)
    except (TypeError, ValueError):
        return str(cell).strip()
    return number if math.isfinite(number) else None
