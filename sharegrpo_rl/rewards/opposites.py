"""Whether a sentence says the same as a yes/no question, or its opposite: `more` asked, `fewer` said; sides of `than` swapped."""

from __future__ import annotations

import re

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
