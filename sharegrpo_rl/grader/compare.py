"""Whether an extracted answer equals the ground truth: exact comparisons first, math-verify where they cannot tell."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache

from sharegrpo_rl.grader import choices as multiple_choice
from sharegrpo_rl.grader.key import HEDGED, AnswerKey, Match
from sharegrpo_rl.grader.lists import compare_lists, flipped, function_value, parse_sequence
from sharegrpo_rl.grader.moments import gold_moment, same_moment
from sharegrpo_rl.grader.numbers import Quantity, compare_numbers, is_no_number, parse_quantity, split_unit
from sharegrpo_rl.grader.prose_options import settled_option
from sharegrpo_rl.grader.symbolic import compare_symbolic, nested_too_deeply
from sharegrpo_rl.grader.text import (
    MAX_ANSWER_CHARACTERS,
    boxes,
    canonical,
    content_words,
    parse_boolean,
    squeezed,
    well_known,
)

_CAPITAL = re.compile(r"(?<![A-Za-z∠])(?<!angle )(?<!point )[A-Z](?![A-Za-z])(?!\s*(?:[=+*/]|-\s*\d))")
_SHORT = 60
_NO_OPTION = -1
_MAX_LINES = 8
_LABELLED = re.compile(r"^\s*(?:\(?[A-Z]\)?)(?:\s*(?:,|;|\n|and)?\s*\(?[A-Z]\)?){0,7}\s*\.?\s*$")
_LEAD_IN = re.compile(
    r"^(?:(?:so|thus|hence|therefore)\s*,?\s+)?(?:the|my|our)\s+(?:(?:final|correct)\s+)?(?:answer|result|solution)\s+(?:is|:)\s*:?\s*"
    r"|^(?:所以|因此)?\s*[,，]?\s*(?:最终|正确)?(?:答案|结果)\s*(?:是|为|:|：)+\s*",
    re.IGNORECASE,
)
_BASED = re.compile(r"^\w+_\{?\d+\}?$")
_TWICE = re.compile(r"(?<![A-Za-z\\])([A-Za-z](?:\([a-z]\))?)\s*=[^=]*[^A-Za-z=]\1\s*=")  # y = x | y = 2x
_SAYS = re.compile(r"\b(?:is|are|was|were)\b(?:\s+\w+\s+(?=on\b|in\b|at\b))?|:")
_KINDS = {"color", "colour", "shape", "object", "one", "answer", "side", "direction", "name", "word", "day", "month"}


@lru_cache(maxsize=4096)
def gold_span(gold: str) -> str:
    """The answer inside a ground truth that is a solution or a box; else the ground truth itself."""
    found = boxes(gold)
    return ", ".join(found) if found else gold.strip()


def _compare_choice(answer: str, key: AnswerKey, gold: str) -> Match | None:
    right = multiple_choice.resolve(gold, key.choices)
    named = multiple_choice.resolve(answer, key.choices)
    if not right:
        return None
    lettered = multiple_choice.letters_before_text(answer) is not None
    if not named and _two_letters(answer, key.choices):
        return Match(False, "several options named")
    if not named and "\n" in answer:
        lines = answer.split("\n")[:_MAX_LINES]
        named = frozenset().union(*(multiple_choice.resolve(line, key.choices) for line in lines))
    if not named and (listed := _listed_options(answer, key.choices)) is not None:
        if len(listed) != 1 or _NO_OPTION in listed:
            return Match(listed == right, "the right options" if listed == right else "several options named")
        named = listed
    if not named and not lettered and (settled := settled_option(answer, key.choices, key.question)):
        named = multiple_choice.resolve(settled, key.choices)
    if not named:
        return Match(False, "no option named")
    if _texts(named, key.choices) == _texts(right, key.choices):
        return Match(True, "the right option" if len(right) == 1 else "the right options")
    return Match(False, "another option" if len(_texts(named, key.choices)) == 1 else "several options named")


def _two_letters(answer: str, choices: tuple[str, ...]) -> bool:
    """Whether a short answer holds the letters of two options, such as `A maybe B`; points and angles are no options."""
    letters = set(_CAPITAL.findall(answer)) & set(multiple_choice.LETTERS[: len(choices)])
    return len(answer) <= _SHORT and len(letters) > 1


def _listed_options(answer: str, choices: tuple[str, ...]) -> frozenset[int] | None:
    """The options in a list of nothing but options and numbers (`_NO_OPTION` for a number that is none)."""
    many = parse_sequence(answer)
    if many is None:
        return None
    named = [multiple_choice.resolve(item, choices) for item in many.items]
    numbers = [parse_quantity(item) is not None for item in many.items]
    if not all(indices or number for indices, number in zip(named, numbers, strict=True)):
        return None
    return frozenset().union(*(indices or frozenset({_NO_OPTION}) for indices in named))


def _texts(indices: frozenset[int], choices: tuple[str, ...]) -> set[str]:
    return {squeezed(choices[i]) for i in indices}


def _compare_labels(answer: str, gold: str) -> Match | None:
    """A gold that is a letter (or several) where no options are at hand."""
    if not _LABELLED.match(canonical(gold)):
        return None
    right = multiple_choice.letters_named(gold) or multiple_choice.joined_letters(gold)
    if right is None:
        return None
    named = multiple_choice.letters_named(answer) or multiple_choice.letters_before_text(answer)
    named = named or multiple_choice.joined_letters(answer, any_order=True)
    if named is None:
        return None
    return Match(named == right, "the right letter" if named == right else "another letter")


def _compare_words(answer: str, gold: str) -> Match:
    """The same words, plural or not, alone or at the end of `the ball is red`."""
    right, said = _word_stems(gold), _word_stems(answer)
    told = _word_stems(_SAYS.split(canonical(answer))[-1])
    if right and (right in (said, _bare(said)) or (right in (told, _bare(told)) and not HEDGED.search(answer))):
        return Match(True, "the same words")
    return Match(False, "other words")


def _word_stems(text: str) -> list[str]:
    return [word.rstrip("s") for word in content_words(text)]


def _bare(words: list[str]) -> list[str]:
    """Without a word for the kind of thing: `the color red`, `a red one`."""
    return [word for word in words if word not in _KINDS]


def is_plain_words(gold: str) -> bool:
    """Whether the gold is a word or phrase, without digits or mathematics."""
    plain = canonical(gold)
    return not re.search(r"[\\\d^_=<>+*/|()\[\]]", plain) and bool(re.search(r"[^\W\d_]{2}", plain))


def compare(answer: str, key: AnswerKey) -> Match:
    """Grade one extracted answer. Raises GraderError (and nothing else) where the grader itself fails.

    Order: same text, options, yes/no, letters, numbers with units, lists, words, and mathematics last.
    """
    gold = gold_span(key.gold)
    answer = _LEAD_IN.sub("", answer.strip(), count=1) or answer
    if len(answer) > MAX_ANSWER_CHARACTERS:
        return Match(False, f"{len(answer)} characters are too many for an answer")
    if squeezed(answer) and squeezed(answer) == squeezed(gold):
        return Match(True, "the same text")
    if nested_too_deeply(answer):
        return Match(False, "nested too deeply to be an answer")
    if key.choices and (match := _compare_choice(answer, key, gold)) is not None:
        return match
    if (match := _compare_boolean(answer, gold) or _compare_labels(answer, gold)) is not None:
        return match
    return _compare_values(answer, key, gold)


def _compare_boolean(answer: str, gold: str) -> Match | None:
    right = parse_boolean(gold)
    if right is None:
        return None
    said = parse_boolean(answer, verbose=True)
    return Match(said is right, "the right verdict" if said is right else "another verdict or none")


def _compare_values(answer: str, key: AnswerKey, gold: str) -> Match:
    if (name := well_known(gold)) is not None and well_known(answer) == name:
        return Match(True, f"{name} by another name")
    if (moment := gold_moment(gold, key.question)) is not None:
        equal = same_moment(answer, gold, moment)
        return Match(equal, "the same moment" if equal else "another moment or none")
    number = parse_quantity(gold)
    match = compare_lists(answer, gold, key) if number is None else _compare_quantity(answer, key, number)
    if match is not None:
        return match
    if is_plain_words(gold):
        return _compare_words(answer, gold)
    if multiple_choice.letters_named(gold) is not None and len(canonical(gold)) <= 3:
        return Match(False, "no option named")
    return _compare_mathematics(answer, key, gold)


def _compare_quantity(answer: str, key: AnswerKey, gold: Quantity) -> Match | None:
    if gold.unit is None and key.unit:
        gold = replace(gold, unit=split_unit(f"1 {key.unit}")[1])
    if (match := compare_numbers(answer, key, gold)) is not None:
        return match
    many = parse_sequence(answer)
    if many is not None and len(many.items) > 1:
        return Match(False, "several answers where one is right")
    return Match(False, "words or unknowns where a number is expected") if is_no_number(answer) else None


def _compare_mathematics(answer: str, key: AnswerKey, gold: str) -> Match:
    many = parse_sequence(answer)
    if parse_sequence(gold) is None and many is not None and not many.opening and parse_quantity(gold) is None:
        return Match(False, "several answers where one is right")
    if _TWICE.search(canonical(answer)) and not _TWICE.search(canonical(gold)):
        return Match(False, "two equations where one is right")
    left = canonical(answer).partition("=")
    if left[1] and "=" not in canonical(gold) and parse_quantity(left[0]) is not None:
        return Match(False, "an equation where an expression is right")
    other = flipped(answer)
    if other is not None and squeezed(other) == squeezed(gold):
        return Match(True, "the same relation")
    if _BASED.search(canonical(gold)):
        return Match(False, "another number or base")
    value, right = function_value(answer), function_value(gold)
    if value is not None and right is not None:
        if squeezed(value) == squeezed(right):
            return Match(True, "the same function")
        return compare_symbolic(value, key, right)
    return compare_symbolic(answer, key, gold)
