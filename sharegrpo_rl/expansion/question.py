"""One question of the data set through the model: rewordings that pass every check, key steps, and what was rejected."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field

from sharegrpo_rl.data.messages import IMAGE_MARK
from sharegrpo_rl.data.types import SeedQuestion
from sharegrpo_rl.data.variants import derive_seed
from sharegrpo_rl.expansion.checks import Fault, Original, disagreement, find_fault, has_options
from sharegrpo_rl.expansion.key_steps import MAX_STEPS, sound_steps
from sharegrpo_rl.expansion.options import ExpandOptions
from sharegrpo_rl.expansion.prompts import NoList, key_steps_prompt, restored, rewrite_prompt, text_list, text_lists
from sharegrpo_rl.expansion.session import Reply, Request, Session, Unanswered
from sharegrpo_rl.expansion.source import SourceRow

_EDGE_MARKS = re.compile(rf"\A((?:\s*{IMAGE_MARK})*\s*)(.*?)((?:\s*{IMAGE_MARK})*\s*)\Z", re.DOTALL)
_SEED_BOUND = 2**31
_LONGEST_SHOWN = 2_000  # characters of a rejected text that are kept


@dataclass(frozen=True)
class Rejection:
    """A text that was not taken: by which check, and why."""

    kind: str  # variant, key_step or reply
    text: str
    check: str
    reason: str


@dataclass
class Outcome:
    """What came of one question; `unanswered` says why the model could not be asked to the end."""

    variants: list[str] = field(default_factory=list)
    key_steps: tuple[tuple[str, ...], ...] = ()
    rejected: list[Rejection] = field(default_factory=list)
    unanswered: str | None = None


async def expand_question(session: Session, row: SourceRow, options: ExpandOptions) -> Outcome:
    """Ask for rewordings and key steps; what was kept before a request failed stays kept."""
    outcome = Outcome()
    try:
        await _reword(session, row, options, outcome)
        if options.key_steps and row.question.solution:
            await _extract_key_steps(session, row, options, outcome)
    except Unanswered as error:
        outcome.unanswered = str(error)
    return outcome


async def _reword(session: Session, row: SourceRow, options: ExpandOptions, outcome: Outcome) -> None:
    """The model sees the question without the image marks at its edges; its rewordings get them back."""
    question, variants = row.question, outcome.variants
    before, body, after = _split_marks(row.text)
    original = Original(body, question.answer, question.choices, bool(question.images))
    refused: list[str] = []
    for attempt in range(options.attempts):
        missing = options.variants - len(variants)
        if missing <= 0:
            return
        prompt = rewrite_prompt(
            body,
            missing,
            has_images=bool(question.images),
            has_options=has_options(body),
            kept=[_body(wording) for wording in (*row.rewordings, *variants)],
            refused=refused,
        )
        reply = await session.ask(_request(prompt, options, "rewrite", attempt))
        try:
            texts = text_list(reply.text)
        except NoList as error:
            outcome.rejected.append(_bad_reply(reply, error))
            continue
        for candidate in (restored(text).strip() for text in texts):
            if len(variants) >= options.variants:
                break
            wording = f"{before}{candidate}{after}".strip()
            fault = find_fault(candidate, original, [*row.rewordings, *map(_body, (*row.rewordings, *variants))])
            if fault is None and options.verify:
                fault = await _disagreement(session, question, wording, options)
            if fault is None:
                variants.append(wording)
            else:
                outcome.rejected.append(Rejection("variant", candidate[:_LONGEST_SHOWN], fault.check, fault.reason))
                refused.append(f"{candidate} ({fault.reason})")


async def _disagreement(session: Session, question: SeedQuestion, text: str, options: ExpandOptions) -> Fault | None:
    reason = await disagreement(session, question, text, options.max_tokens)
    return Fault("verify", reason) if reason else None


async def _extract_key_steps(session: Session, row: SourceRow, options: ExpandOptions, outcome: Outcome) -> None:
    solution = row.question.solution or ""
    prompt = key_steps_prompt(row.text, solution, MAX_STEPS)
    for attempt in range(options.attempts):
        reply = await session.ask(_request(prompt, options, "key steps", attempt))
        try:
            groups = text_lists(reply.text)
        except NoList as error:
            outcome.rejected.append(_bad_reply(reply, error))
            continue
        # The grader may wait for a child process; the other requests go on meanwhile.
        steps, dropped = await asyncio.to_thread(sound_steps, groups, solution, row.question.answer)
        outcome.rejected += [Rejection("key_step", d.text[:_LONGEST_SHOWN], "key_steps", d.reason) for d in dropped]
        if steps:
            outcome.key_steps = steps
            return


def _request(prompt: str, options: ExpandOptions, purpose: str, attempt: int) -> Request:
    # Without the row's number in it, rows that ask the same share one reply.
    seed = derive_seed("expand", purpose, options.seed, attempt) % _SEED_BOUND
    return Request(prompt, options.temperature, options.max_tokens, seed)


def _bad_reply(reply: Reply, error: NoList) -> Rejection:
    cut = ", and it was cut at --max-tokens" if reply.truncated else ""
    return Rejection("reply", reply.text[:_LONGEST_SHOWN], "reply", f"{error}{cut}")


def _split_marks(wording: str) -> tuple[str, str, str]:
    """The image marks before the text, the text, the marks behind it."""
    before, body, after = _EDGE_MARKS.match(wording).groups()  # type: ignore[union-attr]
    return before, body, after


def _body(wording: str) -> str:
    """The wording without the marks at its edges; unchanged if there are marks inside it, too."""
    return wording if IMAGE_MARK in _split_marks(wording)[1] else wording.replace(IMAGE_MARK, "").strip()
