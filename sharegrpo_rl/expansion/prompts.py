"""What a model is asked, and the JSON list in what it replies.

A change of wording changes the version, which is stored with the data made with it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from sharegrpo_rl.data.messages import IMAGE_MARK

REWRITE_VERSION = "rewrite-1"
KEY_STEPS_VERSION = "key-steps-1"
SOLVE_VERSION = "solve-1"
SHOWN_MARK = "[IMAGE]"  # vision-language servers expect a picture for each `<image>`

# Models wrap a list in fences, prose, thoughts or an object, and escape LaTeX wrongly.
_THOUGHT = re.compile(r"\A.*</think>", re.DOTALL)
_DECODER = json.JSONDecoder()
_OPENING = re.compile(r"[\[{]")
_LATEX = re.compile(r"(?<!\\)\\(?=[a-zA-Z]{2,}|[(){}\[\],;:! ])(?!u[0-9a-fA-F]{4})(?![nrt][A-Z])")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_MAX_STARTS = 50  # brackets tried as the beginning of the list

_REWRITE = """Say a question in {count} other ways.
Somebody who reads only your version{and_sees} must arrive at exactly the answer of the original.

- Vary words and sentence structure, and make your versions differ from each other, too.
- Copy every number, unit, formula, variable and point name as it stands.{options}{images}
- Ask for the same thing, in the same form of answer, in the same language.
- Leave out nothing, add nothing, give no hint and no answer.

The question:
{question}
{before}
Reply with a JSON list of {count} strings and nothing else."""

_OPTIONS = "\n- Copy the answer options with their letters, in their order."
_IMAGES = (
    "\n- Where the original speaks of an image, figure or the like, your versions do so too. Keep every [IMAGE] mark."
)

_KEY_STEPS = """Below stands a worked solution of a problem.
List the key steps that a correct line of thought cannot do without:
intermediate quantities, relations, equations, names of the rules used.

- Give each step as a list. Its first entry is copied from the solution letter by letter:
  a number, an equation, or a phrase of at most 3 words.
- After it, in the same list, put other forms in which somebody might write the same thing, where there are any:
  0.5 and 1/2, 3 x 4 and 3*4, "right-angled triangle" and "right triangle".
- In the order of the solution, each step once, at most {most} steps.
- Leave out the final answer, descriptions of the image, and filler.

The problem:
{question}

The solution:
{solution}

Reply with a JSON list of lists of strings and nothing else."""

_SOLVE = "{question}\n\nThink it through briefly, then give the final answer inside \\boxed{{}}."


def rewrite_prompt(
    question: str, count: int, *, has_images: bool, has_options: bool, kept: Sequence[str], refused: Sequence[str]
) -> str:
    """Asks for `count` rewordings; `kept` are there already, `refused` are earlier ones, each with what was wrong."""
    before = ""
    if kept:
        before += "\nThese versions exist already, write others:\n" + "\n".join(f"- {text}" for text in kept) + "\n"
    if refused:
        before += "\nThese were not good enough:\n" + "\n".join(f"- {text}" for text in refused) + "\n"
    return _REWRITE.format(
        count=count,
        and_sees=" and sees the picture" if has_images else "",
        options=_OPTIONS if has_options else "",
        images=_IMAGES if has_images else "",
        question=shown(question),
        before=shown(before),
    )


def key_steps_prompt(question: str, solution: str, most: int) -> str:
    """Asks for the key steps of a reference solution, each with equivalent forms."""
    return _KEY_STEPS.format(question=shown(question), solution=shown(solution), most=most)


def solve_prompt(question: str) -> str:
    """Asks for the answer in a box; `<image>` marks stay, as the images come with it."""
    return _SOLVE.format(question=question)


def shown(text: str) -> str:
    """The text as the model reads it where no image comes with it."""
    return text.replace(IMAGE_MARK, SHOWN_MARK)


def restored(text: str) -> str:
    """What the model wrote, with our marks."""
    return text.replace(SHOWN_MARK, IMAGE_MARK)


class NoList(ValueError):
    """The reply has no JSON list of the requested form."""


def text_list(reply: str) -> list[str]:
    """The strings of a list of texts; NoList for anything else. Objects with one text each count as that text."""
    for value in _values(reply):
        texts = [_text_of(item) for item in _items(value)]
        if texts and all(text is not None for text in texts):
            return [text for text in texts if text is not None]
    raise NoList("no JSON list of texts in the reply")


def text_lists(reply: str) -> list[list[str]]:
    """The lists of a list of lists of texts; a text among them counts as a list of one. NoList for anything else."""
    for value in _values(reply):
        groups = [[item] if isinstance(item, str) else item for item in _items(value)]
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
    # Read literally, \frac is a form feed and the letters "rac"; other broken escapes are not JSON at all.
    return repaired + plain if any(map(_holds_controls, plain)) else plain + repaired


def _decoded(text: str) -> list[Any]:
    values: list[Any] = []
    position = 0
    for _ in range(_MAX_STARTS):
        start = _OPENING.search(text, position)
        if start is None:
            break
        try:
            value, position = _DECODER.raw_decode(text, start.start())
            values.append(value)
        except (ValueError, RecursionError):
            position = start.start() + 1
    return values


def _holds_controls(value: Any) -> bool:
    if isinstance(value, str):
        return _CONTROLS.search(value) is not None
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, list) and any(map(_holds_controls, value))


def _items(value: Any) -> list[Any]:
    """A list; or the one list in an object; or the values of an object such as {"1": ..., "2": ...}; else []."""
    if isinstance(value, list):
        return value
    lists = [item for item in value.values() if isinstance(item, list)]
    if len(lists) == 1:
        return lists[0]
    return [] if lists or len(value) < 2 else list(value.values())


def _text_of(item: Any) -> str | None:
    if isinstance(item, dict) and len(item) == 1:
        (item,) = item.values()
    return item if isinstance(item, str) else None
