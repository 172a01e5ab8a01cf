"""The cells of published benchmark files: lists written as text, base64 images, options in one string, image marks."""

from __future__ import annotations

import ast
import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from sharegrpo_rl.data.messages import IMAGE_MARK
from sharegrpo_rl.data.types import SeedQuestion
from sharegrpo_rl.errors import UserError

# ---- What a benchmark's row says beside the question itself, carried along with the question.

COLUMN = "benchmark_facts"  # in the row, and so among the question's extra values


@dataclass(frozen=True)
class BenchmarkFacts:
    """`categories` break accuracy down, `labels` feed the benchmark's own metric, `row` is the published row, imageless."""

    categories: Mapping[str, list[str]] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    accepted_answers: tuple[str, ...] = ()
    row: Mapping[str, Any] = field(default_factory=dict)


_NONE = BenchmarkFacts()


def facts_of(question: SeedQuestion) -> BenchmarkFacts:
    """The question's facts; empty where it comes from no benchmark (a user's column of that name is none)."""
    found = question.extra.get(COLUMN)
    return found if isinstance(found, BenchmarkFacts) else _NONE


MAX_LIST_CHARACTERS = 100_000
MAX_IMAGE_BYTES = 64_000_000  # encoded
MAX_IMAGES = 64  # of one question
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_BLANK = ("", "nan", "None")
_LABEL = re.compile(r"(?:^|(?<=[;\n,]))\s*\(?([A-Z])\s*[.:)]\s*")
_DATA_ADDRESS = re.compile(r"data:image/[\w.+-]+;base64,", re.IGNORECASE)
_NUMBERED = re.compile(r"<image\s*(\d+)>")


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
        value = _parsed_list(value.strip(), where)
    if not isinstance(value, list | tuple) or not all(isinstance(item, str | int | float) for item in value):
        raise UserError(f"{where} is {str(value)[:40]!r}, not a list of texts; correct the row")
    return tuple(str(item).strip() for item in value)


def _parsed_list(text: str, where: str) -> Any:
    if len(text) > MAX_LIST_CHARACTERS:
        raise UserError(f"{where}: a list of {len(text)} characters, {MAX_LIST_CHARACTERS} is the most")
    with suppress(ValueError, RecursionError):  # many published lists are Python's own notation, tried next
        return json.loads(text)
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        raise UserError(f'{where} is {text[:40]!r}, which is no list; write ["...", "..."]') from None


def listed_options(text: str, where: str) -> tuple[str, ...]:
    """`A. 5 cm; B. 7 cm; C. neither` as its options, in order; labels must run from A without a gap."""
    found: list[tuple[int, int]] = []
    for match in _LABEL.finditer(text):
        if match.group(1) == LETTERS[len(found)]:
            found.append((match.start(), match.end()))
    if len(found) < 2:
        raise UserError(f"{where} is {text[:40]!r}, without options A, B, ...; correct the row")
    ends = [start for start, _ in found[1:]] + [len(text)]
    return tuple(text[begin:end].strip().rstrip(";,").strip() for (_, begin), end in zip(found, ends, strict=True))


def options_after(question: str) -> tuple[str, ...]:
    """The options that follow the last line `Options:` or `Choices:` of a question; () where none do."""
    parts = re.split(r"(?:^|\n)\s*(?:Options|Choices)\s*:", question)
    if len(parts) < 2:
        return ()
    try:
        return listed_options(parts[-1].strip(), "options")
    except UserError:
        return ()


def lettered_columns(row: dict[str, Any]) -> tuple[str, ...]:
    """The cells of columns A, B, C, ... up to the first empty one."""
    options: list[str] = []
    for letter in LETTERS:
        if letter not in row or row[letter] is None or text_of(row[letter]) in ("", "nan"):
            break
        options.append(text_of(row[letter]))
    return tuple(options)


def with_listed(question: str, options: Sequence[str]) -> str:
    """The question with its options below, as `(A) ...`."""
    listed = " ".join(f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False))
    return f"{question}\nChoices: {listed}"


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
    return [{"bytes": _decoded(text, where), "path": None} for text in texts]


def _decoded(text: str, where: str) -> bytes:
    text = _DATA_ADDRESS.sub("", text, count=1)
    if len(text) > MAX_IMAGE_BYTES * 4 // 3:
        raise UserError(f"{where}: an image of more than {MAX_IMAGE_BYTES // 10**6} MB; shrink it")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(f"{where}: not base64 ({error}); download the file again") from None


def place_images(texts: Sequence[str], images: Sequence[Any], where: str) -> tuple[list[str], list[Any]]:
    """Numbered marks (`<image 1>`, `<image1>`) as plain ones, and the images in the order of their marks.

    An image may be marked twice and is then shown twice; images that no mark names come before all text.
    """
    shown: list[Any] = []
    named: set[int] = set()

    def replace(match: re.Match[str]) -> str:
        number = int(match.group(1))
        if not 1 <= number <= len(images):
            raise UserError(f"{where}: {match.group()} is marked, and the row has {len(images)} image(s)")
        named.add(number)
        shown.append(images[number - 1])
        return IMAGE_MARK

    marked = [_NUMBERED.sub(replace, text.replace(IMAGE_MARK, "")) for text in texts]
    rest = [image for number, image in enumerate(images, 1) if number not in named]
    if shown and rest:
        marked[0] = IMAGE_MARK * len(rest) + marked[0]
    return marked, [*rest, *shown]


# ---- A row of a published benchmark file -> a row with our own column names (those of `data/rows.py`).

Row: TypeAlias = dict[str, Any]
ReadRow: TypeAlias = Callable[[Row, str], Row]  # row, its place for error messages


def tsv_row(row: Row, place: str) -> Row:
    """VLMEvalKit's TSV: `question`, `hint`, options in A, B, ..., `answer` a letter, a word, or a list of answers."""
    question = needed(row, "question", place)
    if not is_blank(row.get("hint")):
        question = f"Hint: {text_of(row['hint'])}\n{question}"
    options = lettered_columns(row)
    return finished(
        row, place, question, options, text_of(row.get("answer")), tsv_images(row, place), id_column="index"
    )


def tsv_images(row: Row, place: str) -> list[Any]:
    """The images of a TSV row: base64 in `image` (pictures, in a copy as parquet), else files named in `image_path`."""
    if not isinstance(row.get("image"), str | None):
        return image_of(row, "image")
    if not is_blank(row.get("image")):
        return base64_images(row["image"], f"{place}: image")
    if is_blank(row.get("image_path")):
        return []
    path = text_of(row["image_path"])
    return list(text_list(path, f"{place}: image_path")) if path.startswith("[") else [path]


def needed(row: Mapping[str, Any], column: str, place: str) -> str:
    """The text of a column that the format always has."""
    if column not in row:
        found = ", ".join(map(str, list(row)[:12]))
        raise UserError(f"{place}: no column {column!r} (found: {found}); is --benchmark the right one?")
    if not (text := text_of(row[column])):
        raise UserError(f"{place}: column {column!r} is empty; correct the row or leave it out")
    return text


def image_of(row: Mapping[str, Any], *columns: str) -> list[Any]:
    """The first of the image columns that holds something, as a list."""
    for column in columns:
        if (value := row.get(column)) is not None and value != "":
            return list(value) if isinstance(value, list) else [value]
    return []


def finished(
    row: Row,
    place: str,
    question: str,
    options: Sequence[str],
    answer: str,
    images: Sequence[Any],
    *,
    id_column: str = "id",
    answer_type: str | None = None,
    listed: bool = False,
) -> Row:
    """The row in our own columns; `listed` says that the question shows its options already.

    An open answer may be a list of accepted ones, written as a list: each of them is right.
    """
    if not answer:
        raise UserError(
            f"{place}: no answer; it may be a split whose answers are kept secret: choose another with --split"
        )
    (question, *texts), shown = place_images([question, *options], images, place)
    if options and not listed:
        question = with_listed(question, texts)
    accepted = () if options or not answer.startswith("[") else _alternatives(answer, place)
    return {
        "id": None if is_blank(row.get(id_column)) else text_of(row[id_column]),
        "question": question,
        "answer": accepted[0] if accepted else answer,
        "images": shown,
        "choices": list(texts) or None,
        "answer_type": "multiple_choice" if options else answer_type,
        "accepted_answers": list(accepted),
    }


def _alternatives(answer: str, place: str) -> tuple[str, ...]:
    """`['2/3', '0.667']` -> both; a list that is itself the answer (`[1, 2]`, numbers) stays one answer."""
    try:
        found = text_list(answer, place)
    except UserError:
        return ()  # an interval such as [0, 1) or a matrix: one answer
    return found if "'" in answer or '"' in answer else ()


def listed_in_question(row: Row, place: str, answer: str, images: Sequence[Any], *, id_column: str) -> Row:
    """A row whose question lists its own options, as MMStar and MathVerse write it."""
    question = needed(row, "question", place)
    options = options_after(question)
    return finished(row, place, question, options, answer, images, id_column=id_column, listed=True)


def option_string(row: Row, column: str, place: str) -> tuple[str, ...]:
    """The options of a column such as `A. 5; B. 7`; () where it is empty."""
    return () if is_blank(row.get(column)) else listed_options(text_of(row[column]), f"{place}: {column}")
