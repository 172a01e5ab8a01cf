"""Whether an extracted answer equals the ground truth: exact comparisons first, math-verify where they cannot tell."""

from __future__ import annotations

import re
from functools import lru_cache

from sharegrpo_rl.rewards import choices as multiple_choice
from sharegrpo_rl.rewards.canonical import MAX_ANSWER_CHARACTERS, canonical, content_words, squeezed
from sharegrpo_rl.rewards.hedges import HEDGED
from sharegrpo_rl.rewards.key import AnswerKey, Match
from sharegrpo_rl.rewards.moments import gold_moment, same_moment
from sharegrpo_rl.rewards.numeric import compare_numbers, is_prose, same_ratio
from sharegrpo_rl.rewards.prose_options import settled_option
from sharegrpo_rl.rewards.quantities import Quantity, parse_quantity, same_quantity
from sharegrpo_rl.rewards.relations import assignments, flipped, function_value, is_relation, union_of, unknowns
from sharegrpo_rl.rewards.sequences import Sequence, parse_sequence, same_sequence
from sharegrpo_rl.rewards.spans import boxes
from sharegrpo_rl.rewards.symbolic import compare_symbolic
from sharegrpo_rl.rewards.units import split_unit
from sharegrpo_rl.rewards.yes_no import parse_boolean

_ORDER = re.compile(r"\b(?:order|arrange|sort|rank|sequence|coordinates?|ascending|descending|respectively)\w*\b", re.I)
_LABELLED = re.compile(r"^\s*(?:\(?[A-Z]\)?)(?:\s*(?:,|;|\n|and)?\s*\(?[A-Z]\)?){0,7}\s*\.?\s*$")
_LEAD_IN = re.compile(
    r"^(?:(?:so|thus|hence|therefore)\s*,?\s+)?(?:the|my|our)\s+(?:(?:final|correct)\s+)?(?:answer|result|solution)\s+(?:is|:)\s*:?\s*"
    r"|^(?:所以|因此)?\s*[,，]?\s*(?:最终|正确)?(?:答案|结果)\s*(?:是|为|:|：)+\s*",
    re.IGNORECASE,
)
_SAYS = re.compile(r"\b(?:is|are|was|were)\b(?:\s+\w+\s+(?=on\b|in\b|at\b))?|:")
_KINDS = {"color", "colour", "shape", "object", "one", "answer", "side", "direction", "name", "word", "day", "month"}
_EMPTY = {
    "\\emptyset",
    "\\varnothing",
    "∅",
    "{}",
    "\\{\\}",
    "empty set",
    "no solution",
    "no solutions",
    "no real solutions",
}
_EMPTY |= {"the empty set", "no real solution", "null set"}


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
    if not named and (listed := _listed_options(answer, key.choices)) is not None:
        if len(listed) != 1:
            return Match(listed == right, "the right options" if listed == right else "several options named")
        named = listed
    if not named and not lettered and (settled := settled_option(answer, key.choices, key.question)):
        named = multiple_choice.resolve(settled, key.choices)
    if not named:
        return Match(False, "no option named")
    if _texts(named, key.choices) == _texts(right, key.choices):
        return Match(True, "the right option" if len(right) == 1 else "the right options")
    return Match(False, "another option" if len(_texts(named, key.choices)) == 1 else "several options named")


def _listed_options(answer: str, choices: tuple[str, ...]) -> frozenset[int] | None:
    """The options in a list of nothing but options and numbers (a number that is no option counts as index -1)."""
    many = parse_sequence(answer)
    if many is None:
        return None
    named = [multiple_choice.resolve(item, choices) for item in many.items]
    numbers = [parse_quantity(item) is not None for item in many.items]
    if not all(indices or number for indices, number in zip(named, numbers, strict=True)):
        return None
    return frozenset().union(*(indices or frozenset({-1}) for indices in named))


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


def _compare_lists(answer: str, gold: str, key: AnswerKey) -> Match | None:
    """Lists, tuples, sets, intervals and assignments; None where this cannot tell."""
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
    if intervals is None or right_ones is None or len(intervals) != len(right_ones):
        return None
    return Match(True, "the same intervals") if _same_intervals(intervals, right_ones, key) else None


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
    if (moment := gold_moment(gold, key.question)) is not None:
        equal = same_moment(answer, gold, moment)
        return Match(equal, "the same moment" if equal else "another moment or none")
    number = parse_quantity(gold)
    if number is not None and number.unit is None and key.unit:
        number = Quantity(number.value, split_unit(f"1 {key.unit}")[1], number.ratio, number.worked_out)
    many = parse_sequence(answer)
    if number is not None:
        if (match := compare_numbers(answer, key, number)) is not None:
            return match
        if many is not None and len(many.items) > 1:
            return Match(False, "several answers where one is right")
        if is_prose(answer):
            return Match(False, "words where a number is expected")
    elif (proportional := same_ratio(answer, gold)) is not None:
        return Match(proportional, "the same ratio" if proportional else "another ratio")
    elif (match := _compare_lists(answer, gold, key)) is not None:
        return match
    if is_plain_words(gold):
        return _compare_words(answer, gold)
    if number is None and parse_sequence(gold) is None and many is not None and not many.opening:
        return Match(False, "several answers where one is right")
    if multiple_choice.letters_named(gold) is not None and len(canonical(gold)) <= 3:
        return Match(False, "no option named")
    return _compare_mathematics(answer, key, gold)


def _compare_mathematics(answer: str, key: AnswerKey, gold: str) -> Match:
    if _is_empty_set(gold):
        equal = _is_empty_set(answer)
        return Match(equal, "the empty set" if equal else "not the empty set")
    other = flipped(answer)
    if other is not None and squeezed(other) == squeezed(gold):
        return Match(True, "the same relation")
    value, right = function_value(answer), function_value(gold)
    if value is not None and right is not None:
        if squeezed(value) == squeezed(right):
            return Match(True, "the same function")
        return compare_symbolic(value, key, right)
    return compare_symbolic(answer, key, gold)


def _is_empty_set(text: str) -> bool:
    return canonical(text).casefold() in _EMPTY or text.strip("$ ") in _EMPTY
