"""Answers of several parts: lists, tuples, sets, intervals, inequalities read as intervals, assignments, ratios."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from sharegrpo_rl.grader.algebra import same_expression, same_name
from sharegrpo_rl.grader.expressions import Number, evaluate, replace_number_words, same_number
from sharegrpo_rl.grader.key import AnswerKey, Match
from sharegrpo_rl.grader.numbers import parse_quantity, same_quantity, split_unit
from sharegrpo_rl.grader.text import canonical, content_words, normalized, plain_unicode

T = TypeVar("T")

ASKS_FOR_ORDER = re.compile(
    r"\b(?:order(?!\s+to\b)|arrange|sort|rank|sequence|coordinates?|ascending|descending|respectively)\w*\b"
    r"|\b(?:say|says|spell|spells|reads)\b|顺序|排列|排序|从[大小高低]到|依次",
    re.I,
)


def compare_lists(answer: str, gold: str, key: AnswerKey) -> Match | None:
    """None where answer and gold are not both of several parts, or where only mathematics can tell."""
    if (proportional := _same_ratio(answer, gold)) is not None:
        return Match(proportional, "the same ratio" if proportional else "another ratio")
    if (match := _compare_matrices(answer, gold, key)) is not None:
        return match
    if _OPEN_END.search(plain_unicode(answer)) and not _OPEN_END.search(plain_unicode(gold)):
        return Match(False, "a list without an end")
    answer, gold = (_condition(text) if _is_relation(text) else text for text in (answer, gold))
    answer_list, gold_list = parse_list(answer), parse_list(gold)
    is_relation = _is_relation(answer) or _is_relation(gold)
    if answer_list is None and gold_list is not None and not is_relation and _are_several_numbers(gold_list):
        only_one = _ONE_EXPRESSION.fullmatch(canonical(answer)) is not None
        return Match(False, "one value where several are right") if only_one else None
    if answer_list is None or gold_list is None or is_relation:
        match = _compare_intervals(answer, gold, key)
        if match is not None or answer_list is None or gold_list is None:
            return match
    if _joined_otherwise(answer, gold) and (is_relation or not _all_numbers(gold_list)):
        return Match(False, "`or` is not `and`")
    if gold_list.needs_brackets and not answer_list.opening and key.answer_type != "list":
        return Match(False, "a list where an interval is right")
    if answer_list.opening and gold_list.opening and answer_list.brackets != gold_list.brackets:
        return Match(False, "other brackets")
    return _compare_assignments(answer_list, gold_list, key) or _compare_items(answer_list, gold_list, key)


def _are_several_numbers(parts: ItemList) -> bool:
    return len(parts.items) > 1 and not parts.is_ordered and _all_numbers(parts)


def _compare_items(answer: ItemList, gold: ItemList, key: AnswerKey) -> Match | None:
    same_item = partial(_same_item, key=key)
    order_matters = ASKS_FOR_ORDER.search(key.question) is not None
    if gold.opening == "{" and not answer.is_ordered and len(answer.items) > len(gold.items):
        answer = replace(answer, items=_without_repeats(answer.items, same_item))  # in a set they change nothing
    if _same_list(answer, gold, same_item, order_matters=order_matters):
        return Match(True, "equal parts")
    if order_matters and _same_list(answer, gold, same_item, order_matters=False):
        return Match(False, "another order")
    if _all_numbers(answer) and _all_numbers(gold) and _is_nested(answer) == _is_nested(gold):
        return Match(False, "other parts")
    return None


def _compare_assignments(answer: ItemList, gold: ItemList, key: AnswerKey) -> Match | None:
    """`k = 45, n = 2`: values by name, or in the gold's order where the answer leaves the names out."""
    gold_values, values = _assignments(gold), _assignments(answer)
    if gold_values is None:
        return None
    same_item = partial(_same_item, key=key)
    if values is not None and set(values) == set(gold_values):
        equal = all(same_item(values[name], value) for name, value in gold_values.items())
    elif any("=" in item for item in answer.items):
        return None
    else:
        equal = _same_list(answer, ItemList(tuple(gold_values.values())), same_item, order_matters=True)
    return Match(equal, "the same values by name" if equal else "other values")


def _compare_intervals(answer: str, gold: str, key: AnswerKey) -> Match | None:
    """Inequalities, and unions of intervals."""
    answer_is_relation, gold_is_relation = _is_relation(answer), _is_relation(gold)
    if not (answer_is_relation or gold_is_relation or "\\cup" in canonical(gold)):
        return None
    if answer_is_relation and gold_is_relation and _unknowns(answer) != _unknowns(gold):
        return None
    intervals, gold_intervals = _union(answer), _union(gold)
    if intervals is None or gold_intervals is None:
        return None
    same_interval = partial(_same_list, same_item=partial(_same_item, key=key), order_matters=True)
    if len(intervals) == len(gold_intervals) and _same_in_any_order(intervals, gold_intervals, same_interval):
        return Match(True, "the same intervals")
    if all(map(_all_numbers, intervals + gold_intervals)):
        return Match(False, "other intervals")
    return None


def _same_item(answer: str, gold: str, key: AnswerKey) -> bool:
    if normalized(answer) == normalized(gold):
        return True
    number, gold_number = parse_quantity(answer), parse_quantity(gold)
    if number is not None and gold_number is not None:
        same = same_quantity(number, gold_number, precision=key.precision)
        return same and same_name(number.name, gold_number.name) and _same_nouns(answer, gold)
    inner, gold_inner = parse_list(answer), parse_list(gold)
    if inner is not None and gold_inner is not None:
        return _same_list(inner, gold_inner, partial(_same_item, key=key), order_matters=False)
    if (same_value := same_expression(canonical(answer), canonical(gold))) is not None:
        return same_value
    return bool(content_words(answer)) and content_words(answer) == content_words(gold)


def _same_nouns(answer: str, gold: str) -> bool:
    """`3 blue` is not `3 red`; a number without a noun fits both."""
    nouns, gold_nouns = (
        [
            word.rstrip("s")
            for word in content_words(replace_number_words(split_unit(canonical(text))[0]))
            if len(word) > 2
        ]
        for text in (answer, gold)
    )
    nouns, gold_nouns = ([word for word in words if word.isalpha() and word != "sqrt"] for words in (nouns, gold_nouns))
    return not nouns or not gold_nouns or "=" in answer + gold or nouns == gold_nouns


def _without_repeats(items: Sequence[str], same_item: Callable[[str, str], bool]) -> tuple[str, ...]:
    kept: list[str] = []
    for item in items:
        if not any(same_item(item, other) for other in kept):
            kept.append(item)
    return tuple(kept)


def _joined_otherwise(answer: str, gold: str) -> bool:
    """Whether one says `or` and the other `and`."""
    (any_of, all_of), (gold_any_of, gold_all_of) = (
        (_OR_WORD.search(text) is not None, _AND_WORD.search(text) is not None)
        for text in map(canonical, (answer, gold))
    )
    return (any_of and not all_of and gold_all_of and not gold_any_of) or (
        all_of and not any_of and gold_any_of and not gold_all_of
    )


def _same_list(answer: ItemList, gold: ItemList, same_item: Callable[[str, str], bool], *, order_matters: bool) -> bool:
    """Equal lengths, brackets that do not contradict each other, and equal items: in order for tuples and intervals."""
    if len(answer.items) != len(gold.items):
        return False
    if answer.opening and gold.opening and answer.brackets != gold.brackets:
        return False
    if answer.is_ordered or gold.is_ordered or order_matters:
        return all(map(same_item, answer.items, gold.items))
    return _same_in_any_order(answer.items, gold.items, same_item)


def _same_in_any_order(answers: Sequence[T], golds: Sequence[T], same: Callable[[T, T], bool]) -> bool:
    """Whether every answer has a gold of its own."""
    unmatched = list(golds)
    for answer in answers:
        index = next((i for i, gold in enumerate(unmatched) if same(answer, gold)), None)
        if index is None:
            return False
        del unmatched[index]
    return True


# ---- Lists, tuples and sets.

_OPEN_END = re.compile(r"(?:\.\.\.|\\[lc]?dots)\W*$")
_ONE_EXPRESSION = re.compile(r"(?:[\w\s().+*/^{}=-]|\\(?:frac|sqrt|pi)(?![a-z]))+")
_OR_WORD = re.compile(r"\bor\b|或|\\lor|\\vee")
_AND_WORD = re.compile(r"\band\b|&|和|与|且|\\land|\\wedge")
_REVERSED_START = re.compile(r"^\](?=[^\[\](){}]*,[^\[\](){}]*[\[\]]$)")  # ]-1, 2[
_REVERSED_END = re.compile(r"(?<=\d)\[$")
_CLOSERS = {"(": ")", "[": "]", "{": "}"}
_MAX_ITEMS = 64
_AND = re.compile(r"\s*,?\s*(?:\b(?:and|or)\b|&|\\(?:and|or|text)\b|与|和|或)\s*", re.IGNORECASE)
_THOUSANDS = re.compile(r"\s*-?\$?\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d)")
_NAME = re.compile(
    r"^(?:the\s+)?(?:(?:ordered\s+pair|points?|vector|interval|set|vertex|coordinates?)\s+(?:is\s+|are\s+)?|(?-i:[A-Z])'?\s*(?=\())(?=[(\[{\\])",
    re.IGNORECASE,
)
_ASSIGNED_TO = re.compile(r"^(?:[A-Za-z]\w*\s*(?:=|\\in)\s*)(?=[(\[{\\])")
_TUPLE_ASSIGNED_TO = re.compile(r"^\([a-z](?:\s*,\s*[a-z])+\)\s*=\s*")
_ANGLE_BRACKETS = re.compile(r"^\\langle(?![a-zA-Z])(.*)\\rangle$")
_ASSIGNMENT = re.compile(r"^([A-Za-z]\w{0,3})\s*=\s*([^=]+)$")


@dataclass(frozen=True)
class ItemList:
    """`items` between `opening` and `closing` ("" where the list is bare)."""

    items: tuple[str, ...]
    opening: str = ""
    closing: str = ""
    is_quoted: bool = False  # names, not numbers: ["a", "b"]

    @property
    def brackets(self) -> str:
        return self.opening + self.closing

    @property
    def is_ordered(self) -> bool:
        """Whether the brackets make order matter; a bare list is decided by the question."""
        return self.opening in ("(", "[")

    @property
    def may_be_interval(self) -> bool:
        return self.is_ordered and len(self.items) == 2 and not self.is_quoted

    @property
    def needs_brackets(self) -> bool:
        """Whether its brackets say more than that it is a list: `[0, 1)` is an interval, `(0, 1)` may be a point."""
        return self.may_be_interval and ("[" in self.brackets or "]" in self.brackets)


def parse_list(text: str) -> ItemList | None:
    """A tuple, interval, set or bare list of two items or more, or a bracketed single item; else None."""
    text = _ASSIGNED_TO.sub("", canonical(text)).strip()
    text = _without_name(_TUPLE_ASSIGNED_TO.sub("", text))
    text = _REVERSED_END.sub(")", _REVERSED_START.sub("(", _ANGLE_BRACKETS.sub(r"(\1)", text)))
    if not text:
        return None
    if not _is_bracketed(text):
        items = _split_items(text)
        return ItemList(items) if items and len(items) > 1 else None
    items = _split_items(text[1:-1])
    if not items or (len(items) == 1 and text[0] not in "[{"):
        return None
    is_quoted = all(item[0] in "'\"" and item[-1] == item[0] for item in items)
    return ItemList(tuple(item.strip("'\"") for item in items) if is_quoted else items, text[0], text[-1], is_quoted)


def _without_name(text: str) -> str:
    """`the point (3, 4)` and `P(3, 4)` as `(3, 4)`."""
    rest = _NAME.sub("", text)
    return rest if rest and _is_bracketed(rest) else text


def _is_bracketed(text: str) -> bool:
    """Whether the first bracket closes at the very end, by a bracket of whatever kind (half-open intervals)."""
    if text[0] not in _CLOSERS:
        return False
    depth = 0
    for i, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0:
            return i == len(text) - 1
    return False


def _split_items(text: str) -> tuple[str, ...] | None:
    """Items at commas, semicolons and words like `and` outside brackets; None where brackets do not match."""
    items: list[str] = []
    start = position = depth = 0
    while position < len(text):
        end = position + 1
        if text[position] in "([{":
            depth += 1
        elif text[position] in ")]}":
            depth -= 1
            if depth < 0:
                return None
        elif depth == 0 and (separator_end := _end_of_separator(text, position, start)):
            items.append(text[start:position])
            start = end = separator_end
        position = end
    items.append(text[start:])
    items = [item.strip() for item in items if item.strip()]
    if depth or len(items) > _MAX_ITEMS:
        return None
    if len(items) * 2 > _MAX_ITEMS:
        return tuple(items)
    return tuple(part for item in items for part in _with_both_signs(item))


def _end_of_separator(text: str, position: int, item_start: int) -> int | None:
    """The end of the comma, semicolon or word that separates items here; None for none."""
    number = _THOUSANDS.match(text, item_start) if text[position] == "," else None
    if text[position] in ",;" and (number is None or position >= number.end()):
        return position + 1
    word = _AND.match(text, position)
    return word.end() if word else None


def _with_both_signs(item: str) -> list[str]:
    """`1 ± x` as `1 + x` and `1 - x`."""
    head, sign, tail = re.sub(r"\\pm(?![a-zA-Z])", "±", item).partition("±")
    if not sign or not tail.strip() or "±" in tail:
        return [item]
    plus = "" if not head.strip() or head.rstrip()[-1] in "=({[" else "+"
    return [f"{head}{plus}{tail}".strip(), f"{head}-{tail}".strip()]


def _all_numbers(parts: ItemList) -> bool:
    return all(
        item.strip("+- ") == "\\infty"
        or parse_quantity(item) is not None
        or ((inner := parse_list(item)) is not None and _all_numbers(inner))
        for item in parts.items
    )


def _is_nested(parts: ItemList) -> bool:
    return any(parse_list(item) is not None for item in parts.items)


def _assignments(parts: ItemList) -> dict[str, str] | None:
    """`k = 45, n = 2` by name; None where a part is no assignment or a name comes twice."""
    matches = [_ASSIGNMENT.match(item.strip()) for item in parts.items]
    values = {match.group(1): match.group(2).strip() for match in matches if match}
    return values if len(values) == len(parts.items) > 1 else None


# ---- Matrices and vectors.

_MATRIX = re.compile(
    r"^(?:[A-Za-z]\w*\s*=\s*)?(?P<bracket>[(\[{|]?)\s*\\begin\{(?P<kind>[pbBvV]?|small)(?:matrix|array)\}"
    r"(?:\{[lcr|\s]{1,20}\})?(?P<body>(?:(?!\\begin|\\end).)*)\\end\{[a-zB]*(?:matrix|array)\}\s*[)\]}|]?$",
    re.DOTALL | re.IGNORECASE,
)
_MATRIX_CALL = re.compile(r"^[Mm]atrix\((\[.*\])\)$", re.DOTALL)  # matrix([1,2],[3,4])
Rows = tuple[tuple[str, ...], ...]


def _compare_matrices(answer: str, gold: str, key: AnswerKey) -> Match | None:
    """Entry by entry; a vector may be written as a column, a row of brackets, or `<1, 2>`. None where neither is one."""
    matrix, gold_matrix = _matrix(answer), _matrix(gold)
    if matrix is None and gold_matrix is None:
        return None
    if matrix is None and "\\begin" in answer:  # a number times a matrix is for math-verify
        return None if answer.count("\\begin") == 1 else Match(False, "the calculation is not worked out")
    if gold_matrix is None and "\\begin" in gold:
        return None
    rows, gold_rows = (
        _rows(text, is_vector=other is None or 1 in (len(other[1]), len(other[1][0])))
        for text, other in ((answer, gold_matrix), (gold, matrix))
    )
    kinds = {found[0] for found in (matrix, gold_matrix) if found is not None}
    if rows is None or gold_rows is None or len(kinds) > 1:
        return Match(False, "no such matrix")
    if None in (matrix, gold_matrix) and len(rows) == len(gold_rows[0]) and len(gold_rows) == 1:
        rows = tuple(zip(*rows, strict=False))  # (1, 2) as a row
    elif None in (matrix, gold_matrix) and len(rows) == 1 and len(gold_rows) == len(rows[0]):
        rows = tuple((entry,) for entry in rows[0])
    if [len(row) for row in rows] != [len(row) for row in gold_rows]:
        return Match(False, "a matrix of another shape")
    pairs = zip((e for row in rows for e in row), (e for row in gold_rows for e in row), strict=True)
    equal = all(_same_item(entry, gold_entry, key) for entry, gold_entry in pairs)
    return Match(equal, "the same matrix" if equal else "another matrix")


def _matrix(text: str) -> tuple[str, Rows] | None:
    """A matrix as (kind, rows): the kind is `|` for a determinant, `‖` for a norm, else ""."""
    plain = canonical(text)
    if (call := _MATRIX_CALL.match(plain)) is not None:
        parts = [parse_list(item) for item in (parse_list(f"[{call.group(1)}]") or ItemList(())).items]
        return None if None in parts else ("", tuple(row.items for row in parts if row is not None))
    match = _MATRIX.match(plain)
    if match is None:
        return None
    rows = [row.strip() for row in match["body"].split("\\\\")]
    kind = {"v": "|", "V": "‖"}.get(match["kind"], "|" if match["bracket"] == "|" else "")
    return kind, tuple(tuple(entry.strip() for entry in row.split("&")) for row in rows if row)


def _rows(text: str, *, is_vector: bool) -> Rows | None:
    """The rows of a matrix, of `[[1, 2], [3, 4]]`, or of a bracketed list that stands for a vector."""
    if (matrix := _matrix(text)) is not None:
        return matrix[1] or None
    parts = parse_list(text)
    if parts is None or not parts.opening:
        return None
    inner = [parse_list(item) for item in parts.items]
    if all(inner):
        return tuple(row.items for row in inner if row is not None)
    return (parts.items,) if is_vector and parts.is_ordered else None


# ---- Numbered parts: `(1) 5 (2) 3`.

_MARKS = [
    *([f"({i})" for i in range(1, 10)], [f"({letter})" for letter in "abcdefgh"]),
    *(["(i)", "(ii)", "(iii)", "(iv)", "(v)"], [f"{i}) " for i in range(1, 10)], [f"{i}. " for i in range(1, 10)]),
]
_CIRCLED = {chr(0x2460 + i): f"({i + 1})" for i in range(9)}


def compare_numbered(answer: str, gold: str, key: AnswerKey) -> Match | None:
    """Part by part, where the gold's are numbered; an answer may leave the numbers out. None for any other gold."""
    gold_parts = _numbered_parts(gold)
    if gold_parts is None:
        return None
    parts = _numbered_parts(answer)
    if parts is None:
        bare = parse_list(answer)
        parts = () if bare is None else bare.items
    equal = len(parts) == len(gold_parts) and all(
        _same_item(part, gold_part, key) for part, gold_part in zip(parts, gold_parts, strict=True)
    )
    return Match(equal, "the same parts by number" if equal else "other parts")


def _numbered_parts(text: str) -> tuple[str, ...] | None:
    plain = canonical("".join(_CIRCLED.get(character, character) for character in text))
    for marks in _MARKS:
        if not plain.startswith(marks[0]):
            continue
        parts, rest = [], plain[len(marks[0]) :]
        for mark in marks[1:]:
            part, found, rest = rest.partition(mark)
            parts.append(part.strip(" ;,."))
            if not found:
                break
        return tuple(parts) if len(parts) > 1 and all(parts) else None
    return None


_REMAINDER = re.compile(
    r"^(\d{1,12})\s*(?:余|餘|あまり|余り|\.{3,6}|r|R|dư|rest|(?:with\s+)?(?:a\s+)?remainder(?:\s+of)?)\s*(\d{1,12})$"
)


def compare_remainders(answer: str, gold: str) -> Match | None:
    """`6余2` is `6 remainder 2`; None where the gold is no quotient with a remainder."""
    found, gold_found = (_REMAINDER.match(canonical(text).replace(",", "")) for text in (answer, gold))
    if gold_found is None:
        return None
    equal = found is not None and found.groups() == gold_found.groups()
    return Match(equal, "the same quotient and remainder" if equal else "another quotient or remainder")


def compare_labels(answer: str, gold: str) -> Match | None:
    """Circled numbers `①③` as a set of labels; None where the gold is something else."""
    gold_labels, labels = _labels(gold), _labels(answer)
    if gold_labels is None or (len(gold_labels) == 1 and labels is None):
        return None
    return Match(labels == gold_labels, "the same labels" if labels == gold_labels else "other labels")


def _labels(text: str) -> frozenset[str] | None:
    plain = re.sub(r"[\s,，、;；.。和与]", "", text)
    return frozenset(plain) if plain and all(character in _CIRCLED for character in plain) else None


# ---- Ratios of three terms or more.


def _same_ratio(answer: str, gold: str) -> bool | None:
    """Whether two ratios are proportional; None where the gold is no such ratio."""
    gold_terms = _ratio_terms(gold)
    if gold_terms is None:
        return None
    terms = _ratio_terms(answer)
    if terms is None or len(terms) != len(gold_terms):
        return False
    return all(same_number(a * gold_terms[0], b * terms[0]) for a, b in zip(terms, gold_terms, strict=True))


def _ratio_terms(text: str) -> list[Number] | None:
    terms = canonical(text).split(":")
    values = [value for term in terms if (value := evaluate(term.strip()))]
    return values if len(values) == len(terms) >= 3 else None


# ---- Relations, and inequalities read as intervals.

_CHAIN = re.compile(r"^([^<>=]+)(<=?|>=?)\s*[A-Za-z]\s*(<=?|>=?)([^<>=]+)$")
_BOUND = re.compile(r"^[A-Za-z]\s*([<>]=?)([^<>=]+)$")
_BOUND_FIRST = re.compile(r"^([^<>=]+?)\s*([<>]=?)\s*[A-Za-z]$")
_UNION = re.compile(r"\\cup(?![a-zA-Z])|\b(?:or|and)\b|或")
_UNKNOWN = re.compile(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])")
_HOLE = re.compile(r"^[A-Za-z]\s*!=\s*([^!=<>,]+)$")
_SET_BUILDER = re.compile(
    r"^\\?\{\s*[A-Za-z]\s*(?:\\in\s*\\mathbb\{R\}\s*)?(?:\||\\mid(?![a-z])|:)\s*([^{}]+?)\s*\\?\}$"
)
_SIGN = re.compile(r"(<=|>=|!=|<|>|=)")
_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}


def flipped(text: str) -> str | None:
    """`3 < x` as `x > 3`, `a < b < c` as `c > b > a`; None where the text is no relation."""
    parts = _SIGN.split(canonical(text))
    if len(parts) < 3 or not all(part.strip() for part in parts):
        return None
    return "".join(_FLIPPED.get(part, part) for part in reversed(parts))


def _is_relation(text: str) -> bool:
    """Whether it holds an inequality sign."""
    return re.search(r"[<>]|!=", canonical(text)) is not None


def _unknowns(text: str) -> set[str]:
    return set(_UNKNOWN.findall(canonical(text)))


def _condition(text: str) -> str:
    """The canonical text; of a set `{x | x > 1}` its condition."""
    plain = canonical(text)
    builder = _SET_BUILDER.match(plain)
    return builder.group(1).strip() if builder else plain


def _union(text: str) -> list[ItemList] | None:
    """The intervals that make up `x < 1 or x > 5` or `(-\\infty, 1) \\cup (5, \\infty)`; None for anything else."""
    plain = re.sub(r"^[A-Za-z]\s*\\in\s*", "", _condition(text))
    if (hole := _HOLE.match(plain)) is not None:
        return [ItemList(("-\\infty", hole.group(1)), "(", ")"), ItemList((hole.group(1), "\\infty"), "(", ")")]
    intervals = []
    for part in filter(None, map(str.strip, _UNION.split(plain))):
        interval = _interval(part) or parse_list(part)
        if interval is None or not interval.may_be_interval:
            return None
        intervals.append(interval)
    if _is_relation(plain) and re.search(r"\band\b", plain):
        return _intersection(intervals)
    return intervals or None


def _interval(text: str) -> ItemList | None:
    """The interval that an inequality in one unknown says: `x <= 4` is (-infinity, 4], `1 < x <= 4` is (1, 4]."""
    plain = _condition(text)
    if chain := _CHAIN.match(plain):
        low, first, second, high = chain.groups()
        if first[0] != second[0]:
            return None
        if first[0] == ">":
            low, first, second, high = high, second, first, low
        return ItemList((low.strip(), high.strip()), "[" if "=" in first else "(", "]" if "=" in second else ")")
    if bound := _BOUND.match(plain):
        sign, value = bound.groups()
    elif bound := _BOUND_FIRST.match(plain):
        value, sign = bound.group(1), _FLIPPED[bound.group(2)]
    else:
        return None
    if sign.startswith("<"):
        return ItemList(("-\\infty", value.strip()), "(", "]" if "=" in sign else ")")
    return ItemList((value.strip(), "\\infty"), "[" if "=" in sign else "(", ")")


def _intersection(intervals: list[ItemList]) -> list[ItemList] | None:
    """`x > 1 and x < 5` is (1, 5)."""
    above = [interval for interval in intervals if interval.items[1] == "\\infty"]
    below = [interval for interval in intervals if interval.items[0] == "-\\infty"]
    if len(intervals) != 2 or len(above) != 1 or len(below) != 1:
        return None
    return [ItemList((above[0].items[0], below[0].items[1]), above[0].opening, below[0].closing)]
