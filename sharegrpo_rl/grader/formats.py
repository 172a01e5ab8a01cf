"""The answer format `steps`: a completion in sections under `###` headings, as R1-VL's models write it.

`### Image Description:`, `### Rationales:`, `### Step 1:` .. `### Step K:`, `### The final answer is:`. A line
`### Let's think step by step.` may stand before the first step. White space, line ends included, never matters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Protocol

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.grader import text as spans

_MARK = re.compile(r"(?<!#)###(?!#)")
_TITLE = re.compile(
    r"\s*+(?:(?:(?P<description>Image\s++Description)|(?P<rationales>Rationales)|(?P<step>Step)\s++(?P<number>[0-9]{1,6})"
    r"|(?P<answer>The\s++final\s++answer\s++is))\s*+:|(?P<lead_in>Let['’]s\s++think\s++step\s++by\s++step)[.:]?)"
)
_MAX_SECTIONS = 2_000
_DESCRIPTION = "I look at the picture."
_RATIONALES = "What the picture shows answers the question."


@dataclass(frozen=True)
class Section:
    """`title` is description, rationales, lead_in, step, answer, or "" for any other heading; `number` counts steps."""

    title: str
    number: int
    body: str


def sections(text: str) -> tuple[str, list[Section]]:
    """What stands before the first heading, and the sections in order; bodies are stripped. One linear scan.

    Headings beyond the first 2,000 belong to the last section.
    """
    edges = [*(match.start() for match in islice(_MARK.finditer(text), _MAX_SECTIONS)), len(text)]
    return text[: edges[0]].strip(), [_section(text, start + 3, end) for start, end in pairwise(edges)]


def _section(text: str, start: int, end: int) -> Section:
    title = _TITLE.match(text, start, end)
    if title is None:
        return Section("", 0, text[start:end].strip())
    name = "step" if title["step"] else str(title.lastgroup)
    return Section(name, int(title["number"] or 0), text[title.end() : end].strip())


def is_filled(text: str) -> bool:
    """Whether anything can be seen in the text: invisible characters fill no section."""
    return any(character.isprintable() and not character.isspace() for character in text)


def is_complete_and_ordered(found: Sequence[Section]) -> bool:
    """Description, rationales, steps 1..K (K > 0) and the answer, each once, in this order, none empty; nothing else."""
    titles = [section.title for section in found if section.title != "lead_in"]
    num_steps = len(titles) - 3
    if num_steps < 1 or titles != ["description", "rationales", *["step"] * num_steps, "answer"]:
        return False
    lead_ins = [place for place, section in enumerate(found) if section.title == "lead_in"]
    if lead_ins and (lead_ins != [2] or found[2].body):
        return False
    numbers = [section.number for section in found if section.title == "step"]
    return numbers == [*range(1, num_steps + 1)] and all(is_filled(s.body) for s in found if s.title != "lead_in")


def step_texts(text: str) -> Iterator[str]:
    """Bodies of the `### Step k:` sections in order, whatever their numbers."""
    return (section.body for section in sections(text)[1] if section.title == "step")


def stated_answers(text: str) -> list[str]:
    """What stands under the headings `### The final answer is:`, a lone box opened; empty ones left out."""
    bodies = (section.body for section in sections(text)[1] if section.title == "answer" and is_filled(section.body))
    return [found[0] if len(found := spans.boxes(body)) == 1 else body for body in bodies]


@dataclass(frozen=True)
class Steps:
    """Sections for what is seen, what matters, each step and the answer."""

    name: str = "steps"
    instruction: str = (
        "Answer in sections under these headings, in this order. "
        "### Image Description: what the image shows. ### Rationales: what the question depends on. "
        "### Step 1: the first step of the reasoning; a heading ### Step k: for each further step. "
        "### The final answer is: the answer alone."
    )

    def matches(self, text: str) -> bool:
        """Complete and in order, with nothing before the first heading."""
        before, found = sections(text)
        return not before and is_complete_and_ordered(found)

    def extract(self, text: str) -> str | None:
        """The final answer; None where there is none, or where several differ."""
        answers = set(stated_answers(text))
        return answers.pop() if len(answers) == 1 else None

    def render(self, thought: str, answer: str, steps: Sequence[str] = ()) -> str:
        """A well-formed completion. A thought in this layout keeps its sections and gets the answer.

        Else the thought is the description of the image where there are `steps`; where there are none, its own step
        sections, or its lines, are the steps.
        """
        seen, matters = _DESCRIPTION, _RATIONALES
        if self.matches(thought):
            found = sections(thought)[1]
            seen, matters = found[0].body, found[1].body
            steps = [section.body for section in found if section.title == "step"]
        elif steps:
            seen = thought
        else:
            steps = [body for body in step_texts(thought) if is_filled(body)] or thought.splitlines()
        bodies = filter(is_filled, map(_without_headings, steps))
        return "\n".join(
            [
                f"### Image Description: {_without_headings(seen)}",
                f"### Rationales: {_without_headings(matters)}",
                *(f"### Step {number}: {body}" for number, body in enumerate(bodies, 1)),
                f"### The final answer is: {answer}",
            ]
        )


def _without_headings(text: str) -> str:
    return _MARK.sub("", text).strip()


# ---- Answer formats: what the model is told, what counts as well-formed, and which span is the answer.
#
# A format reward is strict: the thinking part comes first and once, the answer part follows once, neither is empty, and
# nothing stands outside them (in `boxed`, prose may surround the one box; for `steps` see step_format.py). Only the
# completion is looked at.

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
