"""The JSON list inside a reply: models wrap it in fences, prose, thoughts or an object, and escape LaTeX wrongly."""

from __future__ import annotations

import json
import re
from typing import Any

_THOUGHT = re.compile(r"\A.*</think>", re.DOTALL)
_DECODER = json.JSONDecoder()
_OPENING = re.compile(r"[\[{]")
_LATEX = re.compile(r"(?<!\\)\\(?=[a-zA-Z]{2,}|[(){}\[\],;:! ])(?!u[0-9a-fA-F]{4})(?![nrt][A-Z])")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_MAX_STARTS = 50  # brackets tried as the beginning of the list


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
