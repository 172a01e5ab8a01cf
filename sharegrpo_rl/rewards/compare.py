"""Whether an extracted answer equals the ground truth: exact comparisons first, math-verify where they cannot tell."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from sharegrpo_rl.rewards import choices as multiple_choice
from sharegrpo_rl.rewards.canonical import MAX_ANSWER_CHARACTERS, canonical, content_words, squeezed
from sharegrpo_rl.rewards.number_words import replace_number_words
from sharegrpo_rl.rewards.pool import shared_pool
from sharegrpo_rl.rewards.prose_options import settled_option
from sharegrpo_rl.rewards.quantities import Quantity, decimal_comma, parse_quantity, same_quantity
from sharegrpo_rl.rewards.sequences import Sequence, interval_of, parse_sequence, same_sequence
from sharegrpo_rl.rewards.spans import boxes
from sharegrpo_rl.rewards.units import split_unit
from sharegrpo_rl.rewards.yes_no import parse_boolean

_MAX_MATH_CHARACTERS = 600
_MAX_BRACE_DEPTH = 16
_ORDER = re.compile(r"\b(?:order|arrange|sort|rank|sequence|coordinates?|ascending|descending|respectively)\w*\b", re.I)
_PERCENT = re.compile(r"percent|%", re.I)
_MATH = re.compile(r"[\\^_=<>+*/|]|\d")
_NUMBER = re.compile(r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:\s*/\s*\d+)?")
_HEDGED = re.compile(r"\b(?:not|n't|less|more|fewer|greater|least|most|between|cannot|isn't|never|or|either)\b", re.I)
_LABELLED = re.compile(r"^\s*(?:\(?[A-Z]\)?)(?:\s*(?:,|;|\n|and)?\s*\(?[A-Z]\)?){0,7}\s*\.?\s*$")


@dataclass(frozen=True)
class AnswerKey:
    """What a response is graded against; everything but `gold` only narrows the reading of an answer."""

    gold: str
    choices: tuple[str, ...] = ()
    question: str = ""
    answer_type: str | None = None
    unit: str | None = None
    precision: float | None = None

    @property
    def percent_asked(self) -> bool:
        return _PERCENT.search(self.question) is not None or (self.unit or "") in ("%", "percent")


@dataclass(frozen=True)
class Match:
    """`equal`, and how that was found."""

    equal: bool
    reason: str


@lru_cache(maxsize=4096)
def gold_span(gold: str) -> str:
    """The answer inside a ground truth that is a solution or a box; else the ground truth itself."""
    found = boxes(gold)
    return ", ".join(found) if found else gold.strip()


def _compare_choice(answer: str, key: AnswerKey, gold: str) -> Match | None:
    right = multiple_choice.resolve(gold, key.choices, gold=True)
    named = multiple_choice.resolve(answer, key.choices)
    if not right:
        return None
    lettered = multiple_choice.letters_before_text(answer) is not None
    if not named and (listed := _listed_options(answer, key.choices)) is not None:
        if len(listed) != 1:
            return Match(listed == right, "several options named")
        named = listed
    if not named and not lettered and (settled := settled_option(answer, key.choices, key.question)):
        named = multiple_choice.resolve(settled, key.choices)
    if not named:
        return Match(False, "no option named")
    if len(named) > 1 and not _same_texts(named, key.choices):
        return Match(named == right, "the same options" if named == right else "several options named")
    return Match(bool(named & right), "the right option" if named & right else "another option")


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


def _same_texts(indices: frozenset[int], choices: tuple[str, ...]) -> bool:
    return len({squeezed(choices[i]) for i in indices}) == 1


def _compare_labels(answer: str, gold: str) -> Match | None:
    """A gold that is a letter (or several) where no options are at hand."""
    if not _LABELLED.match(canonical(gold)):
        return None
    right, named = multiple_choice.letters_named(gold), multiple_choice.letters_named(answer)
    if right is None:
        return None
    if named is None:
        named = multiple_choice.letters_before_text(answer)
    if named is None:
        return None
    return Match(named == right, "the right letter" if named == right else "another letter")


def _compare_numbers(answer: str, key: AnswerKey, gold: Quantity) -> Match | None:
    found = parse_quantity(answer)
    if found is None:
        found = _approximation(answer, key, gold) or decimal_comma(answer) or _only_number(answer)
    if found is None:
        return None
    equal = same_quantity(found, gold, precision=key.precision, percent_asked=key.percent_asked)
    if not equal and "," in answer and (other := decimal_comma(answer)) is not None:
        equal = same_quantity(other, gold, precision=key.precision, percent_asked=key.percent_asked)
    return Match(equal, "equal numbers" if equal else "another number")


def _approximation(answer: str, key: AnswerKey, gold: Quantity) -> Quantity | None:
    """`24\\sqrt{2} \\approx 33.94`: the side that equals the gold, where both sides are one number."""
    sides = re.split(r"\\approx|≈|~=", canonical(answer))
    read = [parse_quantity(side) for side in sides]
    values = [q for q in read if q is not None]
    if len(sides) != 2 or len(values) != 2:
        return None
    low, high = sorted(abs(float(q.value)) for q in values)
    if high - low > 0.05 * high:
        return None
    return next((q for q in values if same_quantity(q, gold, precision=key.precision)), values[0])


def _only_number(answer: str) -> Quantity | None:
    """The one number that a short phrase states (`The area is 12 square units`); None for several or for a hedge."""
    plain = canonical(answer)
    stated = plain.rpartition("=")[2] if "=" in plain else plain
    if "=" in plain and (found := parse_quantity(stated)) is not None and not _HEDGED.search(plain):
        return found
    text = replace_number_words(plain)
    if _HEDGED.search(text):
        return None
    if (phrase := re.search(r"\b(?:is|are|equals?|be|of|:)\s+(?:about |approximately )?([^a-z]*\d.*)$", text)) and (
        found := parse_quantity(phrase.group(1))
    ):
        numbers = {n.replace(" ", "") for n in _NUMBER.findall(text[: phrase.start()])}
        return found if not numbers else None
    if "\\" in text or re.search(r"[\d)]\s*[*/^+]|[a-z]\d|\d[a-z]\b", text):
        return None
    numbers = {n.replace(",", "").replace(" ", "") for n in _NUMBER.findall(text)}
    return parse_quantity(numbers.pop()) if len(numbers) == 1 and re.search(r"[a-zA-Z]{2}", text) else None


def _read_sequences(answer: str, gold: str) -> tuple[Sequence | None, Sequence | None]:
    """Both as lists; an inequality is an interval where the other side is one."""
    said, right = parse_sequence(answer), parse_sequence(gold)
    if said is None and right is not None and right.opening:
        said = interval_of(answer)
    elif right is None and said is not None and said.opening:
        right = interval_of(gold)
    return said, right


def _compare_sequences(answer: Sequence | None, gold: Sequence | None, key: AnswerKey) -> Match | None:
    if answer is None or gold is None:
        return None
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


def _depth(text: str) -> int:
    depth = deepest = 0
    for character in text:
        depth += (character in "{([") - (character in "})]")
        deepest = max(deepest, depth)
    return deepest


def _tower(text: str) -> bool:
    """A power of powers, or an exponent of many digits: values that no answer has and no computer holds."""
    return bool(
        re.search(r"\^\s*\{?[^{}\s^]{1,12}\s*\^\s*\{?[^{}\s^]{1,12}\s*\^|\^\s*\{?\s*\(?\d{5,}|\d{60,}|!\s*!", text)
    )


def _mathematics(text: str) -> str:
    """The span as math-verify takes it: canonical signs, one pair of dollars."""
    spans = re.findall(r"\$([^$]+)\$", text) if re.search(r"[A-Za-z]{3}.*\$.+\$", text) else []
    body = canonical(spans[0] if len(spans) == 1 else text).replace("°", "^\\circ ").replace("%", "\\%")
    body = body.replace("<=", "\\le ").replace(">=", "\\ge ").replace("!=", "\\neq ")
    return f"${body}$"


def _compare_symbolic(answer: str, key: AnswerKey, gold: str) -> Match:
    """math-verify in a child process; raises GraderError where it gives no verdict."""
    if not _MATH.search(canonical(answer)) and len(canonical(answer)) > 1:
        return Match(False, "words where mathematics is expected")
    if len(answer) > _MAX_MATH_CHARACTERS or _depth(answer) > _MAX_BRACE_DEPTH or _tower(canonical(answer)):
        return Match(False, "too large to be an answer")
    decimals = 6 if key.precision is None else max(0, min(12, int(key.precision)))
    equal = shared_pool().equal(_mathematics(gold), _mathematics(answer), decimals)
    return Match(equal, "math-verify: equal" if equal else "math-verify: not equal")


def _compare_words(answer: str, gold: str) -> Match:
    """The same words, plural or not, alone or at the end of `the ball is red`."""
    right = [word.rstrip("s") for word in content_words(gold)]
    said = [word.rstrip("s") for word in content_words(answer)]
    stated = re.split(r"\b(?:is|are|was|were)\b|:", canonical(answer))[-1]
    told = [word.rstrip("s") for word in content_words(stated)]
    if right and (said == right or (told == right and not _HEDGED.search(answer))):
        return Match(True, "the same words")
    return Match(False, "other words")


def is_plain_words(gold: str) -> bool:
    """Whether the gold is a word or phrase, without digits or mathematics."""
    plain = canonical(gold)
    return not re.search(r"[\\\d^_=<>+*/|()\[\]]", plain) and bool(re.search(r"[^\W\d_]{2}", plain))


def compare(answer: str, key: AnswerKey) -> Match:
    """Grade one extracted answer. Raises GraderError (and nothing else) where the grader itself fails.

    Order: same text, options, yes/no, letters, numbers with units, lists, words, and mathematics last.
    """
    gold = gold_span(key.gold)
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
    number, (many_said, many_right) = parse_quantity(gold), _read_sequences(answer, gold)
    if number is not None and number.unit is None and key.unit:
        number = Quantity(number.value, split_unit(f"1 {key.unit}")[1], number.ratio)
    if number is not None:
        if (match := _compare_numbers(answer, key, number)) is not None:
            return match
        if many_said is not None and len(many_said.items) > 1:
            return Match(False, "several answers where one is right")
    elif (match := _compare_sequences(many_said, many_right, key)) is not None:
        return match
    if is_plain_words(gold):
        return _compare_words(answer, gold)
    if number is None and many_right is None and many_said is not None and not many_said.opening:
        return Match(False, "several answers where one is right")
    if multiple_choice.letters_named(gold) is not None and len(canonical(gold)) <= 3:
        return Match(False, "no option named")
    return _compare_symbolic(answer, key, gold)
