"""One row of a table -> a SeedQuestion: column names of the ecosystem, wordings, choices, ground truth."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharegrpo_rl.data.images import read_images
from sharegrpo_rl.data.key_steps import read_key_steps, says_the_same
from sharegrpo_rl.data.messages import IMAGE_MARK
from sharegrpo_rl.data.templates import template_wordings
from sharegrpo_rl.data.types import SeedQuestion
from sharegrpo_rl.errors import UserError, did_you_mean

SHARED_FILE = "question_variants.json"
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
_ANSWER_TYPES = {
    **{name: name for name in ("numeric", "true_false", "yes_no", "multiple_choice", "word")},
    **{name: "numeric" for name in ("integer", "float", "number")},
    **{name: "multiple_choice" for name in ("multi_choice", "choice", "option")},
    **{name: "word" for name in ("text", "string")},
}
_CLOSED = {"yes", "no", "true", "false"}
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_FINAL_HEADING = "### The final answer is:"
_TAGGED = re.compile(r"\s*<answer>(.*)</answer>\s*", re.DOTALL)


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
        for name in self._names[field]:
            if (value := nested_value(row, name)) is not None:
                return name, value
        return "", None

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


@dataclass(frozen=True)
class RowReader:
    """`root` holds the images, `shared` the wordings of each subtask; `templates` adds rule-based wordings."""

    columns: Columns
    root: Path
    shared: Mapping[str, tuple[str, ...]]
    templates: bool

    def read(self, row: Mapping[str, Any], *, default_id: str, where: str, folder: Path) -> SeedQuestion:
        """The row as a question; UserError naming `where` (file and row), the id and the column."""
        values = {field: self.columns.pick(row, field)[1] for field in self.columns.fields}
        identity = default_id if values["id"] is None else str(values["id"])
        where = f"{where}, id {identity}"
        choices = string_list(values["choices"], f"{where}: choices")
        answer, solution = self._answer(row, choices, where)
        images = read_images(values["images"], where=where, folder=folder, root=self.root)
        wordings = self._wordings(row, where, bool(images))
        _check_wordings(wordings, len(images), where)
        answer_type = _ANSWER_TYPES.get(str(values["answer_type"]).lower())  # None: inferred from the answer
        if needs_visible_choices(answer, answer_type, choices):
            wordings = tuple(with_choices(wording, choices) for wording in wordings)
        steps_column, steps_value = self.columns.pick(row, "key_steps")
        steps = read_key_steps(steps_value, steps_column, where)
        return SeedQuestion(
            id=identity,
            question=wordings[0],
            answer=answer,
            images=images,
            variants=wordings[1:],
            choices=choices,
            answer_type=answer_type,
            unit=_text(values["unit"]),
            precision=_number(values["precision"], f"{where}: precision"),
            solution=solution,
            key_steps=steps,
            task=_text(values["task"]) or "",
            subtask=_text(values["subtask"]) or _text(values["answer_type"]) or "",
            extra=self._extra(row, keep_steps=not says_the_same(steps, steps_value)),
        )

    def _answer(self, row: Mapping[str, Any], choices: tuple[str, ...], where: str) -> tuple[str, str | None]:
        """The ground truth, and the worked solution: a column of its own, or the text around the answer."""
        column, value = self.columns.require(row, "answer", where)
        solution_column, worked = self.columns.pick(row, "solution")
        if column != solution_column:
            return _answer_text(value, choices, f"{where}: {column}"), _text(worked)
        final = None
        if isinstance(worked, str):
            boxed = last_boxed(worked)
            final = _stated_answer(worked) if boxed is None else boxed
        answer = _answer_text(value if final is None else final, choices, f"{where}: {column}")
        return answer, None if final is None else worked

    def _wordings(self, row: Mapping[str, Any], where: str, has_images: bool) -> tuple[str, ...]:
        """The question, then its own rewordings, those of its subtask and, if asked for, those of the templates."""
        column, value = self.columns.require(row, "question", where)
        question = question_text(value, f"{where}: {column}")
        column, value = self.columns.pick(row, "variants")
        variants = string_list(value, f"{where}: {column}")
        shared = self.shared.get(str(self.columns.pick(row, "subtask")[1]), ())
        made = template_wordings(question) if self.templates and has_images else ()
        return (question, *other_wordings(question, variants, shared, made))

    def _extra(self, row: Mapping[str, Any], *, keep_steps: bool) -> dict[str, Any]:
        """The columns that no field holds unchanged, images left out."""
        changed = {"answer_type", "solution"} | ({"key_steps"} if keep_steps else set())
        used = {self.columns.pick(row, field)[0] for field in self.columns.fields if field not in changed}
        return {name: value for name, value in row.items() if name not in used and not self.columns.is_image(name)}


def _check_wordings(wordings: tuple[str, ...], num_images: int, where: str) -> None:
    for wording in wordings:
        beginning = repr(wording[:40])
        try:
            wording.encode()
        except UnicodeEncodeError:
            raise UserError(f"{where}: {beginning} holds half a Unicode character; write the text as UTF-8") from None
        if (marks := wording.count(IMAGE_MARK)) not in (0, num_images):
            raise UserError(
                f"{where}: {marks} {IMAGE_MARK} mark(s) in {beginning}, {num_images} image(s); make them equal"
            )


def read_shared_wordings(folders: Sequence[Path]) -> dict[str, tuple[str, ...]]:
    """`question_variants.json` of the first folder that has one: {subtask: wordings that fit each of its rows}."""
    for path in (folder / SHARED_FILE for folder in folders):
        if not path.is_file():
            continue
        try:
            table = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{path}: not valid JSON ({error}); correct or remove the file") from None
        if not isinstance(table, dict):
            raise UserError(f'{path}: not an object; write {{"subtask": ["wording", ...]}}')
        return {subtask: string_list(wordings, f"{path}: {subtask!r}") for subtask, wordings in table.items()}
    return {}


def other_wordings(question: str, *groups: Iterable[str]) -> tuple[str, ...]:
    """All wordings of the groups that differ from the question and from each other in more than white space."""
    seen = {" ".join(question.split())}
    kept = []
    for wording in (wording for group in groups for wording in group):
        if (plain := " ".join(wording.split())) not in seen:
            seen.add(plain)
            kept.append(wording)
    return tuple(kept)


def needs_visible_choices(answer: str, answer_type: str | None, choices: Sequence[str]) -> bool:
    """Must the question's text show the choices: does the answer pick one of them by letter or by text?"""
    if not choices or are_closed(choices):
        return False
    if answer_type is not None:
        return answer_type == "multiple_choice"
    return answer in choices or answer.strip("()").upper() in _LETTERS[: len(choices)]


def are_closed(choices: Sequence[str]) -> bool:
    """Are these the answers of a yes/no or true/false question, which nobody needs to be shown?"""
    return {choice.lower() for choice in choices} <= _CLOSED


def with_choices(text: str, choices: Sequence[str]) -> str:
    """The text followed by "Choices: (A) ... (B) ...", unless it lists them by letter already."""
    lettered = list(zip(_LETTERS, choices, strict=False))
    if all(re.search(rf"(?<!\w){letter}\s*[).:]\s*{re.escape(choice)}", text) for letter, choice in lettered):
        return text
    return f"{text}\nChoices: {' '.join(f'({letter}) {choice}' for letter, choice in lettered)}"


def string_list(value: Any, where: str) -> tuple[str, ...]:
    """A real list of non-empty strings (numbers are written out); UserError for anything else, never evaluated."""
    if value is None:
        return ()
    if isinstance(value, str):
        raise UserError(f"{where} is a string ({value[:40]!r}), not a list; store a real list of strings")
    if not isinstance(value, list | tuple):
        raise UserError(f"{where} is a {type(value).__name__}, not a list of strings; correct the row")
    for item in value:
        if isinstance(item, bool) or not isinstance(item, str | int | float) or not str(item).strip():
            raise UserError(f"{where} holds {str(item)[:40]!r}; every element must be a text")
    return tuple(str(item).strip() for item in value)


def question_text(value: Any, where: str) -> str:
    """A string, or chat messages with one user turn; image parts become `<image>` marks."""
    if isinstance(value, list):
        turns = [turn for turn in value if isinstance(turn, Mapping) and turn.get("role") != "system"]
        if len(turns) != 1 or turns[0].get("role") != "user":
            raise UserError(f"{where} must hold one user message; dialogues of several turns are not supported")
        value = turns[0].get("content")
        if isinstance(value, list):
            value = "".join(_part_text(part, where) for part in value)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where} is {str(value)[:40]!r}, not a text; write the question there")
    return value.strip()


def _part_text(part: Any, where: str) -> str:
    if isinstance(part, Mapping) and part.get("type") == "image":
        return IMAGE_MARK
    if isinstance(part, Mapping) and isinstance(part.get("text"), str):
        return part["text"]
    raise UserError(f"{where} has a message part that is neither text nor image: {str(part)[:40]!r}")


def last_boxed(text: str) -> str | None:
    """The contents of the last \\boxed{...} of a text, braces balanced; None without one."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    first = start + len("\\boxed{")
    depth = 1
    for position in range(first, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[first:position]
    return None


def _stated_answer(text: str) -> str | None:
    """What follows the last heading `### The final answer is:`; None without one, or where nothing does."""
    _, heading, answer = text.rpartition(_FINAL_HEADING)
    return answer.strip() or None if heading else None


def _answer_text(value: Any, choices: tuple[str, ...], where: str) -> str:
    """The ground truth as a text: `<answer>` tags removed, an index into the choices replaced by its letter."""
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if isinstance(value, bool):
        value = "true" if value else "false"
    elif isinstance(value, int) and str(value) not in choices and 0 <= value < len(choices):
        value = choices[value] if are_closed(choices) else chr(ord("A") + value)
    if not isinstance(value, str | int | float):
        raise UserError(f"{where} is a {type(value).__name__}, not one answer; store a text or a number")
    tagged = _TAGGED.fullmatch(str(value))
    text = (tagged.group(1) if tagged else str(value)).strip()
    if not text:
        raise UserError(f"{where} is empty; give the ground truth or drop the row")
    return text


def _text(value: Any) -> str | None:
    return None if value is None or not str(value).strip() else str(value)


def _number(value: Any, where: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UserError(f"{where} is {str(value)[:40]!r}, not a number; correct the row") from None
