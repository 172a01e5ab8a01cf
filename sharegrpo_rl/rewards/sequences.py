"""Answers of several parts: tuples, intervals, sets, and bare lists."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from sharegrpo_rl.rewards.canonical import canonical

_PAIRS = {"(": ")", "[": "]", "{": "}"}
_MAX_ITEMS = 64
_AND = re.compile(r"\s*,?\s*(?:\b(?:and|or)\b|&|\\(?:and|or|text)\b|与|和|或)\s*", re.IGNORECASE)
_THOUSANDS = re.compile(r"^-?\$?\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d)")


@dataclass(frozen=True)
class Sequence:
    """`items` between `opening` and `closing` ("" where the list is bare)."""

    items: tuple[str, ...]
    opening: str = ""
    closing: str = ""

    @property
    def ordered(self) -> bool:
        """Whether the brackets make order matter; a bare list is decided by the question."""
        return self.opening in ("(", "[")

    @property
    def is_interval(self) -> bool:
        """Whether it could be one."""
        return self.ordered and len(self.items) == 2

    @property
    def needs_brackets(self) -> bool:
        """Whether its brackets say more than that it is a list: `[0, 1)` is an interval, `(0, 1)` may be a point."""
        return self.is_interval and "[" in self.opening + self.closing.replace("]", "[")


def _split(text: str) -> list[str] | None:
    """Top-level parts at commas, semicolons and words like `and`; None where brackets do not match."""
    depth, parts, start, i = 0, [], 0, 0
    while i < len(text):
        character = text[i]
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
            if depth < 0:
                return None
        elif depth == 0:
            number = _THOUSANDS.match(text[start:].lstrip()) if character == "," else None
            inside = number is not None and i < start + len(text[start:]) - len(text[start:].lstrip()) + number.end()
            if character in ",;" and not inside:
                parts.append(text[start:i])
                start = i + 1
            elif (word := _AND.match(text, i)) and word.end() > i:
                parts.append(text[start:i])
                start = i = word.end()
                continue
        i += 1
    parts.append(text[start:])
    kept = [part.strip() for part in parts if part.strip()]
    return kept if depth == 0 and len(kept) <= _MAX_ITEMS else None


def _closing_of(text: str) -> int:
    """Index of the bracket that closes the first one, of whatever kind (half-open intervals); -1 for none."""
    depth = 0
    for i, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0:
            return i
    return -1


_LABEL = re.compile(
    r"^(?:the\s+)?(?:(?:ordered\s+pair|points?|vector|interval|set|vertex|coordinates?)\s+(?:is\s+|are\s+)?|(?-i:[A-Z])'?\s*(?=\())(?=[(\[{\\])",
    re.IGNORECASE,
)


def _unlabelled(text: str) -> str:
    """`the point (3, 4)` and `P(3, 4)` without the name."""
    rest = _LABEL.sub("", text)
    return rest if rest and rest[0] in _PAIRS and _closing_of(rest) == len(rest) - 1 else text


def parse_sequence(text: str) -> Sequence | None:
    """A tuple, interval, set or bare list of two parts or more, or a bracketed single part; else None."""
    text = re.sub(r"^(?:[A-Za-z]\w*\s*(?:=|\\in)\s*)(?=[(\[{\\])", "", canonical(text)).strip()
    text = _unlabelled(re.sub(r"^\([a-z](?:\s*,\s*[a-z])+\)\s*=\s*", "", text))
    text = re.sub(r"^\\langle(?![a-zA-Z])(.*)\\rangle$", r"(\1)", text)
    if not text:
        return None
    if text[0] in _PAIRS and _closing_of(text) == len(text) - 1:
        items = _with_both_signs(_split(text[1:-1]))
        if items and (len(items) > 1 or text[0] in "[{"):
            return Sequence(tuple(items), text[0], text[-1])
        return None
    items = _with_both_signs(_split(text))
    return Sequence(tuple(items)) if items and len(items) > 1 else None


def _with_both_signs(items: list[str] | None) -> list[str] | None:
    """`1 ± x` as `1 + x` and `1 - x`."""
    if items is None or len(items) * 2 > _MAX_ITEMS:
        return items
    return [part for item in items for part in _expanded(item)]


def _expanded(item: str) -> list[str]:
    head, sign, tail = re.sub(r"\\pm(?![a-zA-Z])", "±", item).partition("±")
    if not sign or "±" in tail:
        return [item]
    plus = "" if not head.strip() or head.rstrip()[-1] in "=({[" else "+"
    return [f"{head}{plus}{tail}".strip(), f"{head}-{tail}".strip()]


def same_sequence(answer: Sequence, gold: Sequence, same: Callable[[str, str], bool], *, order_matters: bool) -> bool:
    """Equal lengths, brackets that do not contradict each other, and equal parts: in order for tuples and intervals."""
    if len(answer.items) != len(gold.items):
        return False
    if answer.opening and gold.opening and (answer.opening, answer.closing) != (gold.opening, gold.closing):
        return False
    if answer.ordered or gold.ordered or order_matters:
        return all(same(a, g) for a, g in zip(answer.items, gold.items, strict=True))
    left = list(gold.items)
    for item in answer.items:
        match = next((i for i, other in enumerate(left) if same(item, other)), None)
        if match is None:
            return False
        del left[match]
    return True
