"""What free prose says without a letter: the words of one option, or a yes or no in its own words."""

from __future__ import annotations

import re

from sharegrpo_rl.rewards.canonical import content_words
from sharegrpo_rl.rewards.opposites import agrees, opposes
from sharegrpo_rl.rewards.prose import announcements, first_clause, refuses, sentences
from sharegrpo_rl.rewards.yes_no import parse_boolean

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
