"""The option that free prose settles on: by letter, by a number, or by what prose_mentions reads in its words."""

from __future__ import annotations

import re

from sharegrpo_rl.grader.choices import LETTERS, by_text, resolve
from sharegrpo_rl.grader.numbers import parse_quantity
from sharegrpo_rl.grader.prose import announcements, first_clause, refuses, sentences, without_listed_options
from sharegrpo_rl.grader.prose_values import settled_value
from sharegrpo_rl.grader.text import canonical, content_words, parse_boolean

# ---- Does a sentence say the same as a yes/no question, or its opposite: `more` against `fewer`; sides of `than` swapped.

_PAIRS = """
more: fewer less
greater: less smaller lower fewer
higher: lower
larger: smaller
bigger: smaller
taller: shorter
longer: shorter
older: younger
heavier: lighter
wider: narrower
faster: slower
hotter: colder
closer: farther further
nearer: farther further
most: least fewest
highest: lowest
largest: smallest
biggest: smallest
greatest: least smallest lowest
maximum: minimum
roughest: smoothest
left: right
above: below
before: after
over: under
inside: outside
front: behind
top: bottom
first: last
odd: even
convex: concave
increasing: decreasing
increase: decrease
positive: negative
open: closed
same: different
parallel: perpendicular
continuous: discontinuous
full: empty
"""
_OPPOSITES: dict[str, set[str]] = {}
for _line in _PAIRS.split("\n")[1:-1]:
    _word, _, _others = _line.partition(": ")
    for _other in _others.split():
        _OPPOSITES.setdefault(_word, set()).add(_other)
        _OPPOSITES.setdefault(_other, set()).add(_word)
_COMPARATIVES = {
    *("more", "fewer", "less", "greater", "smaller", "lower", "higher", "larger", "bigger"),
    *("taller", "shorter", "longer"),
}
_EQUAL = re.compile(r"\b(?:equal|same|identical)\b", re.IGNORECASE)
_WORD = re.compile(r"[a-z]+")


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))


def agrees(sentence: str, question: str) -> bool | None:
    """True where the sentence repeats the question's claim, False where it turns it round, None where it compares nothing."""
    said, asked = _words(sentence), _words(question)
    compared = {word for word in asked if word in _OPPOSITES and asked.isdisjoint(_OPPOSITES[word])}
    missing = {word for word in compared if word not in said}
    opposed = any(_OPPOSITES[word] & said for word in missing)
    if asked & _COMPARATIVES and missing and not opposed:
        return False if _EQUAL.search(sentence) else None
    return opposed == _swapped(sentence, question)


def opposes(sentence: str, question: str, choices: tuple[str, ...]) -> bool:
    """Whether the sentence says the opposite of what is asked for (`more` for `less`), in words that are no option's."""
    said, asked, offered = _words(sentence), _words(question), _words(" ".join(choices))
    turned = {
        word for word in asked - said if _OPPOSITES.get(word, set()) & said and asked.isdisjoint(_OPPOSITES[word])
    }
    return any(word not in offered and offered.isdisjoint(_OPPOSITES[word]) for word in turned)


def _swapped(sentence: str, question: str) -> bool:
    """Whether what the question has behind `than` stands before it in the sentence."""
    before_asked, than_asked, behind_asked = question.lower().partition(" than ")
    before_said, than_said, behind_said = sentence.lower().partition(" than ")
    if not (than_asked and than_said):
        return False
    first, second = _words(before_asked) - _words(behind_asked), _words(behind_asked) - _words(before_asked)
    before, behind = _words(before_said), _words(behind_said)
    return bool(second & before and first & behind) and not second & behind


# ---- What free prose says without a letter: the words of one option, or a yes or no in its own words.

_AUXILIARY = {"would", "will", "could", "can", "may", "might", "and", "or", "its", "population", "this", "that"}
NEGATION = re.compile(r"\b(?:not|no|n't|never|neither|nor|none)\b|n't\b", re.IGNORECASE)
_CLAUSE = re.compile(r"[,;]\s*(?:and\s+)?(?:so|therefore|thus|hence)\b", re.IGNORECASE)
_COMPARISON = re.compile(r"\b(\w+)\s+(?:[a-z]+\s+)?than\b.*$", re.IGNORECASE)
_DENIED = re.compile(r"(?:\bnot\b|n't\b|\bnever\b|\bneither\b)\s+(?:\w+\s+){0,3}$", re.IGNORECASE)


def _stem(word: str) -> str:
    for ending in ("ing", "es", "ed", "s", "d", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


def _stems(text: str) -> set[str]:
    return {_stem(word) for word in content_words(text)}


def mentioned(parts: list[str], choices: tuple[str, ...], question: str) -> frozenset[int]:
    """The one option whose words the last telling sentence holds; one inside a longer option gives way to it."""
    if is_yes_no(choices) or (parts and refuses(parts[-1])):
        return frozenset()
    for part in reversed(parts):
        if refuses(part):
            continue
        there = _there(part, choices)
        if len(there) > 1:
            there = _singled_out(part, there, choices, question)
            return frozenset(there) if len(there) == 1 else frozenset()
        if there and not _denied(part, choices[there[0]]):
            return _other_of_two(there[0], choices) if opposes(part, question, choices) else frozenset(there)
    return frozenset()


def _other_of_two(index: int, choices: tuple[str, ...]) -> frozenset[int]:
    return frozenset({1 - index}) if len(choices) == 2 else frozenset()


def _there(part: str, choices: tuple[str, ...]) -> list[int]:
    words = [_stems(choice) - _AUXILIARY for choice in choices]
    said = _stems(part)
    there = [i for i, need in enumerate(words) if need and need <= said]
    return [i for i in there if not any(words[i] < words[j] for j in there)]


def _singled_out(part: str, there: list[int], choices: tuple[str, ...], question: str) -> list[int]:
    """Of several options in a sentence: in its `so ...`, before the `than ...` of the question, or not in the question."""
    conclusion = _CLAUSE.split(part)[-1]
    if conclusion != part and len(last := _there(conclusion, choices)) == 1:
        return last
    comparison, asked = _COMPARISON.search(part), _stems(question)
    if comparison and _stem(comparison.group(1).casefold()) in asked:
        return _there(part[: comparison.start()], choices)
    return [i for i in there if not _stems(choices[i]) - _AUXILIARY <= asked]


def _denied(part: str, choice: str) -> bool:
    """`it is not on the left` does not say left."""
    first = next(iter(content_words(choice)), "")
    place = re.search(rf"\b{re.escape(_stem(first))}", part, re.IGNORECASE)
    return place is not None and not NEGATION.search(choice) and _DENIED.search(part[: place.start()]) is not None


def is_yes_no(choices: tuple[str, ...]) -> bool:
    """Whether the options are a yes and a no."""
    return len(choices) == 2 and {parse_boolean(choice) for choice in choices} == {True, False}


def own_words(parts: list[str], choices: tuple[str, ...], question: str) -> frozenset[int]:
    """For yes or no: a sentence that begins with it, or that repeats the question as a statement or its denial."""
    verdict = stated_verdict(parts, question) if is_yes_no(choices) else None
    if verdict is None:
        return frozenset()
    return frozenset(i for i, choice in enumerate(choices) if parse_boolean(choice) is verdict)


def settled_verdict(text: str, question: str) -> bool | None:
    """Yes or no as free prose announces it, or says it; None where it refuses or says neither."""
    for tail, _, _ in reversed(announcements(text)):
        if (said := parse_boolean(first_clause(tail), verbose=True)) is not None:
            return said
    return stated_verdict(sentences(text), question)


def stated_verdict(parts: list[str], question: str) -> bool | None:
    """Yes or no as the prose says it; None where it refuses or says neither."""
    for part in parts:
        if (said := parse_boolean(part, verbose=True)) is not None:
            return said
    asked = _stems(question) - _AUXILIARY - {"do", "doe", "did", "ther", "hav", "has"}
    if not asked or any(refuses(part) for part in parts):
        return None
    for part in parts:
        if len(asked & _stems(part)) >= 0.6 * len(asked) and (same := agrees(part, question)) is not None:
            return same == (NEGATION.search(part) is None)
    return None


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
