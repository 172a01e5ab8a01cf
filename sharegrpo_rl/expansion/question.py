"""One question of the data set through the model: rewordings that pass every check, key steps, and what was rejected."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sharegrpo_rl.data.messages import IMAGE_MARK
from sharegrpo_rl.data.types import SeedQuestion
from sharegrpo_rl.data.variants import derive_seed
from sharegrpo_rl.expansion.checks import Fault, Original, disagreement, find_fault, has_options
from sharegrpo_rl.expansion.endpoint import Reply, Request, Unanswered
from sharegrpo_rl.expansion.key_steps import MOST_STEPS, sound_steps
from sharegrpo_rl.expansion.prompts import key_steps_prompt, restored, rewrite_prompt
from sharegrpo_rl.expansion.session import Session

# ---- The JSON list inside a reply: models wrap it in fences, prose, thoughts or an object, and escape LaTeX wrongly.

_THOUGHT = re.compile(r"\A.*</think>", re.DOTALL)
_DECODER = json.JSONDecoder()
_LATEX = re.compile(r"(?<!\\)\\(?=[a-zA-Z]{2,}|[(){}\[\],;:! ])(?!u[0-9a-fA-F]{4})(?![nrt][A-Z])")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_MOST_STARTS = 50  # brackets tried as the beginning of the list


class NoList(ValueError):
    """The reply holds no JSON list of the form asked for."""


def text_list(reply: str) -> list[str]:
    """The strings of a list of texts; NoList for anything else. Objects with one text each count as that text."""
    for found in _values(reply):
        items = _items(found)
        texts = [_text_of(item) for item in items or []]
        if texts and all(text is not None for text in texts):
            return [text for text in texts if text is not None]
    raise NoList("no JSON list of texts in the reply")


def text_lists(reply: str) -> list[list[str]]:
    """The lists of a list of lists of texts; a text among them counts as a list of one. NoList for anything else."""
    for found in _values(reply):
        items = _items(found)
        if items is None:
            continue
        groups = [[item] if isinstance(item, str) else item for item in items]
        if groups and all(map(_is_text_group, groups)):
            return [[str(text) for text in group] for group in groups]
    raise NoList("no JSON list of lists of texts in the reply")


def _is_text_group(group: Any) -> bool:
    return isinstance(group, list) and bool(group) and all(isinstance(text, str | int | float) for text in group)


def _values(reply: str) -> list[Any]:
    """Every JSON list or object that begins somewhere in the reply, outermost first."""
    text = _THOUGHT.sub("", reply)
    plain = _decoded(text)
    repaired = _decoded(_LATEX.sub(r"\\\\", text))
    # Read as it stands, \frac is a form feed and the letters "rac"; other broken escapes are no JSON at all.
    return repaired + plain if any(_holds_controls(value) for value in plain) else plain + repaired


def _decoded(text: str) -> list[Any]:
    values: list[Any] = []
    place = 0
    for _ in range(_MOST_STARTS):
        start = re.compile(r"[\[{]").search(text, place)
        if start is None:
            break
        try:
            value, place = _DECODER.raw_decode(text, start.start())
            values.append(value)
        except (ValueError, RecursionError):
            place = start.start() + 1
    return values


def _holds_controls(value: Any) -> bool:
    if isinstance(value, str):
        return _CONTROLS.search(value) is not None
    if isinstance(value, dict):
        return any(map(_holds_controls, value.values()))
    return isinstance(value, list) and any(map(_holds_controls, value))


def _items(value: Any) -> list[Any] | None:
    """A list; or the one list in an object; or the values of an object such as {"1": ..., "2": ...}."""
    if isinstance(value, list):
        return value
    if not isinstance(value, dict):
        return None
    lists = [item for item in value.values() if isinstance(item, list)]
    if len(lists) == 1:
        return lists[0]
    return None if lists or len(value) < 2 else list(value.values())


def _text_of(item: Any) -> str | None:
    if isinstance(item, dict) and len(item) == 1:
        (item,) = item.values()
    return item if isinstance(item, str) else None


_EDGE_MARKS = re.compile(rf"\A((?:\s*{IMAGE_MARK})*\s*)(.*?)((?:\s*{IMAGE_MARK})*\s*)\Z", re.DOTALL)
_SEED_BOUND = 2**31
_LONGEST_SHOWN = 2_000  # characters of a rejected text that are kept


@dataclass(frozen=True)
class Wanted:
    """What is asked for each question, and how the model samples."""

    variants: int
    attempts: int
    temperature: float
    max_tokens: int
    seed: int
    verify: bool
    key_steps: bool


@dataclass(frozen=True)
class Rejection:
    """A text that was not taken: by which check, and why."""

    kind: str  # variant, key_step or reply
    text: str
    check: str
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What came of one question; `unanswered` says why the model could not be asked to the end."""

    variants: tuple[str, ...] = ()
    key_steps: tuple[tuple[str, ...], ...] = ()
    rejected: tuple[Rejection, ...] = ()
    unanswered: str | None = None


async def expand_question(
    session: Session, question: SeedQuestion, text: str, own: Sequence[str], wanted: Wanted
) -> Outcome:
    """`text` is the question as its row has it, `own` the wordings that exist already."""
    variants: list[str] = []
    steps: tuple[tuple[str, ...], ...] = ()
    rejected: list[Rejection] = []
    unanswered = None
    try:
        await _reword(session, question, text, own, wanted, variants, rejected)
        if wanted.key_steps and question.solution:
            steps = await _extract(session, question, text, wanted, rejected)
    except Unanswered as error:
        unanswered = str(error)
    return Outcome(tuple(variants), steps, tuple(rejected), unanswered)


async def _reword(
    session: Session,
    question: SeedQuestion,
    text: str,
    own: Sequence[str],
    wanted: Wanted,
    variants: list[str],
    rejected: list[Rejection],
) -> None:
    """Fills `variants` and `rejected`; what they hold stays where a later request fails."""
    before, body, after = _EDGE_MARKS.match(text).groups()  # type: ignore[union-attr]
    original = Original(body, question.answer, question.choices, bool(question.images))
    refused: list[str] = []
    for attempt in range(wanted.attempts):
        missing = wanted.variants - len(variants)
        if missing <= 0:
            return
        taken = [_body(wording) for wording in (*own, *variants)]
        prompt = rewrite_prompt(
            body,
            missing,
            has_images=bool(question.images),
            has_options=has_options(body),
            kept=taken,
            refused=refused,
        )
        reply = await session.ask(_request(prompt, wanted, "rewrite", attempt))
        for candidate in _candidates(reply, rejected):
            if len(variants) >= wanted.variants:
                break
            siblings = [*own, *map(_body, own), *map(_body, variants)]
            fault = find_fault(candidate, original, siblings)
            if fault is None and wanted.verify:
                fault = await _verified(session, question, f"{before}{candidate}{after}".strip(), wanted)
            if fault is None:
                variants.append(f"{before}{candidate}{after}".strip())
            else:
                rejected.append(Rejection("variant", candidate[:_LONGEST_SHOWN], fault.check, fault.reason))
                refused.append(f"{candidate} ({fault.reason})")


async def _verified(session: Session, question: SeedQuestion, text: str, wanted: Wanted) -> Fault | None:
    reason = await disagreement(session, question, text, wanted.max_tokens)
    return Fault("verify", reason) if reason else None


def _candidates(reply: Reply, rejected: list[Rejection]) -> list[str]:
    try:
        texts = text_list(reply.text)
    except NoList as error:
        rejected.append(_bad_reply(reply, error))
        return []
    return [restored(text).strip() for text in texts]


async def _extract(
    session: Session, question: SeedQuestion, text: str, wanted: Wanted, rejected: list[Rejection]
) -> tuple[tuple[str, ...], ...]:
    solution = question.solution or ""
    for attempt in range(wanted.attempts):
        prompt = key_steps_prompt(text, solution, MOST_STEPS)
        reply = await session.ask(_request(prompt, wanted, "key steps", attempt))
        try:
            groups = text_lists(reply.text)
        except NoList as error:
            rejected.append(_bad_reply(reply, error))
            continue
        # The grader may wait for a child process; the other requests go on meanwhile.
        steps, dropped = await asyncio.to_thread(sound_steps, groups, solution, question.answer)
        rejected += [Rejection("key_step", item.text[:_LONGEST_SHOWN], "key_steps", item.reason) for item in dropped]
        if steps:
            return steps
    return ()


def _request(prompt: str, wanted: Wanted, purpose: str, attempt: int) -> Request:
    # Without the row's number in it, rows that ask the same share one reply.
    seed = derive_seed("expand", purpose, wanted.seed, attempt) % _SEED_BOUND
    return Request(prompt, wanted.temperature, wanted.max_tokens, seed)


def _bad_reply(reply: Reply, error: NoList) -> Rejection:
    cut = ", and it was cut at --max-tokens" if reply.truncated else ""
    return Rejection("reply", reply.text[:_LONGEST_SHOWN], "reply", f"{error}{cut}")


def _body(wording: str) -> str:
    return wording.replace(IMAGE_MARK, "").strip() if _only_edges(wording) else wording


def _only_edges(wording: str) -> bool:
    return IMAGE_MARK not in _EDGE_MARKS.match(wording).group(2)  # type: ignore[union-attr]
