"""One row of a table -> a SeedQuestion; every complaint names the row, its id and the column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharegrpo_rl.data.columns import Columns
from sharegrpo_rl.data.key_steps import is_kept_whole, read_key_steps
from sharegrpo_rl.data.messages import IMAGE_MARK
from sharegrpo_rl.data.row_images import read_images
from sharegrpo_rl.data.templates import template_wordings
from sharegrpo_rl.data.types import SeedQuestion
from sharegrpo_rl.data.values import (
    answer_kind,
    answer_text,
    last_boxed,
    optional_number,
    optional_text,
    question_text,
    stated_answer,
)
from sharegrpo_rl.data.wordings import needs_visible_choices, other_wordings, string_list, with_choices
from sharegrpo_rl.errors import UserError


@dataclass(frozen=True)
class RowReader:
    """`root` holds the images, `shared` the wordings of each subtask; `templates` adds rule-based wordings."""

    columns: Columns
    root: Path
    shared: Mapping[str, tuple[str, ...]]
    templates: bool

    def read(self, row: Mapping[str, Any], *, default_id: str, place: str, folder: Path) -> SeedQuestion:
        """The row as a question; UserError naming `place`, the id and the column."""
        values = {field: self.columns.pick(row, field)[1] for field in self.columns.fields}
        identity = default_id if values["id"] is None else str(values["id"])
        place = f"{place}, id {identity}"
        choices = string_list(values["choices"], f"{place}: choices")
        answer, solution = self._answer(row, choices, place)
        images = read_images(values["images"], place=place, folder=folder, root=self.root)
        wordings = self._wordings(row, place, bool(images))
        _check_wordings(wordings, len(images), place)
        answer_type = answer_kind(values["answer_type"])
        if needs_visible_choices(answer, answer_type, choices):
            wordings = tuple(with_choices(wording, choices) for wording in wordings)
        steps_column, steps_value = self.columns.pick(row, "key_steps")
        steps = read_key_steps(steps_value, steps_column, place)
        return SeedQuestion(
            id=identity,
            question=wordings[0],
            answer=answer,
            images=images,
            variants=wordings[1:],
            choices=choices,
            answer_type=answer_type,
            unit=optional_text(values["unit"]),
            precision=optional_number(values["precision"], f"{place}: precision"),
            solution=solution,
            key_steps=steps,
            task=optional_text(values["task"]) or "",
            subtask=optional_text(values["subtask"]) or optional_text(values["answer_type"]) or "",
            extra=self._extra(row, steps_used=is_kept_whole(steps_value, steps)),
        )

    def _answer(self, row: Mapping[str, Any], choices: tuple[str, ...], place: str) -> tuple[str, str | None]:
        """The ground truth, and the worked solution where the row has one beside it, or around its last box or section."""
        column, value = self.columns.require(row, "answer", place)
        solution_column, worked = self.columns.pick(row, "solution")
        if column != solution_column:
            return answer_text(value, choices, f"{place}: {column}"), optional_text(worked)
        boxed = last_boxed(worked) if isinstance(worked, str) else None
        inside = stated_answer(worked) if boxed is None and isinstance(worked, str) else boxed
        answer = answer_text(value if inside is None else inside, choices, f"{place}: {column}")
        return answer, None if inside is None else worked

    def _wordings(self, row: Mapping[str, Any], place: str, has_images: bool) -> tuple[str, ...]:
        """The question, then its own rewordings, those of its subtask and, if asked for, those of the templates."""
        column, value = self.columns.require(row, "question", place)
        question = question_text(value, f"{place}: {column}")
        column, value = self.columns.pick(row, "variants")
        own = string_list(value, f"{place}: {column}")
        shared = self.shared.get(str(self.columns.pick(row, "subtask")[1]), ())
        made = template_wordings(question) if self.templates and has_images else ()
        return (question, *other_wordings(question, own, shared, made))

    def _extra(self, row: Mapping[str, Any], *, steps_used: bool) -> dict[str, Any]:
        """The columns that no field holds unchanged, images left out."""
        raw = {"answer_type", "solution"} | (set() if steps_used else {"key_steps"})
        used = {self.columns.pick(row, field)[0] for field in self.columns.fields if field not in raw}
        return {name: value for name, value in row.items() if name not in used and not self.columns.is_image(name)}


def _check_wordings(wordings: tuple[str, ...], num_images: int, place: str) -> None:
    for wording in wordings:
        shown = repr(wording[:40])
        try:
            wording.encode()
        except UnicodeEncodeError:
            raise UserError(f"{place}: {shown} holds half a Unicode character; write the text as UTF-8") from None
        if (marks := wording.count(IMAGE_MARK)) not in (0, num_images):
            raise UserError(f"{place}: {marks} {IMAGE_MARK} mark(s) in {shown}, {num_images} image(s); make them equal")
