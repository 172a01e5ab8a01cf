"""Predictions in the formats that VLMEvalKit and lmms-eval score with their own rules and judges."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sharegrpo_rl.data.benchmarks.facts import facts_of
from sharegrpo_rl.data.types import QuestionBank
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.evaluation.report import EvaluationRecord
from sharegrpo_rl.rewards import spans

FORMATS = ("vlmevalkit", "lmms-eval")


def export_predictions(
    records: Sequence[EvaluationRecord], bank: QuestionBank, form: str, *, folder: Path, model: str, name: str
) -> list[Path]:
    """Write the files of one format into the folder; `name` is VLMEvalKit's dataset or lmms-eval's task."""
    write = {"vlmevalkit": _write_vlmevalkit, "lmms-eval": _write_lmms_eval}[form]
    folder.mkdir(parents=True, exist_ok=True)
    return write(records, bank, folder, model, name)


def thinking_and_answer(text: str) -> tuple[str, str]:
    """A completion as (thoughts, what is left to be judged): after `</think>`, answer tags taken off."""
    visible = spans.after_thinking(text)
    answers = spans.tagged(visible)
    judged = answers[-1] if answers else visible.strip()
    return text[: len(text) - len(visible)].strip(), judged


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
        # VLMEvalKit reads it with pandas, which takes a bare word such as NA for nothing: everything is quoted, as it does.
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
    whole = len(records) == len(bank)
    arguments = {"model": model, "model_args": "", "tasks": name, "limit": None if whole else len(records)}
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
