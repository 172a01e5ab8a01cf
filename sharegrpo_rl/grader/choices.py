"""Multiple choice: which options an answer names, by letter or by text, and whether they are the right ones."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from sharegrpo_rl.grader.key import AnswerKey
from sharegrpo_rl.grader.lists import compare_lists, flipped, parse_list
from sharegrpo_rl.grader.numbers import Quantity, conversion, parse_quantity, same_quantity
from sharegrpo_rl.grader.text import canonical, normalized
from sharegrpo_rl.grader.words import (
    HEDGED,
    LETTERS,
    REASON,
    joined_letters,
    letter_and_rest,
    letters_named,
    parse_boolean,
    same_phrase,
)

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
_NAME = re.compile(r"^([A-Za-z∠△]\w{0,8}(?:\([^()=]{1,8}\))?)\s*=")
_OR = re.compile(r"\bor\b|或")
_STRUCTURE = re.compile(r"[,;<>≤≥∪(\[{&和与]|\band\b|\\(?:leq?|geq?|lt|gt|cup|in)(?![a-z])")
_NONE_OF_THEM = re.compile(
    r"(?:none|neither|not\s+any|no\s+(?:correct\s+)?(?:option|answer|choice))"
    r"(?:\s+(?:of\s+)?(?:the\s+|these\s*|them\s*|those\s*)?(?:above|options|choices|answers|others|given)?)?"
    r"(?:\s+(?:is|are)\s+(?:correct|right|true))?"
    r"|以上(?:都|皆|均)?(?:不对|不是|不正确|错误)|以上(?:答案|选项)(?:都|均)不(?:对|正确)|都不对|ninguna(?: de las anteriores)?"
    r"|nenhuma(?: das anteriores| das alternativas)?|aucune?(?: des (?:réponses|propositions)(?: ci-dessus)?)?"
    r"|keine?(?: der (?:genannten|obigen|antworten))*|ни один из (?:них|вариантов|перечисленных)|không có đáp án(?: nào)? đúng",
    re.IGNORECASE,
)
_TO = re.compile(r"(?<=\d)\s+to\s+(?=\d)")
_FILLER = re.compile(r"^(?:only|between)\s+|\s+only$|^仅|^只有", re.IGNORECASE)
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
    for exactly in (stripped, stripped.rstrip(".")) if not is_label else ():
        if exact := _indices(choice.strip() == exactly for choice in choices):
            return exact
    if own := _letter_with_its_text(text, choices):
        return own
    letters = letters_named(text)
    if letters is not None:
        by_letter = _by_letters(letters, choices)
        is_text = len(stripped) == 1 and stripped.islower() and by_text(text, choices)
        return by_letter if by_letter and not is_text else by_text(text, choices)
    return by_text(text, choices) or _by_letter_and_text(text, choices)


def _letter_with_its_text(text: str, choices: tuple[str, ...]) -> Indices:
    """The option of `(A) B`, where B is what option A says."""
    pair = letter_and_rest(canonical(text))
    named = NO_OPTIONS if pair is None else _by_letters(pair[0], choices)
    return named if pair and any(_plain(pair[1]) == _plain(choices[i]) for i in named) else NO_OPTIONS


def _by_letter_and_text(text: str, choices: tuple[str, ...]) -> Indices:
    """Options of `ACD`, `the second option`, `(A) 36`, `36 (A)`, `A 36`, and of any of these before a reason."""
    plain = canonical(text)
    joined = joined_letters(text, any_order=True)
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


# ---- An option by its text.


@lru_cache(maxsize=4096)
def by_text(text: str, choices: tuple[str, ...]) -> Indices:
    """Indices of the options whose text this is: typed the same, or the same value, relation, list, verdict, or words.

    Spellings are compared from the strictest to the loosest; options that fall together in one are told apart by none
    that is looser.
    """
    for spelling in (_spaced, _plain, normalized):
        wanted = spelling(text)
        same = _indices(spelling(choice) == wanted for choice in choices) if wanted else NO_OPTIONS
        if same:
            return same if len(option_texts(same, choices)) == 1 else NO_OPTIONS
    if not _plain(text):  # a sign, or nothing
        return _indices(_same_verdict(text, choice) for choice in choices)
    if (number := parse_quantity(text)) is not None:
        same = _indices(_is_that_number(text, number, choice) for choice in choices)
        return same or _rounded(text, number, choices)
    if (ratio := parse_quantity(_TO.sub(":", text))) is not None and ratio.ratio:  # `3 to 7` for 3:7
        offered = [parse_quantity(choice) for choice in choices]
        return _indices(other is not None and other.ratio and same_quantity(ratio, other) for other in offered)
    for same_kind in (_same_words, _same_structure, _same_verdict, _both_none, _same_but_filler):
        if same := _indices(same_kind(text, choice) for choice in choices):
            return same
    return NO_OPTIONS


def _spaced(text: str) -> str:
    return " ".join(text.split())


def _plain(text: str) -> str:
    return "".join(canonical(text).split())


def _is_that_number(text: str, number: Quantity, choice: str) -> bool:
    """Whether an option is that number, under the same name where both have one."""
    offered = parse_quantity(choice)
    if offered is None or not same_quantity(number, offered):
        return False
    names = [name.group(1) for name in map(_NAME.match, (canonical(text), canonical(choice))) if name]
    return len(set(names)) < 2


def _same_words(text: str, choice: str) -> bool:
    return re.search(r"[^\W\d_]{2}", text) is not None and same_phrase(text, choice)


def _same_structure(text: str, choice: str) -> bool:
    """Equal lists, intervals and inequalities, or a relation turned round."""
    if (turned := flipped(text)) is not None and normalized(turned) == normalized(choice):
        return True
    if not _STRUCTURE.search(text) or not _STRUCTURE.search(choice):
        return False
    if (_OR.search(text) is None) != (_OR.search(choice) is None):
        return False
    match = compare_lists(text, choice, AnswerKey(choice))
    return match is not None and match.equal


def _same_verdict(text: str, choice: str) -> bool:
    verdict = parse_boolean(choice)
    return verdict is not None and parse_boolean(text, verbose=True) is verdict


def _both_none(text: str, choice: str) -> bool:
    """`None of these` for an option `none of the above`."""
    return all(_NONE_OF_THEM.fullmatch(canonical(side)) for side in (text, choice))


def _same_but_filler(text: str, choice: str) -> bool:
    """`II` for an option `II only`, `between 7 and 8` for `7 and 8`."""
    return same_phrase(_FILLER.sub("", canonical(text)), _FILLER.sub("", canonical(choice)))


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
    """Some data sets offer one text under two letters: the same characters, since case and signs tell options apart."""
    return {_spaced(choices[i]) for i in indices}
