"""Answer formats: what the model is told, what counts as well-formed, and which span is the answer.

A format reward is strict: the thinking part comes first and once, the answer part follows once, neither is empty, and
nothing stands outside them (in `boxed`, prose may surround the one box; for `steps` see step_format.py). Only the
completion is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.rewards import spans
from sharegrpo_rl.rewards.step_format import Steps

_TAG = re.compile(r"</?(?:think|answer)>", re.IGNORECASE)
_THINK_TAGS = ["<think>", "</think>"]
_ALL_TAGS = [*_THINK_TAGS, "<answer>", "</answer>"]


class AnswerFormat(Protocol):
    """How a completion is laid out."""

    @property
    def name(self) -> str:
        """What a config calls it."""

    @property
    def instruction(self) -> str:
        """The sentence that asks a model for this layout."""

    def matches(self, text: str) -> bool:
        """Whether the text has exactly this layout."""

    def extract(self, text: str) -> str | None:
        """The answer span; None where the layout gives none, or gives several."""

    def render(self, thought: str, answer: str, steps: Sequence[str] = ()) -> str:
        """A well-formed completion, for supervised targets; a layout without steps leaves `steps` out."""


def _parts(text: str, tags: list[str]) -> list[str] | None:
    """Texts before, between and after the tags, where the text holds exactly these tags in this order."""
    if [match.group().lower() for match in _TAG.finditer(text)] != tags:
        return None
    return [part.strip() for part in _TAG.split(text)]


@dataclass(frozen=True)
class ThinkAnswer:
    """`<think>thought</think><answer>answer</answer>`."""

    name: str = "think_answer"
    instruction: str = (
        "Reason about the question inside <think> and </think>. "
        "Then give only the final answer inside <answer> and </answer>."
    )

    def matches(self, text: str) -> bool:
        parts = _parts(text, _ALL_TAGS)
        if parts is None:
            return False
        before, thought, between, answer, after = parts
        return bool(thought and answer) and not (before or between or after)

    def extract(self, text: str) -> str | None:
        answers = set(spans.tagged(spans.after_thinking(text))) - {""}
        if len(answers) != 1:
            return None
        return spans.unboxed(answers.pop())

    def render(self, thought: str, answer: str, steps: Sequence[str] = ()) -> str:
        return f"<think>{thought}</think><answer>{answer}</answer>"


@dataclass(frozen=True)
class Boxed:
    """`<think>thought</think> ... \\boxed{answer} ...`."""

    name: str = "boxed"
    instruction: str = (
        "Reason about the question inside <think> and </think>. Then give the final answer inside \\boxed{}."
    )

    def matches(self, text: str) -> bool:
        parts = _parts(text, _THINK_TAGS)
        if parts is None:
            return False
        before, thought, answer = parts
        found = spans.boxes(answer)
        return bool(thought) and not before and len(found) == 1 and answer.count("\\boxed") == 1 and _closed(answer)

    def extract(self, text: str) -> str | None:
        answers = set(spans.boxes(spans.after_thinking(text)))
        return answers.pop() if len(answers) == 1 else None

    def render(self, thought: str, answer: str, steps: Sequence[str] = ()) -> str:
        return f"<think>{thought}</think>\\boxed{{{answer}}}"


def _closed(text: str) -> bool:
    """Whether the one box closes."""
    start = text.index("\\boxed")
    brace = text.find("{", start)
    return brace >= 0 and spans.closing_brace(text, brace + 1) is not None


ANSWER_FORMATS: dict[str, AnswerFormat] = {form.name: form for form in (ThinkAnswer(), Boxed(), Steps())}


def find_format(name: str) -> AnswerFormat:
    """The format of that name; UserError where there is none."""
    if name not in ANSWER_FORMATS:
        raise UserError(f"answer_format {name!r} is unknown; choose one of {', '.join(ANSWER_FORMATS)}")
    return ANSWER_FORMATS[name]
