"""Columns and cells: which column holds a field, when a cell holds nothing, and what a text, a number or a list is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sharegrpo_rl.errors import UserError, did_you_mean

# For each field the column names that are looked for, the first that holds a value wins; a dot goes into a struct.
ALIASES: dict[str, tuple[str, ...]] = {
    "id": ("id", "question_id", "qid", "pid"),
    "question": ("problem", "question", "prompt"),
    "answer": ("answer", "reward_model.ground_truth", "solution", "ground_truth", "label"),
    "images": ("images", "image", "image_path"),
    "variants": ("variants", "new_questions", "question_variants"),
    "choices": ("choices",),
    "answer_type": ("answer_type",),
    "unit": ("unit",),
    "precision": ("precision",),
    "solution": ("solution",),
    "key_steps": ("key_steps", "steps"),
    "task": ("task",),
    "subtask": ("subtask",),
}
_NOTHING = ("nan", "<na>", "nat")  # as pandas writes a missing value, in lower case
_LONGEST_NOTHING = max(map(len, _NOTHING))


class Columns:
    """Which column holds each field: the names above, or a user's own ({field: column}, None = no such column)."""

    def __init__(self, chosen: Mapping[str, str | None] | None = None) -> None:
        self._names = dict(ALIASES)
        for field, column in (chosen or {}).items():
            if field not in ALIASES:
                hint = did_you_mean(field, ALIASES, f"fields are {', '.join(ALIASES)}")
                raise UserError(f"env_config.columns: unknown field {field!r}; {hint}")
            if column is not None and not isinstance(column, str):
                raise UserError(f"env_config.columns.{field} is {column!r}; give the name of a column")
            self._names[field] = () if column is None else (column,)

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that columns are looked for."""
        return tuple(self._names)

    def pick(self, row: Mapping[str, Any], field: str) -> tuple[str, Any]:
        """The column that holds the field and its value; ("", None) where no column has one."""
        filled = [(name, value) for name in self._names[field] if not is_missing(value := nested_value(row, name))]
        if field == "images":  # a list of nothing is an error, unless another column has the picture
            filled.sort(key=lambda column: _holds_no_image(column[1]))
        return filled[0] if filled else ("", None)

    def require(self, row: Mapping[str, Any], field: str, where: str) -> tuple[str, Any]:
        """Like `pick`; UserError naming the row, the names looked for and the row's columns."""
        name, value = self.pick(row, field)
        if value is None:
            empty = [name for name in self._names[field] if name in row]
            state = f"column {empty[0]!r} is empty" if empty else f"none of the columns {', '.join(self._names[field])}"
            raise UserError(
                f"{where} has no {field}: {state} (found: {', '.join(map(str, list(row)[:12]))}); "
                f"fill it in, or name its column with env_config.columns: {{{field}: NAME}}"
            )
        return name, value

    def is_image(self, name: str) -> bool:
        """Image columns are never passed on as extra values."""
        return name in self._names["images"]


def nested_value(row: Mapping[str, Any], name: str) -> Any:
    """The value of a column, or of `outer.inner` inside a struct; None where it is missing."""
    if name in row:
        return row[name]
    outer, _, inner = name.partition(".")
    struct = row.get(outer)
    return nested_value(struct, inner) if inner and isinstance(struct, Mapping) else None


def is_missing(value: Any) -> bool:
    """Does a cell hold nothing: null, NaN, white space, what pandas writes for a missing value, or an empty list?"""
    if isinstance(value, str):
        text = value.strip()
        return not text or (len(text) <= _LONGEST_NOTHING and text.lower() in _NOTHING)  # cells may be megabytes
    if isinstance(value, list | tuple):
        return not value
    return value is None or (isinstance(value, float) and math.isnan(value))


def _holds_no_image(value: Any) -> bool:
    """Is an image cell missing, or a list or a struct of nothing else?"""
    if isinstance(value, list | tuple):
        return all(_holds_no_image(item) for item in value)
    if isinstance(value, Mapping):
        return is_missing(value.get("path")) and value.get("bytes") is None
    return is_missing(value)


def optional_text(value: Any) -> str | None:
    """The cell as a text; None where it holds nothing."""
    return None if is_missing(value) else str(value)


def optional_number(value: Any, where: str) -> float | None:
    """The cell as a finite number; None where it holds nothing, UserError where it is no number."""
    if is_missing(value):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.inf
    if not math.isfinite(number):
        raise UserError(f"{where} is {str(value)[:40]!r}, not a number; correct the row")
    return number


def string_list(value: Any, where: str) -> tuple[str, ...]:
    """A real list of non-empty strings (numbers are written out); UserError for anything else, never evaluated."""
    if is_missing(value):
        return ()
    if isinstance(value, str):
        raise UserError(f"{where} is a string ({value[:40]!r}), not a list; store a real list of strings")
    if not isinstance(value, list | tuple):
        raise UserError(f"{where} is a {type(value).__name__}, not a list of strings; correct the row")
    for item in value:
        if isinstance(item, bool) or not isinstance(item, str | int | float) or is_missing(item):
            raise UserError(f"{where} holds {str(item)[:40]!r}; every element must be a text")
    return tuple(str(item).strip() for item in value)
