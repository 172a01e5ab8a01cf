"""Where an answer stands in a response: the thinking part, answer tags, and boxes. Every scan is linear."""

from __future__ import annotations

import re

_THINK_OPEN, _THINK_CLOSE = "<think>", "</think>"
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:\{|(?=[^\s{]))")
_PLACEHOLDER = re.compile(r"\\(?:phantom|hspace)\s*\{[^{}]*\}|\\(?:square|Box|quad|qquad|cdots|ldots|dots|_)")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_RIVAL = re.compile(
    r"[^a-zA-Z\d]*(?:\d|[A-H](?![A-Za-z]))(?:\\[a-zA-Z]+|[^\w\\]|[\d_]|\b(?:[A-H]|or|and|maybe|not|to|but|possibly|vs|is|it|the|answer|because|since)\b)*",
    re.IGNORECASE,
)
_MAX_BOXES = 64
_MAX_BOX_CHARACTERS = 8_000


def after_thinking(text: str) -> str:
    """What follows the last `</think>`; all of the text where nothing was thought; "" where the thought never ends."""
    end = text.rfind(_THINK_CLOSE)
    if end >= 0:
        return text[end + len(_THINK_CLOSE) :]
    return "" if _THINK_OPEN in text else text


def tagged(text: str) -> list[str]:
    """Contents of the `<answer>` parts in order; an answer that was never closed is not one."""
    if "</answer>" not in text.lower():
        return []
    return [match.group(1).strip() for match in _ANSWER.finditer(text)]


def unboxed(answer: str) -> str:
    """The content of the one box in an answer part, where nothing beside it could be another answer; else all of it."""
    found = boxes(answer)
    match = _BOX.search(answer)
    if len(found) != 1 or match is None or not match.group().endswith("{"):
        return answer
    end = closing_brace(answer, match.end())
    sides = [answer[: match.start()], answer[end + 1 :] if end is not None else ""]
    return answer if any(_RIVAL.fullmatch(side) and "=" not in side for side in sides) else found[0]


def unclosed_answer(text: str) -> str | None:
    """What follows an `<answer>` that the response never closed."""
    start = text.lower().rfind("<answer>")
    return text[start + len("<answer>") :].strip() if start >= 0 and "</answer>" not in text[start:].lower() else None


def boxes(text: str) -> list[str]:
    """Contents of the outermost boxes in order; nested ones unwrapped; an unclosed one runs to its line's end."""
    found: list[str] = []
    position = 0
    while len(found) < _MAX_BOXES and (match := _BOX.search(text, position)):
        if match.group().endswith("{"):
            end = closing_brace(text, match.end())
            stop = end if end is not None else _line_end(text, match.end())
            content, position = text[match.end() : stop], stop + (end is not None)
        else:  # \boxed 5
            content, position = text[match.end() : match.end() + 1], match.end() + 1
        found.append(_unnest(content.strip()))
    return [content for content in found if _PLACEHOLDER.sub("", content).strip(" .{}$?_")]


def _unnest(content: str) -> str:
    """`\\boxed{\\boxed{5}}` holds 5."""
    for _ in range(8):
        match = re.fullmatch(r"\$?\s*\\(?:boxed|fbox)\s*\{(.*)\}\s*\$?", content, re.DOTALL)
        if match is None:
            return content
        content = match.group(1).strip()
    return content


def closing_brace(text: str, start: int) -> int | None:
    """Index of the brace that closes the one before `start`; escaped braces do not count."""
    depth = 1
    for match in _BRACE.finditer(text, start, min(len(text), start + _MAX_BOX_CHARACTERS)):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth == 0:
            return match.start()
    return None


def _line_end(text: str, start: int) -> int:
    end = text.find("\n", start)
    return min(len(text) if end < 0 else end, start + 2_000)
