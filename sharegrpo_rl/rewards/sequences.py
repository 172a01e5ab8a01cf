"""Answers of several parts: tuples, intervals, sets, and bare lists."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from sharegrpo_rl.rewards.canonical import canonical

_PAIRS = {"(": ")", "[": "]", "{": "}"}
_MAX_ITEMS = 64
_BETWEEN = re.compile(r"^([^<>=]+)(<=?)\s*[A-Za-z]\s*(<=?)([^<>=]+)$")
_BOUND = re.compile(r"^[A-Za-z]\s*([<>]=?)([^<>=]+)$")
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


def parse_sequence(text: str) -> Sequence | None:
    """A tuple, interval, set or bare list of two parts or more, or a bracketed single part; else None."""
    text = re.sub(r"^(?:[A-Za-z]\w*\s*(?:=|\\in)\s*)(?=[(\[{\\])", "", canonical(text)).strip()
    text = re.sub(r"^\([a-z](?:\s*,\s*[a-z])+\)\s*=\s*", "", text)
    if not text:
        return None
    if text[0] in _PAIRS and _closing_of(text) == len(text) - 1:
        items = _split(text[1:-1])
        if items and (len(items) > 1 or text[0] in "[{"):
            return Sequence(tuple(items), text[0], text[-1])
        return None
    if both := re.match(r"(?:±|\\pm)\s*([^,;]+)$", text):
        return Sequence((both.group(1), f"-{both.group(1)}"))
    items = _split(text)
    return Sequence(tuple(items)) if items and len(items) > 1 else None


def interval_of(text: str) -> Sequence | None:
    """The interval that an inequality in one unknown says: `x <= 4` is (-infinity, 4], `1 < x <= 4` is (1, 4]."""
    plain = canonical(text)
    if between := _BETWEEN.match(plain):
        low, first, second, high = between.groups()
        return Sequence((low.strip(), high.strip()), "[" if "=" in first else "(", "]" if "=" in second else ")")
    if (bound := _BOUND.match(plain)) is None:
        return None
    sign, value = bound.groups()
    if sign.startswith("<"):
        return Sequence(("-\\infty", value.strip()), "(", "]" if "=" in sign else ")")
    return Sequence((value.strip(), "\\infty"), "[" if "=" in sign else "(", ")")


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
