"""Rules that make key steps of what some data sets have in their place. A new rule is a function and a line here.

A rule gets the row's list and returns key steps, or () where the list is none of its kind.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sharegrpo_rl.data.theorem_steps import theorem_steps
from sharegrpo_rl.data.types import QuestionBank
from sharegrpo_rl.errors import UserError

# ---- PuzzleVQA's three sentences (what is seen, what is observed, the conclusion) -> lists, facts and the pattern.
#
# The lists of the first sentence, the facts of the second and the pattern it ends on are one key step each. The answer
# itself is none.

_LIST = re.compile(r"\[([^\[\]]{1,200})\]")
_PATTERN = re.compile(r"the pattern is (?:most likely )?th(?:at|e) (.{3,300})\.$")
_CONCLUSION = re.compile(r"Based on the pattern that (.{3,300}?), the (?:missing|size) .{1,300} should be .{1,80}\.$")

# What is observed -> ways to say it; {0}, {1}, .. are the parts in brackets. Our own words.
_FACTS: tuple[tuple[str, str], ...] = (
    (r"(\d+) \+ (\d+) = (\d+)", "{0} + {1} = {2}; {1} + {0} = {2}; {0} plus {1}; {1} plus {0}; sum of {0} and {1}"),
    (
        r"number (\d+) is the product of (\d+) and (\d+)",
        "{1} * {2} = {0}; {2} * {1} = {0}; {0} = {1} * {2}; {0} = {2} * {1}; product of {1} and {2}; "
        "product of {2} and {1}; {1} times {2}; {2} times {1}",
    ),
    (
        r"\[(\d+), (\d+), (\d+)\] (?:also )?sums to (\d+)",
        "{0} + {1} + {2} = {3}; {0}, {1}, {2} add up to {3}; {0} + {1} + {2}; sums to {3}; sum to {3}; sum is {3}; add up to {3}",
    ),
    (
        r"numbers in the (\w+) parts (?:also )?add up to (\d+)",
        "{0} parts add up to {1}; {0} numbers add up to {1}; {0} add up to {1}; {0} parts sum to {1}; {0}: {1}",
    ),
    (
        r"polygons? with (\d+) sides is (\w+)",
        "{0} sides is {1}; {0} sides are {1}; {0}-sided polygon is {1}; {1} polygon has {0} sides; {1} polygons have {0} sides",
    ),
    (
        r"polygon with (\d+) sides has the number (\d+)",
        "{0} sides has the number {1}; {0} sides has number {1}; {0} sides: {1}; number {1} has {0} sides",
    ),
    (r"cells with number (\d+) is (\w+)", "number {0} is {1}; {0} is {1}; {0} are {1}; {0}: {1}; {1} is {0}; {1} {0}"),
    (
        r"(\w+) rectangles are (?:of |denoted as )?(\w+)",
        "{0} rectangles are {1}; {0} is {1}; {0} rectangles have {1}; {0}: {1}; {1} rectangles are {0}; {1} is {0}",
    ),
    (r"circles at the corners are (\w+)", "corners are {0}; corner circles are {0}; {0} corners; {0} at the corners"),
    (
        r"adjacent to the center are (\w+)",
        "adjacent to the center are {0}; next to the center are {0}; edges are {0}; {0} edges",
    ),
    (r"center circle is (\w+)", "center is {0}; center circle is {0}; {0} center; {0} in the center"),
    (
        r"(\w+) part is opposite another \w+ part",
        "{0} is opposite {0}; {0} part is opposite another {0} part; {0} opposite {0}; {0} parts are opposite",
    ),
    (
        r"the (\w+) and (\w+) squares overlap to form (\w+)",
        "{0} and {1} make {2}; {1} and {0} make {2}; {0} and {1} form {2}; {0} + {1} = {2}; {1} + {0} = {2}; "
        "mixing {0} and {1}; mixing {1} and {0}",
    ),
    (r"the (\w+) is reflected", "{0} is reflected; {0} is mirrored; reflection of the {0}; {0} reflects; {0} to {0}"),
    (
        r"largest circle is ([\w ]+?) color",
        "largest circle is {0}; largest is {0}; biggest circle is {0}; {0} is the largest",
    ),
    (r"change color from ([\w ]+?) to ([\w ]+?)\.", "from {0} to {1}; {0} to {1}"),
    (
        r"(largest|smallest) value (\d+)",
        "{0} value {1}; {0} value is {1}; {0} number is {1}; {0} number {1}; {1} is the {0}",
    ),
    (
        r"rows contain (\w+) shapes, (\w+) shapes, and (\w+) shapes",
        "rows contain {0}, {1}, {2}; rows are {0}, {1}, {2}; {0}, {1}, {2}; {0}, {1} and {2}",
    ),
    (
        r"rows contain (\w+)s, (\w+)s, and (\w+)s",
        "rows contain {0}s, {1}s, {2}s; rows are {0}, {1}, {2}; {0}, {1}, {2}; {0}, {1} and {2}",
    ),
    (
        r"columns contain (\w+) shapes, (\w+) shapes, and (\w+) shapes",
        "columns contain {0}, {1}, {2}; columns are {0}, {1}, {2}; {0}, {1}, {2}; {0}, {1} and {2}",
    ),
    (
        r"columns contain (\w+)s, (\w+)s, and (\w+)s",
        "columns contain {0}s, {1}s, {2}s; columns are {0}, {1}, {2}; {0}, {1}, {2}; {0}, {1} and {2}",
    ),
    (r"the (?!corners)(\w+)s are (\w+) size", "{0}s are {1}; {0} is {1}; {1} {0}; {0}: {1}"),
    (r"from (small|large) to medium to (small|large)", "{0} to medium to {1}; {0}, medium, {1}; {0}, medium and {1}"),
    (
        r"look like an? (\w+) but .{1,60} like an? (\w+)",
        "from {0} to {1}; {0} to {1}; {0} into a {1}; {0} becomes a {1}; {0} changes into a {1}",
    ),
)
# A word or two of the pattern -> shorter ways to say it.
_SHORT: tuple[tuple[str, str], ...] = (
    (
        "larger the number",
        "larger numbers have larger circles; size follows the number; bigger the number; larger number",
    ),
    ("at the corner", "corners are the same; corners and edges alternate; depends on the position"),
    (
        "opposite parts",
        "opposite parts are the same; opposite parts have the same color; same color as the opposite; opposite parts match",
    ),
    ("same color add up", "same color add up; same color sum to; sum of the same color"),
    ("mixing the two colors", "colors mix; mixing the colors; mix of the two colors; mixture"),
    ("become (lighter|darker)", "smaller circles are {0}; {0} as they become smaller; smaller is {0}"),
    ("same value", "same sum; same total; equal sums; sum of each row"),
    ("same number will have", "same number has the same color; same number, same color; color depends on the number"),
    (
        "number of sides have",
        "same number of sides, same color; color depends on the number of sides; same number of sides",
    ),
    ("number of sides the polygon", "number of sides; number equals the sides; counts the sides"),
    ("color of each rectangle", "same length, same color; color depends on the length; color matches the length"),
    ("number in each rectangle", "same length, same number; number depends on the length; number matches the length"),
    ("is reflected in", "bottom mirrors the top; mirror image; reflection; same shape on both sides"),
    ("while each (row|column)", "size changes by {0}; each {0} has one size; size depends on the {0}"),
    ("distinct size", "each shape has its own size; same shape, same size; size depends on the shape"),
    ("each arm get bigger", "get bigger; grow away from the center; larger away from the center"),
    ("product of the other two", "product of the other two; multiply the other two; product of the first two"),
    ("sum of the numbers", "sum of the circles; sum of both circles; overlap is the sum; add the numbers"),
    ("morphing between", "morph; shapes change; change gradually; gradually change"),
)


def puzzle_steps(sentences: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Key steps of [caption, explanation, deduction]; () where the three are not of PuzzleVQA's form."""
    if len(sentences) != 3 or not (pattern := _PATTERN.search(sentences[1])):
        return ()
    if not (conclusion := _CONCLUSION.match(sentences[2])):
        return ()
    observed = sentences[1][: pattern.start()]
    lists = [_list_phrasings(match[1]) for match in _LIST.finditer(sentences[0])]
    facts = [
        (*_filled(ways, match.groups()), match[0]) for form, ways in _FACTS for match in re.finditer(form, observed)
    ]
    last = (pattern[1], conclusion[1], *_short(pattern[1]))
    return tuple(dict.fromkeys(tuple(dict.fromkeys(step)) for step in (*filter(None, lists), *facts, last)))


def _list_phrasings(inside: str) -> tuple[str, ...]:
    """`1, 2, '?'` -> with and without `and`; () for a list that shows less than two things."""
    plain = inside.replace("'", "")
    items = [pair.strip("() ") for pair in plain.split("), (")] if "(" in plain else plain.split(", ")
    if sum("?" not in item for item in items) < 2:
        return ()
    return ", ".join(items), f"{', '.join(items[:-1])} and {items[-1]}", *([plain] if "(" in plain else [])


def _filled(ways: str, parts: Sequence[str]) -> tuple[str, ...]:
    return tuple(way.strip().format(*parts) for way in ways.split(";"))


def _short(pattern: str) -> tuple[str, ...]:
    for form, ways in _SHORT:
        if match := re.search(form, pattern):
            return _filled(ways, match.groups())
    return ()


Rule = Callable[[Sequence[str]], tuple[tuple[str, ...], ...]]
RULES: tuple[Rule, ...] = (theorem_steps, puzzle_steps)


def steps_by_rule(value: Sequence[Any]) -> tuple[tuple[str, ...], ...]:
    """Key steps by the first rule that knows lists of this kind; () where none does, or where an item is no text."""
    if not value or not all(isinstance(item, str) for item in value):
        return ()
    return next((steps for rule in RULES if (steps := rule(value))), ())


# ---- The key steps of a row: what a good solution says on the way, each step as its equivalent phrasings.
#
# Shapes that are read: `["phrase", ["phrase", "another phrasing"], ...]`, R1-VL's `{"Steps": [...]}`, and either of them
# as JSON text, which is how a parquet column holds such a mixture. Lists of sentences or theorem calls go through the
# rules of key_step_rules.py.

KeySteps = tuple[tuple[str, ...], ...]
LOOSE_COLUMN = "steps"  # a name that data sets also use for other things


def read_key_steps(value: Any, column: str, place: str) -> KeySteps:
    """The key steps in a cell; () for an empty one. UserError naming the place, the column and the step.

    A column called `steps` may hold anything: what is no list of lists, no `{"Steps": ...}` and known to no rule is
    left alone there.
    """
    if value is None:
        return ()
    if isinstance(value, list) and (found := steps_by_rule(value)):
        return found
    if column == LOOSE_COLUMN and not _looks_like_key_steps(value):
        return ()
    where = f"{place}: {column}"
    if isinstance(value, str):
        value = _parsed(value, where)
    if isinstance(value, Mapping):
        value = _steps_of(value, where)
    if not isinstance(value, list | tuple):
        raise UserError(f'{where} is a {type(value).__name__}, not key steps; write ["a", ["b", "also b"]]')
    return tuple(_phrasings(step, f"{where}, step {number}") for number, step in enumerate(value, 1))


def is_kept_whole(value: Any, steps: KeySteps) -> bool:
    """Whether the key steps say all that the cell does, so that the raw value need not be handed on."""
    return bool(steps) and value == [list(phrasings) for phrasings in steps]


def rows_without_key_steps(bank: QuestionBank, limit: int | None = None) -> int:
    """How many rows of the bank (or of its first `limit`) have no key step, so that their share k is always 0."""
    rows = len(bank) if limit is None else min(limit, len(bank))
    return sum(not bank[index].key_steps for index in range(rows))


def _looks_like_key_steps(value: Any) -> bool:
    if isinstance(value, Mapping):
        return "Steps" in value
    lists = isinstance(value, list) and all(isinstance(step, list) and step for step in value)
    return lists and all(isinstance(phrase, str) for step in value for phrase in step)


def _parsed(text: str, where: str) -> Any:
    if not text.strip():
        return []
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise UserError(f'{where} is the text {text[:40]!r}, not key steps; write ["a", ["b", "also b"]]') from None


def _steps_of(value: Mapping[str, Any], where: str) -> Any:
    """R1-VL's shape; its other keys are not scored."""
    if value and "Steps" not in value:
        raise UserError(
            f'{where} has no "Steps" (found {", ".join(map(str, list(value)[:5]))}); write {{"Steps": [...]}}'
        )
    return value.get("Steps") or []


def _phrasings(step: Any, where: str) -> tuple[str, ...]:
    phrases: Sequence[Any] = step if isinstance(step, list | tuple) else [step]
    for phrase in phrases:
        if isinstance(phrase, bool) or not isinstance(phrase, str | int | float) or not str(phrase).strip():
            raise UserError(f"{where} holds {str(phrase)[:40]!r}; write a phrase, or a list of equivalent phrases")
    if not phrases:
        raise UserError(f"{where} is an empty list; write at least one phrase, or leave the step out")
    return tuple(dict.fromkeys(str(phrase).strip() for phrase in phrases))
