"""What an evaluation found: one record a question, and the figures made from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sharegrpo_rl.evaluation.intervals import wilson_interval


@dataclass(frozen=True)
class GeneratedText:
    """A greedy completion: its text, its tokens (the end token included), and was it cut at the limit."""

    text: str
    num_tokens: int
    truncated: bool = False


@dataclass(frozen=True)
class EvaluationRecord:
    """One question, one completion, one verdict."""

    question_id: str
    question_index: int
    subtask: str
    wording: int
    extracted: str | None
    gold: str
    accuracy: float
    format_ok: bool
    truncated: bool
    num_tokens: int
    text: str
    error: str | None = None  # what went wrong in the grader; such a row counts as wrong, and is counted
    task: str = ""

    @property
    def correct(self) -> bool:
        """Is the answer right in full?"""
        return self.accuracy >= 1.0


@dataclass(frozen=True)
class EvaluationReport:
    """Shares in 0..1; `mean_length` in tokens; `by_kind`, `by_task` and `by_wording`: {name: {"accuracy", "questions"}}.

    With one task only `by_task` is empty; with several, `by_kind` names each kind `task/kind`.
    """

    accuracy: float
    questions: int
    confidence_interval: tuple[float, float]
    format_rate: float
    truncated_rate: float
    mean_length: float
    extractor: str
    by_kind: dict[str, dict[str, float]]
    by_task: dict[str, dict[str, float]]
    by_wording: dict[str, dict[str, float]]
    grader_errors: int
    blind: bool
    records: tuple[EvaluationRecord, ...]

    def summary(self) -> dict[str, Any]:
        """Everything but the records, ready for JSON."""
        figures = {name: value for name, value in vars(self).items() if name != "records"}
        return {**figures, "confidence_interval": list(self.confidence_interval)}

    def rows(self) -> list[dict[str, Any]]:
        """The records as JSON objects."""
        return [{**asdict(record), "correct": record.correct} for record in self.records]


def make_report(records: Sequence[EvaluationRecord], extractor: str, *, blind: bool) -> EvaluationReport:
    """The figures of the given records (at least one)."""
    number = len(records)
    if number == 0:
        raise ValueError("an evaluation needs at least one question")
    right = sum(record.accuracy for record in records)
    tasks = [record.task or "unnamed" for record in records]
    kinds = [record.subtask for record in records]
    several = len(set(tasks)) > 1
    if several:
        kinds = [f"{task}/{kind}" if kind else task for task, kind in zip(tasks, kinds, strict=True)]
    return EvaluationReport(
        accuracy=right / number,
        questions=number,
        confidence_interval=wilson_interval(right, number),
        format_rate=sum(record.format_ok for record in records) / number,
        truncated_rate=sum(record.truncated for record in records) / number,
        mean_length=sum(record.num_tokens for record in records) / number,
        extractor=extractor,
        by_kind=_by(kinds, records),
        by_task=_by(tasks, records) if several else {},
        by_wording=_by([str(record.wording) for record in records], records),
        grader_errors=sum(record.error is not None for record in records),
        blind=blind,
        records=tuple(records),
    )


def _by(names: Sequence[str], records: Sequence[EvaluationRecord]) -> dict[str, dict[str, float]]:
    groups: dict[str, list[float]] = {}
    for name, record in zip(names, records, strict=True):
        groups.setdefault(name, []).append(record.accuracy)
    return {name: {"accuracy": sum(a) / len(a), "questions": len(a)} for name, a in sorted(groups.items())}
