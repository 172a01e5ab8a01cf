"""The option that free prose settles on: by letter, by a number, or by what prose_mentions reads in its words."""

from __future__ import annotations

import re

from sharegrpo_rl.rewards.canonical import canonical
from sharegrpo_rl.rewards.choices import LETTERS, by_text, resolve
from sharegrpo_rl.rewards.prose import announcements, first_clause, refuses, sentences, without_listed_options
from sharegrpo_rl.rewards.prose_mentions import NEGATION, is_yes_no, mentioned, own_words
from sharegrpo_rl.rewards.prose_values import settled_value
from sharegrpo_rl.rewards.quantities import parse_quantity

_DRESSED = re.compile(
    r"[(（]\s*([A-Z])\s*[)）]|\b(?:[Oo]ption|[Cc]hoice|图|选项|选)\s*\(?([A-Z])(?![A-Za-z])\)?|^\W*([A-Z])\s*[).:、]\s+\S"
    r"|(?<!angle )\b([A-Z])\s+is\s+(?:selected|chosen|correct|the\s+(?:(?:correct|right|best)\s+)?(?:answer|option|choice|one))\b"
    r"|\b(?:[Cc]hoose|[Ss]elect|[Pp]ick)\s+\(?([B-Z]\b|A(?=\s*[,.;)]|$))"
    r"|\b(?:must|should|would|has\s+to)\s+be\s+([A-Z])(?=\s*[,.;]|$)"
)
_LEADING = re.compile(
    r"^[\s\"'*_(\[（{$]*(?:\\(?:text|textbf|mathrm|boxed)\s*\{\s*)*\(?\s*([A-Z])\s*[)\]）}]*(?=$|[\s.,:;\"'*)（(。，\\$-])"
)
_NONE_OF_THEM = re.compile(r"\W*(?:none|not)\b", re.IGNORECASE)
_ALTERNATIVE = re.compile(
    r"\s*(?:[,;/|&]|\b(?:or|and|but)\b|或|和)\s*(?:(?:maybe|possibly|perhaps|also|either|both)\b\s*)*"
)
_MAX_WHOLE = 300


def settled_option(text: str, choices: tuple[str, ...], question: str) -> str | None:
    """The option's letter, or a text that names none of them or several; None where the prose settles on nothing."""
    text = without_listed_options(text)
    said = announcements(text)
    if len(text) <= _MAX_WHOLE and not said and (whole := resolve(text, choices)):
        return _label(whole) if len(whole) == 1 else text
    for tail, _, _ in reversed(said):
        if named := _in_announcement(tail, choices):
            return _label(named) if len(named) == 1 else _all_labels(named)
        if refuses(tail) or _NONE_OF_THEM.match(tail):
            return None
        if _LEADING.match(tail) and not is_yes_no(choices):  # a letter that is no option
            return tail
    parts = sentences(text)
    if parts and all(parse_quantity(choice) is not None for choice in choices):
        return _named_in_sentences(parts, choices) or _number_told(text, choices, question)
    found = _named_in_sentences(parts, choices)
    if found is None:
        indices = mentioned(parts, choices, question) or own_words(parts, choices, question)
        found = _label(indices) if indices else None
    return found


def _label(indices: frozenset[int]) -> str:
    return LETTERS[min(indices)]


def _all_labels(indices: frozenset[int]) -> str:
    return ", ".join(LETTERS[i] for i in sorted(indices))


def _in_announcement(tail: str, choices: tuple[str, ...]) -> frozenset[int]:
    """Options that `C (3 mm). Because ...` names; several for `B or C`."""
    clause = first_clause(tail).rstrip(".")
    if named := resolve(tail, choices) or resolve(clause, choices):
        return named
    if named := _alternatives(clause, choices):
        return named
    letter = _LEADING.match(tail)
    if letter and not (letter.group(1) in "AI" and re.match(r"^[AI]\s+[a-z]", tail)):
        return resolve(letter.group(1), choices)
    dressed = _letters(clause)
    if len(dressed) == 1:
        return resolve(dressed.pop(), choices)
    return _begins_with_option(tail, choices)


def _alternatives(clause: str, choices: tuple[str, ...]) -> frozenset[int]:
    """Options that a clause offers at its start, one after the other: `60, 120`, `B, but maybe C`, `yes and no`."""
    named: frozenset[int] = frozenset()
    for piece in filter(None, _ALTERNATIVE.split(clause)):
        found = resolve(piece.strip(), choices) or _number_at_start(piece, choices)
        if not found:
            break
        named |= found
    return named


def _number_at_start(piece: str, choices: tuple[str, ...]) -> frozenset[int]:
    return by_text(piece, choices) if parse_quantity(piece) is not None else frozenset()


def _begins_with_option(tail: str, choices: tuple[str, ...]) -> frozenset[int]:
    """The longest option that the text begins with, and the one that follows it at once: `yes no` names two."""
    plain = canonical(tail).casefold()
    first, rest = _option_at_start(plain, choices)
    return first | _option_at_start(rest.lstrip(" ,;/|&-"), choices)[0] if first else first


def _option_at_start(plain: str, choices: tuple[str, ...]) -> tuple[frozenset[int], str]:
    best: frozenset[int] = frozenset()
    rest = ""
    for index, choice in enumerate(choices):
        text = canonical(choice).casefold()
        match = re.match(rf"(?:the\s+|a\s+)?{re.escape(text)}(?!\w)", plain) if text else None
        if match and (not best or len(plain) - match.end() < len(rest)):
            best, rest = frozenset({index}), plain[match.end() :]
    return best, rest


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
            return _label(named) if named and not NEGATION.search(part) else None
    return None
