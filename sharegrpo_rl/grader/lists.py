"""Answers of several parts: tuples, intervals, sets, and bare lists."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from sharegrpo_rl.grader.key import AnswerKey, Match
from sharegrpo_rl.grader.numbers import parse_quantity, same_quantity, same_ratio
from sharegrpo_rl.grader.text import canonical, content_words, squeezed

_PAIRS = {"(": ")", "[": "]", "{": "}"}
_MAX_ITEMS = 64
_AND = re.compile(r"\s*,?\s*(?:\b(?:and|or)\b|&|\\(?:and|or|text)\b|与|和|或)\s*", re.IGNORECASE)
_THOUSANDS = re.compile(r"^-?\$?\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d)")


@dataclass(frozen=True)
class Sequence:
    """`items` between `opening` and `closing` ("" where the list is bare)."""

    items: tuple[str, ...]
    opening: str = ""
    closing: str = ""

    @property
    def ordered(self) -> bool:
        """Whether the brackets make order matter; a bare list is decided by the question."""
        return self.opening in ("(", "[")

    @property
    def is_interval(self) -> bool:
        """Whether it could be one."""
        return self.ordered and len(self.items) == 2

    @property
    def needs_brackets(self) -> bool:
        """Whether its brackets say more than that it is a list: `[0, 1)` is an interval, `(0, 1)` may be a point."""
        return self.is_interval and "[" in self.opening + self.closing.replace("]", "[")


def _split(text: str) -> list[str] | None:
    """Top-level parts at commas, semicolons and words like `and`; None where brackets do not match."""
    depth, parts, start, i = 0, [], 0, 0
    while i < len(text):
        character = text[i]
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
            if depth < 0:
                return None
        elif depth == 0:
            number = _THOUSANDS.match(text[start:].lstrip()) if character == "," else None
            inside = number is not None and i < start + len(text[start:]) - len(text[start:].lstrip()) + number.end()
            if character in ",;" and not inside:
                parts.append(text[start:i])
                start = i + 1
            elif (word := _AND.match(text, i)) and word.end() > i:
                parts.append(text[start:i])
                start = i = word.end()
                continue
        i += 1
    parts.append(text[start:])
    kept = [part.strip() for part in parts if part.strip()]
    return kept if depth == 0 and len(kept) <= _MAX_ITEMS else None


def _closing_of(text: str) -> int:
    """Index of the bracket that closes the first one, of whatever kind (half-open intervals); -1 for none."""
    depth = 0
    for i, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0:
            return i
    return -1


_LABEL = re.compile(
    r"^(?:the\s+)?(?:(?:ordered\s+pair|points?|vector|interval|set|vertex|coordinates?)\s+(?:is\s+|are\s+)?|(?-i:[A-Z])'?\s*(?=\())(?=[(\[{\\])",
    re.IGNORECASE,
)


def _unlabelled(text: str) -> str:
    """`the point (3, 4)` and `P(3, 4)` without the name."""
    rest = _LABEL.sub("", text)
    return rest if rest and rest[0] in _PAIRS and _closing_of(rest) == len(rest) - 1 else text


def parse_sequence(text: str) -> Sequence | None:
    """A tuple, interval, set or bare list of two parts or more, or a bracketed single part; else None."""
    text = re.sub(r"^(?:[A-Za-z]\w*\s*(?:=|\\in)\s*)(?=[(\[{\\])", "", canonical(text)).strip()
    text = _unlabelled(re.sub(r"^\([a-z](?:\s*,\s*[a-z])+\)\s*=\s*", "", text))
    text = re.sub(r"^\\langle(?![a-zA-Z])(.*)\\rangle$", r"(\1)", text)
    if not text:
        return None
    if text[0] in _PAIRS and _closing_of(text) == len(text) - 1:
        items = _with_both_signs(_split(text[1:-1]))
        if items and (len(items) > 1 or text[0] in "[{"):
            return Sequence(tuple(items), text[0], text[-1])
        return None
    items = _with_both_signs(_split(text))
    return Sequence(tuple(items)) if items and len(items) > 1 else None


def _with_both_signs(items: list[str] | None) -> list[str] | None:
    """`1 ± x` as `1 + x` and `1 - x`."""
    if items is None or len(items) * 2 > _MAX_ITEMS:
        return items
    return [part for item in items for part in _expanded(item)]


def _expanded(item: str) -> list[str]:
    head, sign, tail = re.sub(r"\\pm(?![a-zA-Z])", "±", item).partition("±")
    if not sign or "±" in tail:
        return [item]
    plus = "" if not head.strip() or head.rstrip()[-1] in "=({[" else "+"
    return [f"{head}{plus}{tail}".strip(), f"{head}-{tail}".strip()]


def same_sequence(answer: Sequence, gold: Sequence, same: Callable[[str, str], bool], *, order_matters: bool) -> bool:
    """Equal lengths, brackets that do not contradict each other, and equal parts: in order for tuples and intervals."""
    if len(answer.items) != len(gold.items):
        return False
    if answer.opening and gold.opening and (answer.opening, answer.closing) != (gold.opening, gold.closing):
        return False
    if answer.ordered or gold.ordered or order_matters:
        return all(same(a, g) for a, g in zip(answer.items, gold.items, strict=True))
    left = list(gold.items)
    for item in answer.items:
        match = next((i for i, other in enumerate(left) if same(item, other)), None)
        if match is None:
            return False
        del left[match]
    return True


# ---- Inequalities read as intervals, relations read from the other side, and lists of assignments.

_CHAIN = re.compile(r"^([^<>=]+)(<=?|>=?)\s*[A-Za-z]\s*(<=?|>=?)([^<>=]+)$")
_BOUND = re.compile(r"^[A-Za-z]\s*([<>]=?)([^<>=]+)$")
_BOUND_FIRST = re.compile(r"^([^<>=]+?)\s*([<>]=?)\s*[A-Za-z]$")
_UNION = re.compile(r"\\cup(?![a-zA-Z])|\b(?:or|and)\b|或")
_UNKNOWN = re.compile(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])")
_HOLE = re.compile(r"^[A-Za-z]\s*!=\s*([^!=<>,]+)$")
_BUILDER = re.compile(r"^\\?\{\s*[A-Za-z]\s*(?:\\in\s*\\mathbb\{R\}\s*)?(?:\||\\mid(?![a-z])|:)\s*([^{}]+?)\s*\\?\}$")
_SIGN = re.compile(r"(<=|>=|!=|<|>|=)")
_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}
_ASSIGNED = re.compile(r"^([A-Za-z]\w{0,3})\s*=\s*([^=]+)$")
_FUNCTION = re.compile(r"^(?:y|[A-Za-z](?:_\{?\w+\}?)?\(\s*[a-z]\s*\))\s*=\s*(?=\S)")


def interval_of(text: str) -> Sequence | None:
    """The interval that an inequality in one unknown says: `x <= 4` is (-infinity, 4], `1 < x <= 4` is (1, 4]."""
    plain = condition(text)
    if chain := _CHAIN.match(plain):
        low, first, second, high = chain.groups()
        if first[0] != second[0]:
            return None
        if first[0] == ">":
            low, first, second, high = high, second, first, low
        return Sequence((low.strip(), high.strip()), "[" if "=" in first else "(", "]" if "=" in second else ")")
    if bound := _BOUND.match(plain):
        sign, value = bound.groups()
    elif bound := _BOUND_FIRST.match(plain):
        value, sign = bound.group(1), _FLIPPED[bound.group(2)]
    else:
        return None
    if sign.startswith("<"):
        return Sequence(("-\\infty", value.strip()), "(", "]" if "=" in sign else ")")
    return Sequence((value.strip(), "\\infty"), "[" if "=" in sign else "(", ")")


def condition(text: str) -> str:
    """The canonical text; of a set `{x | x > 1}` its condition."""
    plain = canonical(text)
    builder = _BUILDER.match(plain)
    return builder.group(1).strip() if builder else plain


def union_of(text: str) -> list[Sequence] | None:
    """The intervals that `x < 1 or x > 5` and `(-\\infty, 1) \\cup (5, \\infty)` are made of; None for anything else."""
    plain = re.sub(r"^[A-Za-z]\s*\\in\s*", "", condition(text))
    if (hole := _HOLE.match(plain)) is not None:
        return [Sequence(("-\\infty", hole.group(1)), "(", ")"), Sequence((hole.group(1), "\\infty"), "(", ")")]
    found = [interval_of(part) or parse_sequence(part) for part in map(str.strip, _UNION.split(plain)) if part]
    parts = [part for part in found if part is not None and part.is_interval]
    if not parts or len(parts) != len(found):
        return None
    return _both(parts) if is_relation(plain) and re.search(r"\band\b", plain) else parts


def _both(parts: list[Sequence]) -> list[Sequence] | None:
    """`x > 1 and x < 5` is (1, 5)."""
    if len(parts) != 2:
        return None
    above = [part for part in parts if part.items[1] == "\\infty"]
    below = [part for part in parts if part.items[0] == "-\\infty"]
    if len(above) != 1 or len(below) != 1:
        return None
    return [Sequence((above[0].items[0], below[0].items[1]), above[0].opening, below[0].closing)]


def is_relation(text: str) -> bool:
    """Whether it holds an inequality sign."""
    return re.search(r"[<>]|!=", canonical(text)) is not None


def unknowns(text: str) -> set[str]:
    """The single letters in it."""
    return set(_UNKNOWN.findall(canonical(text)))


def flipped(text: str) -> str | None:
    """`3 < x` as `x > 3`, `a < b < c` as `c > b > a`; None where the text is no relation."""
    parts = _SIGN.split(canonical(text))
    if len(parts) < 3 or not all(part.strip() for part in parts):
        return None
    return "".join(_FLIPPED.get(part, part) for part in reversed(parts))


def assignments(many: Sequence | None) -> dict[str, str] | None:
    """`k = 45, n = 2` by name; None where a part is no assignment or a name comes twice."""
    if many is None or len(many.items) < 2:
        return None
    found = [_ASSIGNED.match(item.strip()) for item in many.items]
    named = {match.group(1): match.group(2).strip() for match in found if match}
    return named if len(named) == len(many.items) else None


def function_value(text: str) -> str | None:
    """The right side of `y = ...` or `f(x) = ...`; None where the text is neither."""
    plain = canonical(text)
    match = _FUNCTION.match(plain)
    return plain[match.end() :] if match and plain.count("=") == 1 else None


# ---- Answers of several parts against a ground truth of several parts: lists, tuples, sets, intervals, assignments.

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
