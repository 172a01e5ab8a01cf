"""The verdict on one completion: by the run's own answer format, or by another way to find the answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

from sharegrpo_rl.data.benchmarks.rows import facts_of
from sharegrpo_rl.data.types import SeedQuestion
from sharegrpo_rl.evaluation.report import GeneratedText, SampleRecord
from sharegrpo_rl.grader import EXTRACT_MODES, ExtractMode, named_options, normalized, question_key
from sharegrpo_rl.grader import grade as grade_response
from sharegrpo_rl.rewards.rubric import Rubric

FORMAT = "format"  # the answer is where the run's own format has it, and nowhere else
EXTRACTORS = (FORMAT, *EXTRACT_MODES)


@dataclass(frozen=True)
class Verdict:
    """`accuracy` is 0, 1, or in between where a rubric gives partial credit; with `error` set the grader failed."""

    accuracy: float
    extracted: str | None
    format_ok: bool
    error: str | None = None


def extractor_name(rubric: Rubric, extract: str) -> str:
    """How answers are found, for the report: the name of the format, or the mode."""
    return rubric.form.name if extract == FORMAT else extract


def grade(rubric: Rubric, question: SeedQuestion, completion: GeneratedText, extract: str = FORMAT) -> Verdict:
    """The best verdict over the question's accepted answers."""
    verdict = _grade(rubric, question, completion, extract)
    for answer in facts_of(question).accepted_answers:
        if verdict.accuracy >= 1 or verdict.error is not None:
            break
        if answer != question.answer:
            other = _grade(rubric, replace(question, answer=answer), completion, extract)
            verdict = other if other.accuracy > verdict.accuracy else verdict
    return verdict


def _grade(rubric: Rubric, question: SeedQuestion, completion: GeneratedText, extract: str) -> Verdict:
    text = completion.opening + completion.text if rubric.form.opening else completion.text
    (score,) = rubric.score([text], question, [completion.truncated])
    format_ok = score.parts["format"] >= 1.0
    if extract == FORMAT:
        return Verdict(float(score.parts["accuracy"]), score.extracted, format_ok, score.error)
    graded = grade_response(text, question_key(question), extract=cast(ExtractMode, extract))
    return Verdict(graded.score, graded.extracted, format_ok, graded.error)


def grade_sample(rubric: Rubric, question: SeedQuestion, completion: GeneratedText, extract: str) -> SampleRecord:
    """The record of one sampled completion: its verdict and its vote."""
    verdict = grade(rubric, question, completion, extract)
    return SampleRecord(
        text=completion.text,
        extracted=verdict.extracted,
        vote=vote(question, verdict.extracted) if verdict.error is None else None,
        accuracy=verdict.accuracy,
        format_ok=verdict.format_ok,
        truncated=completion.truncated,
        num_tokens=completion.num_tokens,
        error=verdict.error,
    )


def vote(question: SeedQuestion, extracted: str | None) -> str | None:
    """The answer as majority@k counts it: the options it names, else its text without spaces and styling."""
    if extracted is None:
        return None
    if question.choices and (named := named_options(extracted, question.choices)):
        return "option " + ",".join(map(str, sorted(named)))
    return normalized(extracted) or None
