"""Accuracy on the first questions of the test split, in their fixed order: the same figures on every call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sharegrpo_rl.data.benchmarks.facts import facts_of
from sharegrpo_rl.data.seeding import derive_seed
from sharegrpo_rl.data.types import SeedQuestion
from sharegrpo_rl.envs.multimodal_qa import MultimodalQAEnv
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.evaluation.grading import FORMAT, extractor_name, grade, grade_sample
from sharegrpo_rl.evaluation.report import EvaluationRecord, EvaluationReport, GeneratedText, make_report

ShownQuestion: TypeAlias = tuple[str, tuple[NDArray[np.uint8], ...]]  # text, images [H, W, 3]
Generate: TypeAlias = Callable[[list[ShownQuestion]], list[GeneratedText]]
Sample: TypeAlias = Callable[[list[ShownQuestion], list[int]], list[list[GeneratedText]]]  # one seed a question


class Journal(Protocol):
    """Where records are kept as they come, so that an evaluation that was stopped goes on."""

    def done(self) -> list[EvaluationRecord]:
        """The records of whole batches of an earlier start."""

    def append(self, records: list[EvaluationRecord]) -> None:
        """Keep the records of one more batch."""


def evaluate(
    env: MultimodalQAEnv,
    generate: Generate,
    *,
    limit: int = 500,
    batch: int = 128,
    blind: bool = False,
    sample: Sample | None = None,
    seed: int = 0,
    extract: str = FORMAT,
    journal: Journal | None = None,
) -> EvaluationReport:
    """Question i in wording i mod (its number of wordings), one greedy completion each, no transforms.

    `blind` shows every question with the images of another one of its kind: what the text alone earns.
    `sample` adds sampled completions, seeded by `seed` and the question alone.
    """
    number = min(limit, len(env.bank))
    if number < 1:
        raise UserError(f"{env.bank.name} ({env.bank.split}): there is no question to evaluate; raise the limit")
    records = [] if journal is None else journal.done()
    for indices in _batches(range(len(records), number), batch):
        shown = [_show(env, index, blind=blind) for index in indices]
        completions = generate(shown)
        seeds = [derive_seed("evaluate", seed, index) for index in indices]
        sampled = [[] for _ in shown] if sample is None else sample(shown, seeds)
        if not len(completions) == len(sampled) == len(shown):
            raise RuntimeError(f"asked for {len(shown)} completions, got {len(completions)} and {len(sampled)}")
        fresh = [_record(env, *given, extract) for given in zip(indices, completions, sampled, strict=True)]
        if journal is not None:
            journal.append(fresh)
        records += fresh
    return make_report(records, extractor_name(env.rubric, extract), blind=blind)


def _batches(indices: range, size: int) -> Iterator[range]:
    return (indices[start : start + size] for start in range(0, len(indices), size))


def wording_of(question: SeedQuestion, index: int) -> int:
    """Which of its wordings question `index` is asked in."""
    return index % len(question.wordings)


def _show(env: MultimodalQAEnv, index: int, *, blind: bool) -> ShownQuestion:
    wording = wording_of(env.bank[index], index)
    observation, _ = env.reset(options={"question_index": index, "variant_index": wording, "blind": blind})
    return observation["question"], observation["images"]


def _record(
    env: MultimodalQAEnv, index: int, completion: GeneratedText, sampled: list[GeneratedText], extract: str
) -> EvaluationRecord:
    question = env.bank[index]
    rubric = env.rubric_of(question)
    verdict = grade(rubric, question, completion, extract)
    return EvaluationRecord(
        question_id=question.id,
        question_index=index,
        subtask=question.subtask,
        wording=wording_of(question, index),
        extracted=verdict.extracted,
        gold=question.answer,
        accuracy=verdict.accuracy,
        format_ok=verdict.format_ok,
        truncated=completion.truncated,
        num_tokens=completion.num_tokens,
        text=completion.text,
        error=verdict.error,
        task=question.task,
        question=question.wordings[wording_of(question, index)],
        image_keys=tuple(image.fingerprint() for image in question.images),
        samples=tuple(grade_sample(rubric, question, text, extract) for text in sampled),
        categories={name: tuple(values) for name, values in facts_of(question).categories.items()},
        labels=dict(facts_of(question).labels),
    )
