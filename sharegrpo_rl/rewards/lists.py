"""Answers of several parts against a ground truth of several parts: lists, tuples, sets, intervals, assignments."""

from __future__ import annotations

import re

from sharegrpo_rl.rewards.canonical import canonical, content_words, squeezed
from sharegrpo_rl.rewards.key import AnswerKey, Match
from sharegrpo_rl.rewards.numeric import same_ratio
from sharegrpo_rl.rewards.quantities import parse_quantity, same_quantity
from sharegrpo_rl.rewards.relations import assignments, condition, is_relation, union_of, unknowns
from sharegrpo_rl.rewards.sequences import Sequence, parse_sequence, same_sequence

_ORDER = re.compile(
    r"\b(?:order(?!\s+to\b)|arrange|sort|rank|sequence|coordinates?|ascending|descending|respectively)\w*\b", re.I
)


def compare_lists(answer: str, gold: str, key: AnswerKey) -> Match | None:
    """Ratios, lists, tuples, sets, intervals and assignments; None where this cannot tell."""
    if (proportional := same_ratio(answer, gold)) is not None:
        return Match(proportional, "the same ratio" if proportional else "another ratio")
    answer, gold = (condition(text) if is_relation(text) else text for text in (answer, gold))
    said, right = parse_sequence(answer), parse_sequence(gold)
    if said is not None and right is not None:
        if right.needs_brackets and not said.opening and key.answer_type != "list":
            return Match(False, "a list where an interval is right")
        if said.opening and right.opening and said.opening + said.closing != right.opening + right.closing:
            return Match(False, "other brackets")
        return _compare_named(said, right, key) or _compare_parts(said, right, key)
    if not (is_relation(answer) or is_relation(gold) or "\\cup" in canonical(gold)):
        return None
    if is_relation(answer) and is_relation(gold) and unknowns(answer) != unknowns(gold):
        return None
    intervals, right_ones = union_of(answer), union_of(gold)
    if intervals is None or right_ones is None:
        return None
    if len(intervals) == len(right_ones) and _same_intervals(intervals, right_ones, key):
        return Match(True, "the same intervals")
    certain = len(intervals) == len(right_ones) == 1 and _all_numbers(intervals[0]) and _all_numbers(right_ones[0])
    return Match(False, "another interval") if certain else None


def _all_numbers(many: Sequence) -> bool:
    return all(
        item.strip("+- ") == "\\infty"
        or parse_quantity(item) is not None
        or ((inner := parse_sequence(item)) is not None and _all_numbers(inner))
        for item in many.items
    )


def _nested(many: Sequence) -> bool:
    return any(parse_sequence(item) is not None for item in many.items)


def _same_intervals(answer: list[Sequence], gold: list[Sequence], key: AnswerKey) -> bool:
    left = list(gold)
    for part in answer:
        match = next(
            (p for p in left if same_sequence(part, p, lambda a, g: _same_part(a, g, key), order_matters=True)), None
        )
        if match is None:
            return False
        left.remove(match)
    return True


def _compare_named(said: Sequence, right: Sequence, key: AnswerKey) -> Match | None:
    """`k = 45, n = 2`: values by name, or in the gold's order where the answer leaves the names out."""
    named_right, named = assignments(right), assignments(said)
    if named_right is None:
        return None
    values = list(named_right.values())
    if named is not None and set(named) == set(named_right):
        equal = all(_same_part(named[name], value, key) for name, value in named_right.items())
    elif any("=" in item for item in said.items):
        return None
    else:
        equal = same_sequence(said, Sequence(tuple(values)), lambda a, g: _same_part(a, g, key), order_matters=True)
    return Match(equal, "the same values by name" if equal else "other values")


def _compare_parts(answer: Sequence, gold: Sequence, key: AnswerKey) -> Match | None:
    ordered = bool(_ORDER.search(key.question))
    equal = same_sequence(answer, gold, lambda a, g: _same_part(a, g, key), order_matters=ordered)
    if not equal and ordered and same_sequence(answer, gold, lambda a, g: _same_part(a, g, key), order_matters=False):
        return Match(False, "another order")
    if not equal and _all_numbers(answer) and _all_numbers(gold) and _nested(answer) == _nested(gold):
        return Match(False, "other parts")
    return Match(True, "equal parts") if equal else None


def _same_part(answer: str, gold: str, key: AnswerKey) -> bool:
    if squeezed(answer) == squeezed(gold):
        return True
    left, right = parse_quantity(answer), parse_quantity(gold)
    if left is not None and right is not None:
        return same_quantity(left, right, precision=key.precision)
    inner_left, inner_right = parse_sequence(answer), parse_sequence(gold)
    if inner_left is not None and inner_right is not None:
        return same_sequence(inner_left, inner_right, lambda a, g: _same_part(a, g, key), order_matters=False)
    return bool(content_words(answer)) and content_words(answer) == content_words(gold)
