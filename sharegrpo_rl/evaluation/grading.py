"""The verdict on one completion: by the run's own answer format, or by another way to find the answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

from sharegrpo_rl.data.benchmarks.facts import facts_of
from sharegrpo_rl.data.types import SeedQuestion
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.evaluation.report import GeneratedText, SampleRecord
from sharegrpo_rl.rewards.canonical import squeezed
from sharegrpo_rl.rewards.choices import resolve
from sharegrpo_rl.rewards.extract import EXTRACT_MODES, ExtractMode, extract_answers
from sharegrpo_rl.rewards.grading import grade_extraction
from sharegrpo_rl.rewards.rubric import Rubric, key_of

FORMAT = "format"  # the answer is where the run's own format has it, and nowhere else
EXTRACTORS = (FORMAT, *EXTRACT_MODES)


@dataclass(frozen=True)
class Verdict:
    """`accuracy` 0 or 1, or between where a rubric says so; with `error` set the grader failed."""

    accuracy: float
    extracted: str | None
    format_ok: bool
    error: str | None = None


def check_extractor(name: str) -> None:
    """UserError where there is no such extractor."""
    if name not in EXTRACTORS:
        raise UserError(f"--extract {name!r}: choose one of {', '.join(EXTRACTORS)}")


def extractor_name(rubric: Rubric, extract: str) -> str:
    """How the answer was found, for the report: the format's name, or the mode."""
    return rubric.form.name if extract == FORMAT else extract


def grade(rubric: Rubric, question: SeedQuestion, completion: GeneratedText, extract: str = FORMAT) -> Verdict:
    """Right where the completion gives one of the question's accepted answers."""
    verdict = _grade(rubric, question, completion, extract)
    for answer in facts_of(question).accepted_answers:
        if verdict.accuracy >= 1 or verdict.error is not None:
            break
        if answer != question.answer:
            other = _grade(rubric, replace(question, answer=answer), completion, extract)
            verdict = other if other.accuracy > verdict.accuracy else verdict
    return verdict


def _grade(rubric: Rubric, question: SeedQuestion, completion: GeneratedText, extract: str) -> Verdict:
    (score,) = rubric.score([completion.text], question, [completion.truncated])
    format_ok = score.parts["format"] >= 1.0
    if extract == FORMAT:
        return Verdict(float(score.parts["accuracy"]), score.extracted, format_ok, score.error)
    key = key_of(question)
    found = grade_extraction(extract_answers(completion.text, key, cast(ExtractMode, extract)), key)
    return Verdict(found.score, found.extracted, format_ok, found.error)


def grade_sample(rubric: Rubric, question: SeedQuestion, completion: GeneratedText, extract: str) -> SampleRecord:
    """One sampled completion with its verdict and its vote."""
    verdict = grade(rubric, question, completion, extract)
    return SampleRecord(
        text=completion.text,
        extracted=verdict.extracted,
        vote=vote(question, verdict.extracted),
        accuracy=verdict.accuracy,
        format_ok=verdict.format_ok,
        truncated=completion.truncated,
        num_tokens=completion.num_tokens,
        error=verdict.error,
    )


def vote(question: SeedQuestion, extracted: str | None) -> str | None:
    """The answer as a majority counts it: the options it names, else its text without spaces and styling."""
    if extracted is None:
        return None
    if question.choices and (named := resolve(extracted, question.choices)):
        return "option " + ",".join(map(str, sorted(named)))
    return squeezed(extracted) or None
