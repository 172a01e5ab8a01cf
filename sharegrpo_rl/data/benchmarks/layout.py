"""Rows of MathVista, MathVerse, MathVision and We-Math, from the hub's parquet files and from VLMEvalKit's TSV."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sharegrpo_rl.data.benchmarks.rows import (
    ReadRow,
    Row,
    finished,
    image_of,
    is_blank,
    letter_at,
    lettered_columns,
    listed_in_question,
    needed,
    option_string,
    text_list,
    text_of,
    tsv_images,
    tsv_row,
)
from sharegrpo_rl.errors import UserError

# ---- Rows of MMStar, MMMU, AI2D and POPE, from the hub's parquet files and from VLMEvalKit's TSV.

_MMMU_IMAGES = tuple(f"image_{number}" for number in range(1, 8))


def mm_star(row: Row, place: str) -> Row:
    """TSV with options in A..D, or the hub's rows whose question lists them."""
    if "A" in row:
        return tsv_row(row, place)
    return listed_in_question(row, place, needed(row, "answer", place), image_of(row, "image"), id_column="index")


def mmmu(row: Row, place: str) -> Row:
    """Images in `image_1` to `image_7`, marked `<image 1>` in question and options; `options` is a list as text."""
    if "A" in row:
        return tsv_row(row, place)
    images = [row.get(column) for column in _MMMU_IMAGES]
    while images and images[-1] is None:
        images.pop()
    if None in images:
        raise UserError(
            f"{place}: {_MMMU_IMAGES[images.index(None)]} is empty and a later image is not; correct the row"
        )
    options = text_list(row.get("options"), f"{place}: options")
    answer = needed(row, "answer", place)
    if answer == "?":
        answer = ""  # how the test split hides its answers
    return finished(row, place, needed(row, "question", place), options, answer, images)


def ai2d(row: Row, place: str) -> Row:
    """TSV with options in A..D, or the hub's rows: `options` a list, `answer` an index into it."""
    if "A" in row:
        return tsv_row(row, place)
    options = text_list(row.get("options"), f"{place}: options")
    answer = letter_at(needed(row, "answer", place), options, f"{place}: answer")
    return finished(row, place, needed(row, "question", place), options, answer, image_of(row, "image"))


def pope(row: Row, place: str) -> Row:
    """Yes or no, in any case of letters; `category` is random, popular or adversarial, or several with commas."""
    answer = needed(row, "answer", place).lower()
    if answer not in ("yes", "no"):
        raise UserError(f"{place}: answer {text_of(row['answer'])[:40]!r} is neither yes nor no; correct the row")
    if "index" in row:
        return {**tsv_row({**row, "answer": answer}, place), "answer_type": "yes_no"}
    question = needed(row, "question", place)
    read = finished(row, place, question, (), answer, image_of(row, "image"), answer_type="yes_no")
    return read | {"id": text_of(row.get("id")) or text_of(row.get("question_id")) or None}


def question_and_truth(row: Row, place: str) -> Row:
    """R1-V's rows: `problem` and `solution` (`<answer> 3 </answer>`), or `question` and `ground_truth`."""
    return {
        "id": row.get("id"),
        "question": needed(row, "problem" if "problem" in row else "question", place),
        "answer": needed(row, "solution" if "solution" in row else "ground_truth", place),
        "images": image_of(row, "image", "images", "image_path"),
    }


def counting(row: Row, place: str) -> Row:
    """Like `question_and_truth`, with a whole number as the answer."""
    return {**question_and_truth(row, place), "answer_type": "numeric"}


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


# ---- Published benchmarks by name: how their rows are read, which split is asked, what accuracy is broken down by.


@dataclass(frozen=True)
class Layout:
    """A benchmark's public format. `categories`: report name -> column (a dot goes into a struct), the first is the kind.

    `splits` are looked for in this order; `row_splits` keeps only rows whose own `split` column is one of them.
    """

    name: str
    read: ReadRow
    categories: Mapping[str, tuple[str, ...]]
    splits: tuple[str, ...] = ("test",)
    row_splits: tuple[str, ...] = ()
    metric: str = "accuracy"
    hub: tuple[str, ...] = ()  # names on the hub that are known to have this layout
    files: tuple[str, ...] = ()  # beginnings of VLMEvalKit's file names
    lmms_task: str | None = None
    hub_config: str | None = None  # the configuration on the hub that is meant where none is named

    def values(self, row: Mapping[str, Any], place: str) -> dict[str, list[str]]:
        """What the row says under each category; a row may belong to several values of one (POPE, MathVista's skills)."""
        found = {}
        for name, columns in self.categories.items():
            value = next((v for column in columns if not is_blank(v := _inside(row, column))), None)
            if value is not None:
                found[name] = _values(value, f"{place}: {name}", split=self.name == "pope")
        return found


def _values(value: Any, where: str, *, split: bool) -> list[str]:
    if isinstance(value, list | tuple) or (isinstance(value, str) and value.startswith("[")):
        return list(text_list(value, where))
    parts = text_of(value).split(",") if split else [text_of(value)]
    return [part.strip() for part in parts if part.strip()]


def _inside(row: Mapping[str, Any], column: str) -> Any:
    outer, _, inner = column.partition(".")
    value = row.get(outer)
    return value if not inner else value.get(inner) if isinstance(value, Mapping) else None


_TASK = ("task", "metadata.task")
_ALL = (
    Layout(
        "vlmevalkit",
        tsv_row,
        {"category": ("category",), "l2-category": ("l2-category",), "split": ("split",)},
    ),
    Layout(
        "mathvista",
        math_vista,
        {
            "task": _TASK,
            "skills": ("skills", "metadata.skills"),
            "question_type": ("question_type",),
            "category": ("category", "metadata.category"),
            "source": ("source", "metadata.source"),
        },
        splits=("testmini",),
        hub=("AI4Math/MathVista",),
        files=("MathVista",),
        lmms_task="mathvista_testmini_format",
    ),
    Layout(
        "mmstar",
        mm_star,
        {"category": ("category",), "l2-category": ("l2_category", "l2-category")},
        splits=("val", "test"),
        hub=("Lin-Chen/MMStar",),
        files=("MMStar",),
        lmms_task="mmstar",
    ),
    Layout(
        "mmmu",
        mmmu,
        {
            "subject": ("category",),
            "discipline": ("l2-category",),
            "subfield": ("subfield",),
            "difficulty": ("topic_difficulty",),
            "question_type": ("question_type",),
        },
        splits=("validation",),
        row_splits=("validation",),
        hub=("MMMU/MMMU", "lmms-lab/MMMU"),
        files=("MMMU",),
        lmms_task="mmmu_val",
    ),
    Layout(
        "mathverse",
        math_verse,
        {
            "version": ("problem_version",),
            "subject": ("metadata.subject",),
            "subfield": ("metadata.subfield",),
            "question_type": ("question_type",),
        },
        splits=("testmini",),
        hub=("AI4Math/MathVerse",),
        hub_config="testmini",
        files=("MathVerse",),
        lmms_task="mathverse_testmini",
    ),
    Layout(
        "mathvision",
        math_vision,
        {"subject": ("subject", "category"), "level": ("level",)},
        splits=("test",),
        hub=("MathLLMs/MathVision",),
        files=("MathVision",),
        lmms_task="mathvision_test",
    ),
    Layout(
        "ai2d",
        ai2d,
        {"category": ("category",)},
        hub=("lmms-lab/ai2d",),
        files=("AI2D",),
        lmms_task="ai2d",
    ),
    Layout(
        "pope",
        pope,
        {"category": ("category",)},
        metric="pope",
        hub=("lmms-lab/POPE",),
        files=("POPE",),
        lmms_task="pope",
    ),
    Layout(
        "wemath",
        we_math,
        {"step": ("key",), "concept": ("knowledge concept",)},
        splits=("testmini",),
        metric="wemath",
        hub=("We-Math/We-Math",),
        files=("WeMath",),
        lmms_task="wemath_testmini",
    ),
    Layout("geoqa", question_and_truth, {}, splits=("test", "train"), hub=("leonardPKU/GEOQA_R1V_Train_8K",)),
    Layout("clevr", counting, {}, splits=("test", "train"), hub=("leonardPKU/clevr_cogen_a_train",)),
    Layout("superclevr", counting, {}, splits=("test", "train")),
)
LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in _ALL}


def find_layout(name: str) -> Layout:
    """The layout of that name; UserError with the closest one where there is none."""
    if name not in LAYOUTS:
        close = get_close_matches(name.lower(), LAYOUTS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(LAYOUTS)}"
        raise UserError(f"benchmark: there is no layout {name!r}; {hint}")
    return LAYOUTS[name]


def recognized(data: str) -> str | None:
    """The layout of a known hub name or of a TSV file, by VLMEvalKit's file names; None for other data."""
    for layout in _ALL:
        if data in layout.hub:
            return layout.name
    path = Path(data)
    if path.suffix != ".tsv":
        return None
    named = [layout.name for layout in _ALL if path.name.startswith(layout.files)]
    return named[0] if named else "vlmevalkit"
