"""Multiple choice: which options an answer names, by letter or by text, and whether they are the right ones."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from sharegrpo_rl.grader.lists import flipped, parse_list
from sharegrpo_rl.grader.numbers import Quantity, conversion, parse_quantity, same_quantity
from sharegrpo_rl.grader.text import canonical, content_words, normalized
from sharegrpo_rl.grader.words import HEDGED, LETTERS, REASON, joined_letters, letter_and_rest, letters_named

Indices = frozenset[int]
NO_OPTIONS: Indices = frozenset()

_BRACKETED_LETTER = re.compile(r"[\(\[（]\s*([A-Z])\s*[\)\]）]")
_LONE_CAPITAL = re.compile(r"(?<![A-Za-z])[A-Z](?![A-Za-z])")
_LETTER_THEN_TEXT = re.compile(r"^([A-Z])\s+(\S.*)$", re.DOTALL)
_TEXT_THEN_LETTER = re.compile(r"^(\S.*?)\s*\(\s*(?:(?:option|choice)\s+)?([A-Z])\s*\)$", re.DOTALL)
_ORDINALS = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth"]
_ORDINAL = re.compile(rf"^(?:the\s+)?({'|'.join(_ORDINALS)})\s+(?:option|choice|answer|one)$", re.IGNORECASE)
_ALTERNATIVES = re.compile(
    r"[,;/|&\n、～~]|\.{2,}|或|和|\\(?:quad|lor|vee|cup|pm)(?![a-z])|±|\b(?:or|and|vs|to|maybe|but|possibly|not|rather|than)\b",
    re.I,
)
_MAX_HEDGED_CHARACTERS = 200  # of the text next to a letter
_MAX_PLAIN_CHARACTERS = 60


def named_options(text: str, options: Sequence[str]) -> Indices:
    """Indices of the options that the text names: one, several where it names several, or none.

    A letter followed by the text of another option names both. A gold that is an option's exact text is that option,
    unless it is a bare capital in range, which is a label.
    """
    choices = tuple(options)
    stripped = text.strip()
    is_label = len(stripped) == 1 and stripped in LETTERS[: len(choices)]
    if not is_label and (exact := _indices(choice.strip() == stripped for choice in choices)):
        return exact
    letters = letters_named(text)
    if letters is not None:
        by_letter = _by_letters(letters, choices)
        is_text = len(stripped) == 1 and stripped.islower() and by_text(text, choices)
        return by_letter if by_letter and not is_text else by_text(text, choices)
    return by_text(text, choices) or _by_letter_and_text(text, choices)


def _by_letter_and_text(text: str, choices: tuple[str, ...]) -> Indices:
    """Options of `ACD`, `the second option`, `(A) 36`, `36 (A)`, `A 36`, and of any of these before a reason."""
    plain = canonical(text)
    joined = joined_letters(text)
    if joined is not None and len(joined) <= len(choices):
        return _by_letters(joined, choices)
    if ordinal := _ORDINAL.match(plain):
        return _indices(word == ordinal.group(1).lower() for word, _ in zip(_ORDINALS, choices, strict=False))
    if (reason := REASON.search(plain)) and reason.start():
        return named_options(plain[: reason.start()], choices)
    if (pair := letter_and_rest(plain)) is not None:
        return _reconciled(*pair, choices)
    if (match := _TEXT_THEN_LETTER.match(plain)) and (named := by_text(match.group(1), choices)):
        return named | _by_letters(match.group(2), choices)  # `36 (C)`; two options where they differ
    if match := _LETTER_THEN_TEXT.match(plain):
        by_letter = _by_letters(match.group(1), choices)
        return by_letter if by_text(match.group(2), choices) == by_letter else NO_OPTIONS
    return NO_OPTIONS


def _reconciled(letter: str, rest: str, choices: tuple[str, ...]) -> Indices:
    """The option of a letter and the text next to it; both if they differ, none where the text is a number of none."""
    rest = rest.strip()
    if rest.startswith("(") and rest.endswith(")") and not by_text(rest, choices):
        rest = rest[1:-1]
    by_letter, by_rest = _by_letters(letter, choices), by_text(rest, choices)
    if by_rest:
        return by_letter if by_letter & by_rest else by_letter | by_rest
    rest = REASON.sub("", rest)
    if any(_is_another_number(rest, choices[i]) for i in by_letter):
        return NO_OPTIONS
    if len(rest) <= (_MAX_HEDGED_CHARACTERS if HEDGED.search(rest) else _MAX_PLAIN_CHARACTERS):
        for alternative in filter(None, _ALTERNATIVES.split(rest)):  # `A, or (B)` and `A 40° or (B) 60°` name both
            by_letter |= named_options(alternative.strip(), choices)
        by_letter |= _by_letters(_BRACKETED_LETTER.findall(rest), choices)
    return by_letter


def _is_another_number(text: str, choice: str) -> bool:
    number, offered = parse_quantity(text), parse_quantity(choice)
    return number is not None and offered is not None and not math.isclose(number.value, offered.value, rel_tol=0.02)


def _by_letters(letters: Iterable[str], choices: tuple[str, ...]) -> Indices:
    """Letters beyond the options name none."""
    named = set(letters)
    return _indices(letter in named for letter, _ in zip(LETTERS, choices, strict=False))


def _indices(flags: Iterable[bool]) -> Indices:
    return frozenset(i for i, flag in enumerate(flags) if flag)


def by_text(text: str, choices: tuple[str, ...]) -> Indices:
    """Indices of the options whose text this is: typed the same, the same number, or the same words."""
    plain, other_way = normalized(text), normalized(flipped(text) or "")
    same = _indices(choice in (plain, other_way or plain) for choice in _normalized(choices))
    if same or not plain:
        return same
    number = parse_quantity(text)
    if number is not None:
        numbers = [parse_quantity(choice) for choice in choices]
        same = _indices(other is not None and same_quantity(number, other) for other in numbers)
        return same or _rounded(text, number, choices)
    words = content_words(text)
    return _indices(bool(words) and content_words(choice) == words for choice in choices)


@lru_cache(maxsize=4096)
def _normalized(choices: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(normalized(choice) for choice in choices)


def _rounded(text: str, number: Quantity, choices: tuple[str, ...]) -> Indices:
    """The one option that a decimal rounds (`95.3` for 95.26, `3.46` for 2√3), where all others are far from it."""
    decimals = _num_decimals(text)
    offered = [parse_quantity(choice) for choice in choices]
    if not decimals or any(other is None or conversion(number.unit, other.unit) != 1 for other in offered):
        return NO_OPTIONS
    gaps = [abs(float(number.value) - float(other.value)) for other in offered if other is not None]
    rounding = [0.5 * 10.0 ** -min(decimals, _num_decimals(choice) or decimals) * (1 + 1e-9) for choice in choices]
    close = _indices(gap <= limit for gap, limit in zip(gaps, rounding, strict=True))
    others_are_far = all(gap > 0.05 * abs(float(number.value)) for i, gap in enumerate(gaps) if i not in close)
    return close if len(close) == 1 and others_are_far else NO_OPTIONS


def _num_decimals(text: str) -> int:
    """Decimals of the first number written with any."""
    number = re.search(r"\d\.(\d{1,9})", canonical(text))
    return len(number.group(1)) if number else 0


def names_a_letter(text: str, choices: tuple[str, ...]) -> bool:
    """Whether an option's letter appears anywhere in the text by itself."""
    return not set(_LONE_CAPITAL.findall(text)).isdisjoint(LETTERS[: len(choices)])


def listed_options(answer: str, choices: tuple[str, ...]) -> tuple[Indices, bool] | None:
    """The options in a list of nothing but options and numbers, and whether all its items are options."""
    parts = parse_list(answer)
    if parts is None:
        return None
    named = [named_options(item, choices) for item in parts.items]
    if not all(indices or parse_quantity(item) is not None for indices, item in zip(named, parts.items, strict=True)):
        return None
    return NO_OPTIONS.union(*named), all(named)


def option_texts(indices: Indices, choices: tuple[str, ...]) -> set[str]:
    """Some data sets offer one text under two letters."""
    return {normalized(choices[i]) for i in indices}
