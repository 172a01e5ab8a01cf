"""Rows of published benchmarks -> rows with our own column names (those of `data/rows.py`).

Each function reads one benchmark's rows, from the hub's parquet files and from VLMEvalKit's TSV; its second argument is
the row's location, for error messages.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from sharegrpo_rl.data.benchmarks.cells import (
    alternatives,
    base64_images,
    is_blank,
    letter_at,
    lettered_columns,
    listed_options,
    options_after,
    resolve_marks,
    text_list,
    text_of,
)
from sharegrpo_rl.data.gold import LETTERS
from sharegrpo_rl.data.types import SeedQuestion
from sharegrpo_rl.errors import UserError

Row: TypeAlias = dict[str, Any]
ReadRow: TypeAlias = Callable[[Row, str], Row]
COLUMN = "benchmark_facts"  # in the row, and so among the question's extra values
_MMMU_IMAGES = tuple(f"image_{number}" for number in range(1, 8))
_WEMATH_STEP = re.compile(r"2steps_(?:[12]|multi)|3steps_(?:[123]|multi)")
_IMAGE_MARKS = re.compile(r"<image\s*\d+>")


@dataclass(frozen=True)
class BenchmarkFacts:
    """What a benchmark's row says besides the question itself, carried along with the question.

    `categories` break accuracy down, `labels` feed the benchmark's own metric, `row` is the published row, imageless.
    """

    categories: Mapping[str, list[str]] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    accepted_answers: tuple[str, ...] = ()
    row: Mapping[str, Any] = field(default_factory=dict)


_NO_FACTS = BenchmarkFacts()


def facts_of(question: SeedQuestion) -> BenchmarkFacts:
    """The question's facts; empty where it comes from no benchmark (a user's column of that name is none)."""
    facts = question.extra.get(COLUMN)
    return facts if isinstance(facts, BenchmarkFacts) else _NO_FACTS


def tsv_row(row: Row, where: str) -> Row:
    """VLMEvalKit's TSV: `question`, `hint`, options in A, B, ..., `answer` a letter, a word, or a list of answers."""
    question = _needed(row, "question", where)
    if not is_blank(row.get("hint")):
        question = f"Hint: {text_of(row['hint'])}\n{question}"
    images = _tsv_images(row, where)
    return _finished(row, where, question, lettered_columns(row), text_of(row.get("answer")), images, id_column="index")


def mm_star(row: Row, where: str) -> Row:
    """MMStar: TSV with options in A..D, or the hub's rows whose question lists them."""
    if "A" in row:
        return tsv_row(row, where)
    return _with_listed_options(row, where, _needed(row, "answer", where), _images(row, "image"), id_column="index")


def mmmu(row: Row, where: str) -> Row:
    """MMMU: images in `image_1` to `image_7`, marked `<image 1>` in question and options; `options` a list as text."""
    if "A" in row:
        return tsv_row(row, where)
    images = [row.get(column) for column in _MMMU_IMAGES]
    while images and images[-1] is None:
        images.pop()
    if None in images:
        raise UserError(
            f"{where}: {_MMMU_IMAGES[images.index(None)]} is empty and a later image is not; correct the row"
        )
    options = text_list(row.get("options"), f"{where}: options")
    answer = _needed(row, "answer", where)
    if answer == "?":
        answer = ""  # how the test split hides its answers
    return _finished(row, where, _needed(row, "question", where), options, answer, images)


def ai2d(row: Row, where: str) -> Row:
    """AI2D: TSV with options in A..D, or the hub's rows: `options` a list, `answer` an index into it."""
    if "A" in row:
        return tsv_row(row, where)
    options = text_list(row.get("options"), f"{where}: options")
    answer = letter_at(_needed(row, "answer", where), options, f"{where}: answer")
    return _finished(row, where, _needed(row, "question", where), options, answer, _images(row, "image"))


def pope(row: Row, where: str) -> Row:
    """POPE: yes or no, in any case of letters; `category` is random, popular or adversarial, or several with commas."""
    answer = _needed(row, "answer", where).lower()
    if answer not in ("yes", "no"):
        raise UserError(f"{where}: answer {text_of(row['answer'])[:40]!r} is neither yes nor no; correct the row")
    if "index" in row:
        return {**tsv_row({**row, "answer": answer}, where), "answer_type": "yes_no"}
    question = _needed(row, "question", where)
    read = _finished(row, where, question, (), answer, _images(row, "image"), answer_type="yes_no")
    return read | {"id": text_of(row.get("id")) or text_of(row.get("question_id")) or None}


def math_vista(row: Row, where: str) -> Row:
    """MathVista: `question_type` multi_choice with `choices`, or free_form with `answer_type`, `unit`, `precision`."""
    from_tsv = "index" in row  # VLMEvalKit's questions bring hint and choices along
    question, answer = _needed(row, "question", where), text_of(row.get("answer"))
    options = () if row.get("question_type") == "free_form" else text_list(row.get("choices"), f"{where}: choices")
    unit = "" if is_blank(row.get("unit")) else text_of(row["unit"])
    if unit and not from_tsv:
        question = f"{question} (Unit: {unit})"
    read = _finished(
        row,
        where,
        question,
        options,
        answer,
        _tsv_images(row, where) if from_tsv else _images(row, "decoded_image", "image"),
        id_column="index" if from_tsv else "pid",
        answer_type="numeric" if text_of(row.get("answer_type")) in ("integer", "float") else None,
        listed=from_tsv,
    )
    # A list as the answer is one answer here, as the question asks for a list.
    precision = None if is_blank(row.get("precision")) else row["precision"]
    return {**read, "answer": answer, "accepted_answers": [], "unit": unit or None, "precision": precision}


def math_verse(row: Row, where: str) -> Row:
    """MathVerse: the question lists its choices; in `Vision Only` the image shows the question, the column is empty."""
    answer = text_of(row.get("answer"))
    from_tsv = "index" in row
    images = _tsv_images(row, where) if from_tsv else _images(row, "image")
    if is_blank(row.get("question")):
        row = {**row, "question": "According to the question shown in the image, please answer it."}
    read = _with_listed_options(row, where, answer, images, id_column="index" if from_tsv else "sample_index")
    if row.get("question_type") == "multi-choice" and not read["choices"]:
        read["answer_type"] = None  # a letter is the answer, and its options are in the image
    return read


def math_vision(row: Row, where: str) -> Row:
    """MathVision: `options` is a list ([] for open questions); marks such as `<image1>` all mean the one image."""
    from_tsv = "index" in row
    images = _tsv_images(row, where) if from_tsv else _images(row, "decoded_image", "image")
    options = text_list(row.get("choices" if from_tsv else "options"), f"{where}: options")
    question = _IMAGE_MARKS.sub("", _needed(row, "question", where)).strip()
    answer = text_of(row.get("answer"))
    return _finished(row, where, question, options, answer, images, id_column="index" if from_tsv else "id")


def we_math(row: Row, where: str) -> Row:
    """We-Math: options in A, B, ... (TSV) or in `option` (hub); `ID` and `key` say which step of which problem."""
    options = lettered_columns(row)
    if not options and not is_blank(row.get("option")):
        options = listed_options(text_of(row["option"]), f"{where}: option")
    images = _tsv_images(row, where) if "index" in row else _images(row, "image_path", "image")
    question, answer = _needed(row, "question", where), _needed(row, "answer", where)
    read = _finished(row, where, question, options, answer, images, id_column="index")
    identity, key = _needed(row, "ID", where), _needed(row, "key", where)
    if not _WEMATH_STEP.fullmatch(key):
        raise UserError(f"{where}: key {key[:40]!r} is none of 2steps_1, ..., 3steps_multi; correct the row")
    return {**read, "id": read["id"] or f"{identity}-{key}", "labels": {"ID": identity, "key": key}}


def question_and_truth(row: Row, where: str) -> Row:
    """R1-V's rows: `problem` and `solution` (`<answer> 3 </answer>`), or `question` and `ground_truth`."""
    return {
        "id": row.get("id"),
        "question": _needed(row, "problem" if "problem" in row else "question", where),
        "answer": _needed(row, "solution" if "solution" in row else "ground_truth", where),
        "images": _images(row, "image", "images", "image_path"),
    }


def counting(row: Row, where: str) -> Row:
    """Like `question_and_truth`, with a whole number as the answer."""
    return {**question_and_truth(row, where), "answer_type": "numeric"}


def _needed(row: Row, column: str, where: str) -> str:
    """The text of a column that the format always has."""
    if column not in row:
        columns = ", ".join(map(str, list(row)[:12]))
        raise UserError(f"{where}: no column {column!r} (found: {columns}); is --benchmark the right one?")
    if not (text := text_of(row[column])):
        raise UserError(f"{where}: column {column!r} is empty; correct the row or leave it out")
    return text


def _images(row: Row, *columns: str) -> list[Any]:
    """The first of the image columns that holds something, as a list."""
    for column in columns:
        if (value := row.get(column)) is not None and value != "":
            return list(value) if isinstance(value, list) else [value]
    return []


def _tsv_images(row: Row, where: str) -> list[Any]:
    """The images of a TSV row: base64 in `image` (pictures, in a copy as parquet), else files named in `image_path`."""
    if not isinstance(row.get("image"), str | None):
        return _images(row, "image")
    if not is_blank(row.get("image")):
        return base64_images(row["image"], f"{where}: image")
    if is_blank(row.get("image_path")):
        return []
    path = text_of(row["image_path"])
    return list(text_list(path, f"{where}: image_path")) if path.startswith("[") else [path]


def _with_listed_options(row: Row, where: str, answer: str, images: Sequence[Any], *, id_column: str) -> Row:
    """A row whose question lists its own options, as MMStar and MathVerse write it."""
    question = _needed(row, "question", where)
    options = options_after(question)
    return _finished(row, where, question, options, answer, images, id_column=id_column, listed=True)


def _finished(
    row: Row,
    where: str,
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
            f"{where}: no answer; it may be a split whose answers are kept secret: choose another with --split"
        )
    (question, *texts), shown = resolve_marks([question, *options], images, where)
    if options and not listed:
        lettered = (f"({letter}) {text}" for letter, text in zip(LETTERS, texts, strict=False) if text)
        question = f"{question}\nChoices: {' '.join(lettered)}"
    accepted = () if options else alternatives(answer, where)
    return {
        "id": None if is_blank(row.get(id_column)) else text_of(row[id_column]),
        "question": question,
        "answer": accepted[0] if accepted else answer,
        "images": shown,
        "choices": list(texts) or None,
        "answer_type": "multiple_choice" if options else answer_type,
        "accepted_answers": list(accepted),
    }
