"""Multiple choice: which option an answer names, by its letter in any dress or by its text."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import lru_cache

from sharegrpo_rl.grader.key import HEDGED, REASON
from sharegrpo_rl.grader.lists import flipped
from sharegrpo_rl.grader.numbers import Quantity, conversion, parse_quantity, same_quantity
from sharegrpo_rl.grader.text import canonical, content_words, squeezed

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_NOUN = r"(?:option|choice|letter|answer|picture|figure|image|diagram|graph|选项|答案|图)"
_LEAD = (
    r"(?:[解答]\s*[:：]?\s*)?(?:(?:so|thus|therefore|hence),?\s*)?(?:(?:the|my|our)\s+)?(?:(?:final|correct|right|best|most\s+likely)\s+)*"
    rf"{_NOUN}?\s*(?:letter\s+)?(?:is|would\s+be|should\s+be|:|为|是|故?选|故?应?选择?)?\s*{_NOUN}?\s*:?\s*"
)
_ALONE = re.compile(
    rf"^{_LEAD}[\(\[（{{<\"']*\s*([A-Za-z])\s*[\)\]）}}>\"']*\s*(?:选项|项|option|choice)?\s*[.:,;。]?$", re.IGNORECASE
)
_DRESSED = re.compile(
    rf"^{_LEAD}[\(\[（{{]+\s*([A-Za-z])\s*[\)\]）}}]+\s*[-.:,=]?\s*(\S.*)$", re.IGNORECASE | re.DOTALL
)
_MARKED = re.compile(rf"^{_LEAD}([A-Z])\s*(?:[.:)、]\s*|\s[-–—]\s|\s*(?=\())(\S.*)$", re.DOTALL)
_WORDED = re.compile(
    rf"^{_LEAD}(?:option|choice)\s+(?:[\(\[]([A-Z])[\)\]]|([A-Z])\s*(?:[.:,]|$))\s*(.*)$", re.DOTALL | re.IGNORECASE
)
_PIECES = re.compile(
    r"[,;/|&\n、～~]|\.{2,}|或|和|\\(?:quad|lor|vee|cup|pm)(?![a-z])|±|\b(?:or|and|vs|to|maybe|but|possibly|not|rather|than)\b",
    re.I,
)
_IN_BRACKETS = re.compile(r"[\(\[（]\s*([A-Z])\s*[\)\]）]")
_MAX_PLAIN_REST = 60
_MAX_REST = 200
_CAPITAL = re.compile(r"(?<![A-Za-z])[A-Z](?![A-Za-z])")
_OR_ELSE = re.compile(r"\W*(?:or|and|maybe|perhaps|possibly|not)\b", re.IGNORECASE)
_PLAIN = re.compile(r"^([A-Z])\s+(\S.*)$", re.DOTALL)
_BEHIND = re.compile(r"^(\S.*?)\s*\(\s*(?:(?:option|choice)\s+)?([A-Z])\s*\)$", re.DOTALL)
_ORDINALS = {
    word: i for i, word in enumerate(["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth"])
}
_ORDINAL = re.compile(rf"^(?:the\s+)?({'|'.join(_ORDINALS)})\s+(?:option|choice|answer|one)$", re.IGNORECASE)
_BETWEEN = re.compile(r"(?:[\s,;/&]|(?<=\))(?=\()|\b(?:or|and|OR|AND)\b)+")


@lru_cache(maxsize=4096)
def _texts(choices: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(squeezed(choice) for choice in choices)


def letters_named(text: str) -> frozenset[str] | None:
    """The bare letters that a text consists of: {A} for `(A).`, {A, C} for `A and C`; None where it holds more."""
    plain = canonical(text)
    if match := _ALONE.match(plain):
        return frozenset(match.group(1).upper())
    parts = [part.strip("()[].\"'") for part in _BETWEEN.split(plain) if part]
    if parts and len(parts) <= len(LETTERS) and all(len(part) == 1 and part in LETTERS for part in parts):
        return frozenset(parts)
    return None


def joined_letters(text: str, *, any_order: bool = False) -> frozenset[str] | None:
    """The letters of `ACD`, several choices written together (in their order); None for any other text."""
    plain = canonical(text).strip(" .()")
    letters = sorted(plain) if any_order else list(plain)
    several = len(plain) > 1 and sorted(set(plain)) == letters and set(plain) <= set(LETTERS[:8])
    return frozenset(plain) if several else None


def _with_letter(plain: str) -> tuple[str, str] | None:
    """(letter, the text beside it) of `(C) 36`, `C. 36`, `C (36)`, `option C, 36`."""
    for pattern in (_DRESSED, _MARKED, _WORDED):
        if match := pattern.match(plain):
            *letters, rest = match.groups()
            return next(letter for letter in letters if letter).upper(), rest
    return None


def by_text(text: str, choices: tuple[str, ...]) -> frozenset[int]:
    """Indices of the options whose text this is: typed the same, the same number, or the same words."""
    key, other_way = squeezed(text), squeezed(flipped(text) or "")
    found = frozenset(i for i, choice in enumerate(_texts(choices)) if choice in (key, other_way or key))
    if found or not key:
        return found
    quantity = parse_quantity(text)
    if quantity is not None:
        others = [parse_quantity(choice) for choice in choices]
        same = {i for i, other in enumerate(others) if other is not None and same_quantity(quantity, other)}
        return frozenset(same) or _rounded(text, quantity, choices)
    words = content_words(text)
    return frozenset(i for i, choice in enumerate(choices) if words and content_words(choice) == words)


def _rounded(text: str, said: Quantity, choices: tuple[str, ...]) -> frozenset[int]:
    """The one option that a decimal rounds (`95.3` for 95.26, `3.46` for 2√3), where all others are far from it."""
    places = _places(text)
    offered = [parse_quantity(choice) for choice in choices]
    if not places or any(other is None or conversion(said.unit, other.unit) != 1 for other in offered):
        return frozenset()
    gaps = [abs(float(said.value) - float(other.value)) for other in offered if other is not None]
    decimals = [min(places, _places(choice) or places) for choice in choices]
    close = [i for i, gap in enumerate(gaps) if gap <= 0.5 * 10.0 ** -decimals[i] * (1 + 1e-9)]
    far = all(gap > 0.05 * abs(float(said.value)) for i, gap in enumerate(gaps) if i not in close)
    return frozenset(close) if len(close) == 1 and far else frozenset()


def _places(text: str) -> int:
    """Decimals of the first number written with any."""
    found = re.search(r"\d\.(\d{1,9})", canonical(text))
    return len(found.group(1)) if found else 0


def _letter_index(letter: str, choices: tuple[str, ...]) -> frozenset[int]:
    index = LETTERS.index(letter)
    return frozenset({index}) if index < len(choices) else frozenset()


def resolve(text: str, options: Sequence[str]) -> frozenset[int]:
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
    if found := by_text(text, choices):
        return found
    if (together := joined_letters(text)) is not None and len(choices) >= len(together):
        return frozenset().union(*(_letter_index(letter, choices) for letter in together))
    if ordinal := _ORDINAL.match(plain):
        return frozenset({_ORDINALS[ordinal.group(1).lower()]} & set(range(len(choices))))
    if (reason := REASON.search(plain)) and reason.start():
        return resolve(plain[: reason.start()], choices)
    if (pair := _with_letter(plain)) is not None:
        return _reconcile(*pair, choices)
    if (behind := _BEHIND.match(plain)) and (before := by_text(behind.group(1), choices)):
        return before | _letter_index(behind.group(2), choices)  # `36 (C)`; two options where they differ
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
    rest = rest if of_rest else REASON.sub("", rest)
    if not of_rest and any(_contradicts(rest, choices[i]) for i in by_letter):
        return frozenset()  # a letter beside a number that is no option
    if not of_rest and len(rest) <= (_MAX_REST if HEDGED.search(rest) else _MAX_PLAIN_REST):
        for piece in filter(None, _PIECES.split(rest)):  # `A, or (B)` and `A 40° or (B) 60°` name both
            by_letter |= resolve(piece.strip(), choices)
        for letter in _IN_BRACKETS.findall(rest):
            by_letter |= _letter_index(letter, choices)
    if by_letter & of_rest or not of_rest:
        return by_letter
    return by_letter | of_rest


def names_a_letter(text: str, choices: tuple[str, ...]) -> bool:
    """Whether an option's letter stands anywhere in the text by itself."""
    return not set(_CAPITAL.findall(text)).isdisjoint(LETTERS[: len(choices)])


def letters_before_text(text: str) -> frozenset[str] | None:
    """The letter of `(A) 36` or `A. 36`, where the options themselves are unknown."""
    pair = _with_letter(canonical(text))
    return frozenset(pair[0]) if pair is not None and not _OR_ELSE.match(pair[1]) else None
