"""A row of a published benchmark file -> a row with our own column names (those of `data/columns.py`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from sharegrpo_rl.data.benchmarks.cells import (
    base64_images,
    is_blank,
    lettered_columns,
    listed_options,
    options_after,
    place_images,
    text_list,
    text_of,
    with_listed,
)
from sharegrpo_rl.errors import UserError

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
