"""The option that free prose settles on: by letter, by the text of an option, or by a yes or no in its own words."""

from __future__ import annotations

import re

from sharegrpo_rl.rewards.canonical import canonical, content_words
from sharegrpo_rl.rewards.choices import LETTERS, by_text, resolve
from sharegrpo_rl.rewards.prose import announcements, first_clause, refuses, sentences, without_listed_options
from sharegrpo_rl.rewards.prose_values import settled_value
from sharegrpo_rl.rewards.quantities import parse_quantity
from sharegrpo_rl.rewards.yes_no import parse_boolean

_DRESSED = re.compile(
    r"[(（]\s*([A-Z])\s*[)）]|\b(?:[Oo]ption|[Cc]hoice|图|选项|选)\s*\(?([A-Z])\b\)?|^\W*([A-Z])\s*[).:、]\s+\S"
    r"|\b([A-Z])\s+is\s+(?:selected|chosen|correct|right|the\s+answer)\b|\b(?:[Cc]hoose|[Ss]elect)\s+\(?([B-Z])\b"
)
_LEADING = re.compile(
    r"^[\s\"'*_(\[（{$]*(?:\\(?:text|textbf|mathrm|boxed)\s*\{\s*)*\(?\s*([A-Z])\s*[)\]）}]*(?=$|[\s.,:;\"'*)（(。，\\$-])"
)
_NONE_OF_THEM = re.compile(r"\W*(?:none|not)\b", re.IGNORECASE)
_AUXILIARY = {"would", "will", "could", "can", "may", "might", "and", "or", "its", "population", "this", "that"}
_NEGATION = re.compile(r"\b(?:not|no|n't|never|neither|nor|none)\b|n't\b", re.IGNORECASE)


def settled_option(text: str, choices: tuple[str, ...], question: str) -> str | None:
    """The option as `(C)`, or a text that names none of them; None where the prose settles on nothing."""
    text = without_listed_options(text)
    whole = resolve(text, choices) if len(text) <= 300 else frozenset()
    if len(whole) == 1:
        return _label(whole)
    for tail, _, _ in reversed(announcements(text)):
        named = _in_announcement(tail, choices)
        if named:
            return _label(named) if len(named) == 1 else tail
        if refuses(tail) or _NONE_OF_THEM.match(tail):
            return None
        if _LEADING.match(tail):  # a letter that is no option
            return tail
    parts = sentences(text)
    if parts and all(parse_quantity(choice) is not None for choice in choices):
        return _named_in_sentences(parts, choices) or _number_told(text, choices, question)
    return (
        _named_in_sentences(parts, choices)
        or _mentioned(parts, choices, question)
        or _own_words(parts, choices, question)
    )


def _label(indices: frozenset[int]) -> str:
    return f"({LETTERS[min(indices)]})"


def _in_announcement(tail: str, choices: tuple[str, ...]) -> frozenset[int]:
    """Options that `C (3 mm). Because ...` names."""
    clause = first_clause(tail).rstrip(".")
    for candidate in (tail, clause, re.split(r"[,;，]", clause)[0]):
        if named := resolve(candidate, choices):
            return named
    letter = _LEADING.match(tail)
    if letter and not (letter.group(1) in "AI" and re.match(r"^[AI]\s+[a-z]", tail)):
        rest = tail[letter.end() :]
        if more := re.match(r"\s*(?:,|or|and|/)\s*\(?([A-Z])\b\)?(?!\w)", rest):
            return resolve(letter.group(1), choices) | resolve(more.group(1), choices)
        return resolve(letter.group(1), choices)
    dressed = _letters(clause)
    if len(dressed) == 1:
        return resolve(dressed.pop(), choices)
    return _begins_with_option(tail, choices)


def _begins_with_option(tail: str, choices: tuple[str, ...]) -> frozenset[int]:
    plain = canonical(tail).casefold()
    best: frozenset[int] = frozenset()
    length = 0
    for index, choice in enumerate(choices):
        text = canonical(choice).casefold()
        if len(text) > length and re.match(rf"(?:the\s+|a\s+)?{re.escape(text)}(?!\w)", plain):
            best, length = frozenset({index}), len(text)
    return best


def _letters(sentence: str) -> set[str]:
    return {next(group for group in match.groups() if group) for match in _DRESSED.finditer(sentence)}


def _number_told(text: str, choices: tuple[str, ...], question: str) -> str | None:
    """The option that is the number on which the prose ends."""
    value = settled_value(text, question, numeric=True)
    named = by_text(value, choices) if value else frozenset()
    return _label(named) if named else value


def _named_in_sentences(parts: list[str], choices: tuple[str, ...]) -> str | None:
    """The one letter in the last sentence with letters (`the path in (A) is the longest`), or a line of its own."""
    for part in reversed(parts):
        if len(part) <= 120 and len(named := resolve(part, choices)) == 1:
            return _label(named)
        letters = _letters(part)
        if len(letters) > 1:
            return None
        if letters:
            named = resolve(letters.pop(), choices)
            return _label(named) if named and not _NEGATION.search(part) else None
    return None


def _stem(word: str) -> str:
    for ending in ("ing", "es", "ed", "s", "d", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


def _mentioned(parts: list[str], choices: tuple[str, ...], question: str) -> str | None:
    """The one option whose words the last telling sentence holds; one inside a longer option gives way to it."""
    if _is_yes_no(choices):
        return None
    words = [{_stem(w) for w in content_words(choice)} - _AUXILIARY for choice in choices]
    for part in [*reversed(parts)]:
        if refuses(part):
            continue
        said = {_stem(word) for word in content_words(part)}
        there = [i for i, need in enumerate(words) if need and need <= said]
        there = [i for i in there if not any(words[i] < words[j] for j in there)]
        if len(there) == 1:
            return _label(frozenset(there))
        if len(there) > 1:
            asked = {_stem(word) for word in content_words(question)}
            there = [i for i in there if not words[i] <= asked]
            return _label(frozenset(there)) if len(there) == 1 else None
    return None


def _is_yes_no(choices: tuple[str, ...]) -> bool:
    return len(choices) == 2 and {parse_boolean(choice) for choice in choices} == {True, False}


def _own_words(parts: list[str], choices: tuple[str, ...], question: str) -> str | None:
    """For yes or no: a sentence that begins with it, or that repeats the question as a statement or its denial."""
    verdict = stated_verdict(parts, question) if _is_yes_no(choices) else None
    if verdict is None:
        return None
    return _label(frozenset(i for i, choice in enumerate(choices) if parse_boolean(choice) is verdict))


def stated_verdict(parts: list[str], question: str) -> bool | None:
    """Yes or no as the prose says it; None where it refuses or says neither."""
    for part in parts:
        if (said := parse_boolean(part, verbose=True)) is not None:
            return said
    asked = {_stem(word) for word in content_words(question)} - _AUXILIARY - {"do", "does", "ther"}
    for part in parts:
        if refuses(part) or not asked:
            continue
        said_words = {_stem(word) for word in content_words(part)}
        if len(asked & said_words) >= 0.6 * len(asked):
            return _NEGATION.search(part) is None
    return None
