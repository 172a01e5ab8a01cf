"""Multiple choice: which option an answer names, by its letter in any dress or by its text."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import lru_cache

from sharegrpo_rl.rewards.canonical import canonical, content_words, squeezed
from sharegrpo_rl.rewards.quantities import parse_quantity, same_quantity

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LEAD = (
    r"(?:(?:so|thus|therefore|hence),?\s*)?(?:(?:the|my|our)\s+)?(?:(?:final|correct|right|best|most\s+likely)\s+)*"
    r"(?:answer|option|choice|letter|选项|答案)?\s*(?:letter\s+)?(?:is|would\s+be|should\s+be|:|为|是|选)?\s*(?:option|choice|letter|answer|选项)?\s*:?\s*"
)
_ALONE = re.compile(rf"^{_LEAD}[\(\[（{{<]*\s*([A-Za-z])\s*[\)\]）}}>]*\s*[.:,;。]?$", re.IGNORECASE)
_DRESSED = re.compile(
    rf"^{_LEAD}[\(\[（{{]+\s*([A-Za-z])\s*[\)\]）}}]+\s*[-.:,=]?\s*(\S.*)$", re.IGNORECASE | re.DOTALL
)
_MARKED = re.compile(rf"^{_LEAD}([A-Z])\s*(?:[.:)、]\s*|\s[-–—]\s|\s*(?=\())(\S.*)$", re.DOTALL)
_WORDED = re.compile(rf"^{_LEAD}(?:option|choice)\s+[\(\[]?([A-Z])[\)\]]?\b[.:,]?\s*(.*)$", re.DOTALL | re.IGNORECASE)
_PLAIN = re.compile(r"^([A-Z])\s+(\S.*)$", re.DOTALL)
_BETWEEN = re.compile(r"(?:[\s,;/&]|\b(?:or|and|OR|AND)\b)+")


@lru_cache(maxsize=4096)
def _texts(choices: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(squeezed(choice) for choice in choices)


def letters_named(text: str) -> frozenset[str] | None:
    """The bare letters that a text consists of: {A} for `(A).`, {A, C} for `A and C`; None where it holds more."""
    plain = canonical(text)
    if match := _ALONE.match(plain):
        return frozenset(match.group(1).upper())
    parts = [part.strip("()[].") for part in _BETWEEN.split(plain) if part]
    if parts and len(parts) <= len(LETTERS) and all(len(part) == 1 and part in LETTERS for part in parts):
        return frozenset(parts)
    return None


def _with_letter(plain: str) -> tuple[str, str] | None:
    """(letter, the text after it) of `(C) 36`, `C. 36`, `C (36)`, `option C, 36`."""
    for pattern in (_DRESSED, _MARKED, _WORDED):
        if match := pattern.match(plain):
            return match.group(1).upper(), match.group(2)
    return None


def by_text(text: str, choices: tuple[str, ...]) -> frozenset[int]:
    """Indices of the options whose text this is: typed the same, the same number, or the same words."""
    key = squeezed(text)
    found = frozenset(i for i, choice in enumerate(_texts(choices)) if choice == key)
    if found or not key:
        return found
    quantity = parse_quantity(text)
    if quantity is not None:
        others = [parse_quantity(choice) for choice in choices]
        return frozenset(i for i, other in enumerate(others) if other is not None and same_quantity(quantity, other))
    words = content_words(text)
    return frozenset(i for i, choice in enumerate(choices) if words and content_words(choice) == words)


def _letter_index(letter: str, choices: tuple[str, ...]) -> frozenset[int]:
    index = LETTERS.index(letter)
    return frozenset({index}) if index < len(choices) else frozenset()


def resolve(text: str, options: Sequence[str], *, gold: bool = False) -> frozenset[int]:
    """Indices of the options that the text names: one, several where it names several, or none.

    A letter followed by the text of another option names both. A gold that is an option's exact text is that option,
    unless it is a bare capital in range, which is a label.
    """
    choices = tuple(options)
    stripped = text.strip()
    label = len(stripped) == 1 and stripped in LETTERS[: len(choices)]
    if not label and (typed := frozenset(i for i, choice in enumerate(choices) if choice.strip() == stripped)):
        return typed
    plain = canonical(text)
    letters = letters_named(text)
    if letters is not None:
        named = frozenset().union(*(_letter_index(letter, choices) for letter in letters))
        if named and not (len(stripped) == 1 and stripped.islower() and by_text(text, choices)):
            return named
        return by_text(text, choices)
    if (found := by_text(text, choices)) and not gold:
        return found
    if found:
        return found
    if (pair := _with_letter(plain)) is not None:
        return _reconcile(*pair, choices)
    if (pair_plain := _PLAIN.match(plain)) and by_text(pair_plain.group(2), choices) == _letter_index(
        pair_plain.group(1), choices
    ):
        return _letter_index(pair_plain.group(1), choices)
    return frozenset()


def _contradicts(rest: str, choice: str) -> bool:
    said, offered = parse_quantity(rest), parse_quantity(choice)
    return said is not None and offered is not None and not math.isclose(said.value, offered.value, rel_tol=0.02)


def _reconcile(letter: str, rest: str, choices: tuple[str, ...]) -> frozenset[int]:
    rest = rest.strip()
    if rest.startswith("(") and rest.endswith(")") and not by_text(rest, choices):
        rest = rest[1:-1]
    by_letter, of_rest = _letter_index(letter, choices), by_text(rest, choices)
    if not of_rest and any(_contradicts(rest, choices[i]) for i in by_letter):
        return frozenset()  # a letter beside a number that is no option
    if not of_rest and len(rest) <= 60:
        by_letter |= resolve(rest, choices)  # `A, or (B)` names both
    if by_letter & of_rest or not of_rest:
        return by_letter
    return by_letter | of_rest


def letters_before_text(text: str) -> frozenset[str] | None:
    """The letter of `(A) 36` or `A. 36`, where the options themselves are unknown."""
    pair = _with_letter(canonical(text))
    return frozenset(pair[0]) if pair is not None else None
