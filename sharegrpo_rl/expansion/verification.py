"""`--verify`: the model answers the original and the rewording; the package's grader says whether the answers agree."""

from __future__ import annotations

import asyncio

from sharegrpo_rl.data.types import SeedQuestion
from sharegrpo_rl.data.wordings import needs_visible_choices, with_choices
from sharegrpo_rl.expansion.prompts import solve_prompt
from sharegrpo_rl.expansion.requests import Request
from sharegrpo_rl.expansion.session import Session
from sharegrpo_rl.rewards.extract import extract_answers
from sharegrpo_rl.rewards.grading import Verdict, grade_extraction, make_key
from sharegrpo_rl.rewards.key import AnswerKey


async def disagreement(session: Session, question: SeedQuestion, text: str, max_tokens: int) -> str | None:
    """Why the two answers disagree, None where they agree: both right, or equal to each other. Unanswered may be raised."""
    first = await _solve(session, question, question.question, max_tokens)
    again = await _solve(session, question, text, max_tokens)
    # The grader may wait for a child process; the other requests go on meanwhile.
    return await asyncio.to_thread(_compare, first, again, question)


async def _solve(session: Session, question: SeedQuestion, text: str, max_tokens: int) -> str:
    if needs_visible_choices(question.answer, question.answer_type, question.choices):
        text = with_choices(text, question.choices)
    reply = await session.ask(Request(solve_prompt(text), 0.0, max_tokens, 0, question.images))
    return reply.text


def _compare(first: str, again: str, question: SeedQuestion) -> str | None:
    truth = _key(question, question.answer)
    verdict = _grade(again, truth)
    if verdict.score >= 0.5 and verdict.error is None:
        return None
    said, meant = verdict.extracted, _grade(first, truth)
    if said is None:
        return "the model gave no answer to it"
    if meant.extracted is None:
        return "the model gave no answer to the original"
    if meant.score < 0.5 and meant.error is None and _grade(again, _key(question, meant.extracted)).score >= 0.5:
        return None  # the same mistake twice: the two ask the same
    return f"the model answers {said[:40]!r} to it and {meant.extracted[:40]!r} to the original"


def _key(question: SeedQuestion, gold: str) -> AnswerKey:
    return make_key(
        gold,
        choices=question.choices,
        question=question.question,
        answer_type=question.answer_type,
        unit=question.unit,
        precision=question.precision,
    )


def _grade(reply: str, key: AnswerKey) -> Verdict:
    return grade_extraction(extract_answers(reply, key), key)
