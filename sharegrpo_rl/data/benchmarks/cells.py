"""Cells of published benchmark files: lists written as text, options in one string, base64 images, image marks."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from sharegrpo_rl.data.gold import LETTERS
from sharegrpo_rl.data.images import decode_base64
from sharegrpo_rl.data.messages import IMAGE_MARK
from sharegrpo_rl.errors import UserError

MAX_LIST_CHARACTERS = 100_000
MAX_IMAGES = 64  # of one question
_BLANK = ("", "nan", "None")
_LABEL = re.compile(r"(?:^|(?<=[;\n,]))\s*\(?([A-Z])\s*[.:)]\s*")
_NUMBERED_MARK = re.compile(r"<image\s*(\d+)>")


def text_of(value: Any) -> str:
    """The cell as stripped text; "" where nothing is in it."""
    return "" if value is None else str(value).strip()


def is_blank(value: Any) -> bool:
    """Is the cell empty, or what pandas writes for nothing?"""
    return value is None or (isinstance(value, float) and value != value) or text_of(value) in _BLANK


def text_list(value: Any, where: str) -> tuple[str, ...]:
    """A list of texts: a real one, or one written as JSON or as a Python literal. Parsed, never run."""
    if is_blank(value):
        return ()
    if isinstance(value, str):
        value = _parse_list(value.strip(), where)
    if not isinstance(value, list | tuple) or not all(isinstance(item, str | int | float) for item in value):
        raise UserError(f"{where} is {str(value)[:40]!r}, not a list of texts; correct the row")
    return tuple(str(item).strip() for item in value)


def _parse_list(text: str, where: str) -> Any:
    if len(text) > MAX_LIST_CHARACTERS:
        raise UserError(f"{where}: a list of {len(text)} characters, {MAX_LIST_CHARACTERS} is the most")
    with suppress(ValueError, RecursionError):  # many published lists are Python's own notation, tried next
        return json.loads(text)
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        raise UserError(f'{where} is {text[:40]!r}, which is no list; write ["...", "..."]') from None


def alternatives(answer: str, where: str) -> tuple[str, ...]:
    """`['2/3', '0.667']` -> both accepted answers; () for one answer, a list of numbers such as `[1, 2]` included."""
    if not answer.startswith("["):
        return ()
    try:
        texts = text_list(answer, where)
    except UserError:
        return ()  # an interval such as [0, 1) or a matrix: one answer
    return texts if "'" in answer or '"' in answer else ()


def listed_options(text: str, where: str) -> tuple[str, ...]:
    """`A. 5 cm; B. 7 cm; C. neither` as its options, in order; labels must run from A without a gap."""
    labels: list[re.Match[str]] = []
    for match in _LABEL.finditer(text):
        if match.group(1) == LETTERS[len(labels)]:
            labels.append(match)
    if len(labels) < 2:
        raise UserError(f"{where} is {text[:40]!r}, without options A, B, ...; correct the row")
    ends = [label.start() for label in labels[1:]] + [len(text)]
    return tuple(text[label.end() : end].strip().rstrip(";,").strip() for label, end in zip(labels, ends, strict=True))


def options_after(question: str) -> tuple[str, ...]:
    """The options that follow the last line `Options:` or `Choices:` of a question; () where none do."""
    parts = re.split(r"(?:^|\n)\s*(?:Options|Choices)\s*:", question)
    if len(parts) < 2:
        return ()
    try:
        return listed_options(parts[-1].strip(), "options")
    except UserError:
        return ()


def lettered_columns(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells of columns A, B, C, ... up to the last that is filled; "" where one before it is empty."""
    options = ["" if text_of(row.get(letter)) in ("", "nan") else text_of(row[letter]) for letter in LETTERS]
    while options and not options[-1]:
        options.pop()
    return tuple(options)


def letter_at(index: Any, options: Sequence[str], where: str) -> str:
    """The letter of a 0-based index into the options, given as a number or its text."""
    text = text_of(index)
    if not text.isdecimal() or int(text) >= len(options):
        raise UserError(f"{where} is {text[:40]!r}, not an index below {len(options)}; correct the row")
    return LETTERS[int(text)]


def base64_images(cell: str, where: str) -> list[dict[str, Any]]:
    """A base64 image or a list of them, as image structs; size checked before decoding."""
    text = cell.strip()
    if text.startswith("["):
        texts = [piece.strip().strip("'\"") for piece in text.strip("[]").split(",")]
        texts = [piece for piece in texts if piece]
    else:
        texts = [text]
    if len(texts) > MAX_IMAGES:
        raise UserError(f"{where}: {len(texts)} images, {MAX_IMAGES} is the most for one question")
    return [{"bytes": decode_base64(text, where), "path": None} for text in texts]


def resolve_marks(texts: Sequence[str], images: Sequence[Any], where: str) -> tuple[list[str], list[Any]]:
    """Numbered marks (`<image 1>`, `<image1>`) as plain ones, and the images in the order of their marks.

    An image may be marked twice and is then shown twice; images that no mark names come before all text.
    """
    marked: list[int] = []

    def replace(match: re.Match[str]) -> str:
        number = int(match.group(1))
        if not 1 <= number <= len(images):
            raise UserError(f"{where}: {match.group()} is marked, and the row has {len(images)} image(s)")
        marked.append(number)
        return IMAGE_MARK

    plain = [_NUMBERED_MARK.sub(replace, text.replace(IMAGE_MARK, "")) for text in texts]
    unmarked = [image for number, image in enumerate(images, 1) if number not in marked]
    if marked and unmarked:
        plain[0] = IMAGE_MARK * len(unmarked) + plain[0]
    return plain, [*unmarked, *(images[number - 1] for number in marked)]
