"""Column names of the ecosystem -> fields of a SeedQuestion."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from sharegrpo_rl.errors import UserError

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


class Columns:
    """Where each field stands: the names above, or the ones a user gives ({field: column}, None = no such column)."""

    def __init__(self, chosen: Mapping[str, str | None] | None = None) -> None:
        self._names = dict(ALIASES)
        for field, column in (chosen or {}).items():
            if field not in ALIASES:
                near = difflib.get_close_matches(field, ALIASES, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"fields are {', '.join(ALIASES)}"
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
        for name in self._names[field]:
            if (value := _look_up(row, name)) is not None:
                return name, value
        return "", None

    def require(self, row: Mapping[str, Any], field: str, place: str) -> tuple[str, Any]:
        """Like `pick`; UserError naming the place, the names looked for and the columns there are."""
        name, value = self.pick(row, field)
        if value is None:
            empty = [name for name in self._names[field] if name in row]
            state = f"column {empty[0]!r} is empty" if empty else f"none of the columns {', '.join(self._names[field])}"
            found = ", ".join(map(str, list(row)[:12]))
            raise UserError(
                f"{place} has no {field}: {state} (found: {found}); "
                f"fill it in, or name its column with env_config.columns: {{{field}: NAME}}"
            )
        return name, value

    def is_image(self, name: str) -> bool:
        """Image columns are never handed on as extra values."""
        return name in self._names["images"]


def _look_up(row: Mapping[str, Any], name: str) -> Any:
    if name in row:
        return row[name]
    outer, _, inner = name.partition(".")
    nested = row.get(outer)
    return _look_up(nested, inner) if inner and isinstance(nested, Mapping) else None
