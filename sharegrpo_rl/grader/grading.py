"""Grading one response: extract, compare, and say why. Never raises on what a model wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sharegrpo_rl.data.types import SeedQuestion
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.grader.choices import letters_named, names_a_letter, resolve
from sharegrpo_rl.grader.compare import compare, gold_span
from sharegrpo_rl.grader.extract import Extraction, ExtractMode, extract_answers
from sharegrpo_rl.grader.key import AnswerKey, Match
from sharegrpo_rl.grader.numbers import parse_quantity
from sharegrpo_rl.grader.symbolic import GraderError
from sharegrpo_rl.grader.text import canonical, parse_boolean

# ---- Ground truths are checked when data is loaded, so that training never meets one that cannot be graded.

_MAX_CHARACTERS = 2_000
_NUMERIC = {"numeric", "number", "integer", "float"}
_VERDICTS = {"true_false", "yes_no", "boolean"}
_OPTIONS = {"multiple_choice", "multi_choice", "choice"}


def ground_truth_fault(question: SeedQuestion) -> str | None:
    """What makes the answer ungradable, in words; None where nothing does."""
    answer = question.answer
    if not isinstance(answer, str) or not answer.strip():
        return "the answer is empty"
    gold = gold_span(answer)
    if len(gold) > _MAX_CHARACTERS:
        return f"the answer has {len(gold)} characters, and {_MAX_CHARACTERS} is the most"
    if not canonical(gold):
        return f"the answer {answer[:60]!r} holds nothing that could be compared"
    if gold.count("{") != gold.count("}"):
        return f"the braces of the answer {answer[:60]!r} do not match"
    return _kind_fault(question, gold)


def _kind_fault(question: SeedQuestion, gold: str) -> str | None:
    kind = (question.answer_type or "").lower()
    if question.choices and not resolve(gold, question.choices):
        return f"the answer {gold[:60]!r} is none of the {len(question.choices)} choices, neither by letter nor by text"
    if question.choices:
        return None
    if kind in _NUMERIC and parse_quantity(gold) is None:
        return f"the answer {gold[:60]!r} is no number, and answer_type says {kind}"
    if kind in _VERDICTS and parse_boolean(gold) is None:
        return f"the answer {gold[:60]!r} is neither yes/no nor true/false, and answer_type says {kind}"
    if kind in _OPTIONS and letters_named(gold) is None:
        return f"the answer {gold[:60]!r} is no letter and there are no choices, and answer_type says {kind}"
    return None


def check_ground_truth(question: SeedQuestion) -> None:
    """Raise UserError, naming the row, where its answer cannot be graded."""
    if fault := ground_truth_fault(question):
        raise UserError(f"row {question.id}: {fault}; correct the row or leave it out")


@dataclass(frozen=True)
class Verdict:
    """`score` 0 or 1. With `error` set the grader failed: the score says nothing and the row is counted as an error."""

    score: float
    extracted: str | None
    reason: str
    error: str | None = None


def make_key(
    gold: str,
    *,
    choices: Sequence[str] | None = None,
    question: str | None = None,
    answer_type: str | None = None,
    unit: str | None = None,
    precision: float | None = None,
) -> AnswerKey:
    """The answer key of a row; fields that the row lacks are None."""
    return AnswerKey(str(gold), tuple(str(c) for c in choices or ()), question or "", answer_type, unit, precision)


def grade_answer(extracted: str, key: AnswerKey) -> Verdict:
    """Grade an answer that was extracted already."""
    try:
        match = compare(extracted, key)
    except GraderError as error:
        return Verdict(0.0, extracted, "the grader failed", str(error))
    return Verdict(float(match.equal), extracted, match.reason)


def grade_response(
    response: str,
    gold: str,
    *,
    extract: ExtractMode = "auto",
    choices: Sequence[str] | None = None,
    question: str | None = None,
    answer_type: str | None = None,
    unit: str | None = None,
    precision: float | None = None,
) -> Verdict:
    """Extract the response's answer and grade it against `gold`; the other fields narrow its reading."""
    key = make_key(gold, choices=choices, question=question, answer_type=answer_type, unit=unit, precision=precision)
    return grade_extraction(extract_answers(response, key, extract), key)


def grade_extraction(found: Extraction, key: AnswerKey) -> Verdict:
    """Right where every answer given is right; two different answers score 0, whatever their order."""
    answers = _claims(found, key)
    if not answers:
        return Verdict(0.0, None, f"no answer found ({found.place})")
    try:
        match = compare(answers[0], key) if len(answers) == 1 else _compare_several(answers, key)
    except GraderError as error:
        return Verdict(0.0, answers[-1], "the grader failed", str(error))
    return Verdict(float(match.equal), answers[-1] if len(answers) == 1 else "; ".join(answers)[:400], match.reason)


def _claims(found: Extraction, key: AnswerKey) -> tuple[str, ...]:
    """For multiple choice, boxes that name no option (steps of the working) do not count beside one that does."""
    if len(found.answers) > 1 and key.choices and found.place == "box":
        naming = tuple(a for a in found.answers if resolve(a, key.choices) or names_a_letter(a, key.choices))
        return naming or found.answers[-1:]
    return found.answers


def _compare_several(answers: tuple[str, ...], key: AnswerKey) -> Match:
    if parse_quantity(gold_span(key.gold)) is None and not key.choices:
        together = compare(", ".join(answers), key)  # \boxed{1} and \boxed{-2} is one list
        if together.equal:
            return together
    verdicts = [compare(answer, key) for answer in answers]
    if all(verdict.equal for verdict in verdicts):
        return verdicts[-1]
    if any(verdict.equal for verdict in verdicts):
        return Match(False, "two different answers")
    return verdicts[-1]
