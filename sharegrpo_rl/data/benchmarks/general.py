"""Rows of MMStar, MMMU, AI2D and POPE, from the hub's parquet files and from VLMEvalKit's TSV."""

from __future__ import annotations

from sharegrpo_rl.data.benchmarks.cells import letter_at, text_list, text_of
from sharegrpo_rl.data.benchmarks.rows import Row, finished, image_of, listed_in_question, needed, tsv_row
from sharegrpo_rl.errors import UserError

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
