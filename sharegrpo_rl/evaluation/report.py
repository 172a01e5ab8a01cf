"""What an evaluation measured: one record a question, and the figures made from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharegrpo_rl.data.types import SeedQuestion
from sharegrpo_rl.grader import errors_by_kind
from sharegrpo_rl.statistics.questions import image_clusters, sampling_figures, share_interval

OPTIONAL = ("samples", "categories", "labels")  # left out of a record's row where they are empty
OPTIONAL_FIGURES = ("by_category", "sampling", "grader_errors_by_kind")  # and these of a report


def wording_of(question: SeedQuestion, index: int) -> int:
    """Which of its wordings question `index` is asked in."""
    return index % len(question.wordings)


@dataclass(frozen=True)
class GeneratedText:
    """A completion: its text, its number of tokens (the end token included), and whether it was cut at the limit.

    opening: what the prompt had written of the response, which is graded with it.
    """

    text: str
    num_tokens: int
    truncated: bool = False
    opening: str = ""


@dataclass(frozen=True)
class SampleRecord:
    """One of several sampled completions of a question. `vote` is its answer as majorities count it."""

    text: str
    extracted: str | None
    vote: str | None
    accuracy: float
    format_ok: bool
    truncated: bool
    num_tokens: int
    error: str | None = None


@dataclass(frozen=True)
class EvaluationRecord:
    """One question, one greedy completion, one verdict; and the sampled completions, if requested."""

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
    question: str = ""  # the wording that was asked
    image_keys: tuple[str, ...] = ()  # digests of its images: questions on one image are no independent sample
    samples: tuple[SampleRecord, ...] = ()
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of a benchmark: accuracy by each
    labels: Mapping[str, str] = field(default_factory=dict)  # what a benchmark's own metric needs to know

    @property
    def correct(self) -> bool:
        """Is the answer right in full?"""
        return self.accuracy >= 1.0

    def row(self) -> dict[str, Any]:
        """As a JSON object, a line of predictions.jsonl."""
        values = {**asdict(self), "correct": self.correct}
        return {name: value for name, value in values.items() if value or name not in OPTIONAL}


def record_of(row: Mapping[str, Any]) -> EvaluationRecord:
    """The record that `row()` wrote; TypeError or KeyError where the row is something else."""
    fields = {name: value for name, value in row.items() if name != "correct"}
    fields["image_keys"] = tuple(fields["image_keys"])
    fields["samples"] = tuple(SampleRecord(**sample) for sample in fields.get("samples", ()))
    fields["categories"] = {name: tuple(values) for name, values in fields.get("categories", {}).items()}
    return EvaluationRecord(**fields)


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
    interval_method: str = "Wilson"
    by_category: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    sampling: dict[str, Any] = field(default_factory=dict)
    grader_errors_by_kind: dict[str, int] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """Everything but the records, ready for JSON; parts that were not requested are left out."""
        figures = {name: value for name, value in vars(self).items() if name != "records"}
        figures = {name: value for name, value in figures.items() if value or name not in OPTIONAL_FIGURES}
        return {**figures, "confidence_interval": list(self.confidence_interval)}

    def rows(self) -> list[dict[str, Any]]:
        """The records as JSON objects."""
        return [record.row() for record in self.records]


def make_report(records: Sequence[EvaluationRecord], extractor: str, *, blind: bool) -> EvaluationReport:
    """The figures of the given records (at least one)."""
    number = len(records)
    if number == 0:
        raise ValueError("an evaluation needs at least one question")
    right = sum(record.accuracy for record in records)
    tasks = [record.task or "unnamed" for record in records]
    kinds = [record.subtask for record in records]
    several = len(set(tasks)) > 1
    clusters = image_clusters([record.image_keys for record in records])
    interval, method = share_interval(np.array([record.accuracy for record in records]), clusters)
    if several:
        kinds = [f"{task}/{kind}" if kind else task for task, kind in zip(tasks, kinds, strict=True)]
    return EvaluationReport(
        accuracy=right / number,
        questions=number,
        confidence_interval=interval,
        format_rate=sum(record.format_ok for record in records) / number,
        truncated_rate=sum(record.truncated for record in records) / number,
        mean_length=sum(record.num_tokens for record in records) / number,
        extractor=extractor,
        by_kind=_accuracies(zip(kinds, records, strict=True)),
        by_task=_accuracies(zip(tasks, records, strict=True)) if several else {},
        by_wording=_accuracies((str(record.wording), record) for record in records),
        grader_errors=sum(record.error is not None for record in records),
        blind=blind,
        records=tuple(records),
        interval_method=method,
        by_category=_by_category(records),
        sampling=_sampling(records, clusters),
        grader_errors_by_kind={kind: n for kind, n in errors_by_kind(r.error for r in records).items() if n},
    )


def _by_category(records: Sequence[EvaluationRecord]) -> dict[str, dict[str, dict[str, float]]]:
    """Accuracy by each category; a question with several values of one counts under each of them."""
    names = dict.fromkeys(name for record in records for name in record.categories)
    return {name: _accuracies((v, r) for r in records for v in r.categories.get(name, ())) for name in names}


def _sampling(records: Sequence[EvaluationRecord], clusters: NDArray[np.int64]) -> dict[str, Any]:
    """Figures of the sampled completions; {} if none were requested."""
    samples = [sample for record in records for sample in record.samples]
    if not samples:
        return {}
    number = len(samples)
    votes = [[sample.vote for sample in record.samples] for record in records]
    accuracies = [[sample.accuracy for sample in record.samples] for record in records]
    return {
        "samples": len(records[0].samples),
        **sampling_figures(votes, accuracies, clusters),
        "format_rate": sum(sample.format_ok for sample in samples) / number,
        "truncated_rate": sum(sample.truncated for sample in samples) / number,
        "mean_length": sum(sample.num_tokens for sample in samples) / number,
        "grader_errors": sum(sample.error is not None for sample in samples),
    }


def _accuracies(pairs: Iterable[tuple[str, EvaluationRecord]]) -> dict[str, dict[str, float]]:
    """Accuracy and number of questions for each name, of (name, record) pairs."""
    groups: dict[str, list[float]] = {}
    for name, record in pairs:
        groups.setdefault(name, []).append(record.accuracy)
    return {name: {"accuracy": sum(a) / len(a), "questions": len(a)} for name, a in sorted(groups.items())}
