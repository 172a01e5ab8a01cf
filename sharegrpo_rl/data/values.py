"""The single values of a row: question, ground truth, numbers; `where` names row and column in errors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sharegrpo_rl.data.messages import IMAGE_MARK
from sharegrpo_rl.data.wordings import are_closed
from sharegrpo_rl.errors import UserError

_ANSWER_TYPES = {
    **{name: name for name in ("numeric", "true_false", "yes_no", "multiple_choice", "word")},
    **{name: "numeric" for name in ("integer", "float", "number")},
    **{name: "multiple_choice" for name in ("multi_choice", "choice", "option")},
    **{name: "word" for name in ("text", "string")},
}
_FINAL_HEADING = "### The final answer is:"
_TAGGED = re.compile(r"\s*<answer>(.*)</answer>\s*", re.DOTALL)


def question_text(value: Any, where: str) -> str:
    """A string, or chat messages with one user turn; image parts become `<image>` marks."""
    if isinstance(value, list):
        turns = [turn for turn in value if isinstance(turn, Mapping) and turn.get("role") != "system"]
        if len(turns) != 1 or turns[0].get("role") != "user":
            raise UserError(f"{where} must hold one user message; dialogues of several turns are not supported")
        value = turns[0].get("content")
        if isinstance(value, list):
            value = "".join(_part_text(part, where) for part in value)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where} is {str(value)[:40]!r}, not a text; write the question there")
    return value.strip()


def _part_text(part: Any, where: str) -> str:
    if isinstance(part, Mapping) and part.get("type") == "image":
        return IMAGE_MARK
    if isinstance(part, Mapping) and isinstance(part.get("text"), str):
        return part["text"]
    raise UserError(f"{where} has a message part that is neither text nor image: {str(part)[:40]!r}")


def answer_text(value: Any, choices: tuple[str, ...], where: str) -> str:
    """The ground truth as a text: `<answer>` tags taken off, an index into the choices becomes its letter."""
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if isinstance(value, bool):
        value = "true" if value else "false"
    elif isinstance(value, int) and str(value) not in choices and 0 <= value < len(choices):
        value = choices[value] if are_closed(choices) else chr(ord("A") + value)
    if not isinstance(value, str | int | float):
        raise UserError(f"{where} is a {type(value).__name__}, not one answer; store a text or a number")
    tagged = _TAGGED.fullmatch(str(value))
    text = (tagged.group(1) if tagged else str(value)).strip()
    if not text:
        raise UserError(f"{where} is empty; give the ground truth or drop the row")
    return text


def last_boxed(text: str) -> str | None:
    """What stands in the last \\boxed{...} of a text, braces balanced; None without one."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    first = start + len("\\boxed{")
    depth = 1
    for place in range(first, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[first:place]
    return None


def answer_kind(value: Any) -> str | None:
    """One of our answer types for the names in use; None (tell from the answer) for any other."""
    return _ANSWER_TYPES.get(str(value).lower())


def stated_answer(text: str) -> str | None:
    """What follows the last heading `### The final answer is:` of a text; None without one, or where nothing does."""
    _, heading, answer = text.rpartition(_FINAL_HEADING)
    return answer.strip() or None if heading else None


def optional_text(value: Any) -> str | None:
    """The value as a text; None where there is nothing in it."""
    return None if value is None or not str(value).strip() else str(value)


def optional_number(value: Any, where: str) -> float | None:
    """The value as a number; None where it is missing or empty."""
    if value is None or value == "":
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UserError(f"{where} is {str(value)[:40]!r}, not a number; correct the row") from None
