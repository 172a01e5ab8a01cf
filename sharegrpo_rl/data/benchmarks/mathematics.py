"""Rows of MathVista, MathVerse, MathVision and We-Math, from the hub's parquet files and from VLMEvalKit's TSV."""

from __future__ import annotations

import re

from sharegrpo_rl.data.benchmarks.cells import is_blank, lettered_columns, text_list, text_of
from sharegrpo_rl.data.benchmarks.rows import (
    Row,
    finished,
    image_of,
    listed_in_question,
    needed,
    option_string,
    tsv_images,
)
from sharegrpo_rl.errors import UserError

_NUMERIC = {"integer": "numeric", "float": "numeric"}
_STEP = re.compile(r"2steps_(?:[12]|multi)|3steps_(?:[123]|multi)")
_MARKS = re.compile(r"<image\s*\d+>")


def math_vista(row: Row, place: str) -> Row:
    """`question_type` multi_choice with `choices`, or free_form with `answer_type`, `unit` and `precision`."""
    published = "index" in row  # VLMEvalKit's questions bring hint and choices along
    question, answer = needed(row, "question", place), text_of(row.get("answer"))
    options = () if row.get("question_type") == "free_form" else text_list(row.get("choices"), f"{place}: choices")
    unit = "" if is_blank(row.get("unit")) else text_of(row["unit"])
    if unit and not published:
        question = f"{question} (Unit: {unit})"
    images = tsv_images(row, place) if published else image_of(row, "decoded_image", "image")
    kind = _NUMERIC.get(text_of(row.get("answer_type")))
    read = finished(
        row,
        place,
        question,
        options,
        answer,
        images,
        id_column="index" if published else "pid",
        answer_type=kind,
        listed=published,
    )
    # A list as the answer is one answer here, as the question asks for a list.
    precision = None if is_blank(row.get("precision")) else row["precision"]
    return {**read, "answer": answer, "accepted_answers": [], "unit": unit or None, "precision": precision}


def math_verse(row: Row, place: str) -> Row:
    """Choices stand in the question; in `Vision Only` the question's text is in the image, and the column is empty."""
    answer = text_of(row.get("answer"))
    images = tsv_images(row, place) if "index" in row else image_of(row, "image")
    column = "index" if "index" in row else "sample_index"
    if is_blank(row.get("question")):
        row = {**row, "question": "According to the question shown in the image, please answer it."}
    read = listed_in_question(row, place, answer, images, id_column=column)
    if row.get("question_type") == "multi-choice" and not read["choices"]:
        read["answer_type"] = None  # a letter is the answer, and its options stand in the image
    return read


def math_vision(row: Row, place: str) -> Row:
    """`options` is a list ([] for open questions); marks such as `<image1>` all mean the one image that there is."""
    published = "index" in row
    images = tsv_images(row, place) if published else image_of(row, "decoded_image", "image")
    options = text_list(row.get("choices" if published else "options"), f"{place}: options")
    question = _MARKS.sub("", needed(row, "question", place)).strip()
    answer = text_of(row.get("answer"))
    return finished(row, place, question, options, answer, images, id_column="index" if published else "id")


def we_math(row: Row, place: str) -> Row:
    """Options in A, B, ... (TSV) or in `option` (hub); `ID` and `key` say which step of which problem a row is."""
    published = "index" in row
    options = lettered_columns(row) or option_string(row, "option", place)
    images = tsv_images(row, place) if published else image_of(row, "image_path", "image")
    question, answer = needed(row, "question", place), needed(row, "answer", place)
    read = finished(row, place, question, options, answer, images, id_column="index")
    identity, key = needed(row, "ID", place), needed(row, "key", place)
    if not _STEP.fullmatch(key):
        raise UserError(f"{place}: key {key[:40]!r} is none of 2steps_1, ..., 3steps_multi; correct the row")
    return {**read, "id": read["id"] or f"{identity}-{key}", "labels": {"ID": identity, "key": key}}
