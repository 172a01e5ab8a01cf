"""One row of a table -> a SeedQuestion: its fields by name, its wordings as they are asked, its ground truth."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sharegrpo_rl.data.columns import Columns, is_missing, optional_number, optional_text, string_list
from sharegrpo_rl.data.gold import LETTERS, Gold, Note, are_closed, read_gold, thought_of
from sharegrpo_rl.data.images import holds_base64, read_images
from sharegrpo_rl.data.key_steps import read_key_steps, says_the_same
from sharegrpo_rl.data.messages import IMAGE_MARK
from sharegrpo_rl.data.templates import template_wordings
from sharegrpo_rl.data.types import SeedQuestion
from sharegrpo_rl.errors import UserError

SHARED_FILE = "question_variants.json"
_SYSTEM_ROLES = ("system", "developer")
_ANSWER_TYPES = {
    **{name: name for name in ("numeric", "true_false", "yes_no", "multiple_choice", "word")},
    **{name: "numeric" for name in ("integer", "float", "number")},
    **{name: "multiple_choice" for name in ("multi_choice", "choice", "option")},
    **{name: "word" for name in ("text", "string")},
}


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
        labelled = read_choices(values["choices"], f"{where}: choices")
        choices = _without_letters(labelled)
        gold, solution = self._gold(row, choices, where)
        images = read_images(values["images"], where=where, folder=folder, root=self.root)
        column, value = self.columns.require(row, "question", where)
        asked = read_question(value, f"{where}: {column}")
        wordings = self._wordings(row, asked.text, where, bool(images))
        _check_wordings((asked.system, *wordings), len(images), where)
        wordings = tuple(as_asked(wording, asked.system, choices) for wording in wordings)
        steps_column, steps_value = self.columns.pick(row, "key_steps")
        steps = read_key_steps(steps_value, steps_column, where)
        notes = {
            Note.LABELS: choices != labelled,
            Note.SYSTEM: asked.system,
            Note.BASE64: holds_base64(values["images"]),
        }
        return SeedQuestion(
            id=identity,
            question=wordings[0],
            answer=gold.answer,
            images=images,
            variants=wordings[1:],
            choices=choices,
            answer_type=_ANSWER_TYPES.get(str(values["answer_type"]).lower()),  # None: inferred from the answer
            unit=optional_text(values["unit"]),
            precision=optional_number(values["precision"], f"{where}: precision"),
            solution=solution,
            key_steps=steps,
            task=optional_text(values["task"]) or "",
            subtask=optional_text(values["subtask"]) or optional_text(values["answer_type"]) or "",
            extra=self._extra(row, keep_steps=not says_the_same(steps, steps_value)),
            system=asked.system,
            notes=(*gold.notes, *(note for note, found in notes.items() if found)),
        )

    def _gold(self, row: Mapping[str, Any], choices: tuple[str, ...], where: str) -> tuple[Gold, str | None]:
        """The ground truth, and the worked solution: a column of its own, or the text around the answer."""
        column, value = self.columns.require(row, "answer", where)
        solution_column, solution = self.columns.pick(row, "solution")
        gold = read_gold(value, choices, f"{where}: {column}", last_box=column == solution_column)
        if solution is None or column == solution_column:
            return gold, gold.worked
        solution = str(solution)
        if (thought := thought_of(solution)) != solution:
            gold = Gold(gold.answer, gold.worked, (*gold.notes, Note.THOUGHT))
        return gold, thought

    def _wordings(self, row: Mapping[str, Any], question: str, where: str, has_images: bool) -> tuple[str, ...]:
        """The question, then its own rewordings, those of its subtask and, if asked for, those of the templates."""
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


@dataclass(frozen=True)
class Asked:
    """A question as its row has it; `system` is its system turn, "" without one."""

    text: str
    system: str = ""


def read_question(value: Any, where: str) -> Asked:
    """A string, or chat messages: one user turn, before it a system turn or none; image parts become `<image>` marks."""
    system = ""
    if isinstance(value, list):
        turns = [turn for turn in value if isinstance(turn, Mapping)]
        roles = [turn.get("role") for turn in turns]
        if len(turns) != len(value) or [role for role in roles if role not in _SYSTEM_ROLES] != ["user"]:
            raise UserError(f"{where} must hold one user message; dialogues of several turns are not supported")
        texts = [_content(turn.get("content"), where) for turn in turns]
        system = "\n".join(text for text, role in zip(texts, roles, strict=True) if role in _SYSTEM_ROLES).strip()
        if IMAGE_MARK in system:
            raise UserError(f"{where}: its system turn holds an image; move it to the user turn")
        value = texts[roles.index("user")]
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where} is {str(value)[:40]!r}, not a text; write the question there")
    return Asked(value.strip(), system)


def _content(value: Any, where: str) -> str:
    """The text of a turn, whose content may be a list of parts; "" without one."""
    if isinstance(value, list):
        return "".join(_part_text(part, where) for part in value)
    if not isinstance(value, str | None):
        raise UserError(f"{where} has a message of {str(value)[:40]!r}, not a text; write the question there")
    return value or ""


def _part_text(part: Any, where: str) -> str:
    if isinstance(part, Mapping) and part.get("type") == "image":
        return IMAGE_MARK
    if isinstance(part, Mapping) and isinstance(text := part.get("text"), str):
        return text
    raise UserError(f"{where} has a message part that is neither text nor image: {str(part)[:40]!r}")


def other_wordings(question: str, *groups: Iterable[str]) -> tuple[str, ...]:
    """All wordings of the groups that differ from the question and from each other in more than white space."""
    seen = {" ".join(question.split())}
    kept = []
    for wording in (wording for group in groups for wording in group):
        if (plain := " ".join(wording.split())) not in seen:
            seen.add(plain)
            kept.append(wording)
    return tuple(kept)


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


def _check_wordings(wordings: Sequence[str], num_images: int, where: str) -> None:
    """UserError where a wording is no Unicode text, or marks another number of images than the row has."""
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


def as_asked(wording: str, system: str, choices: Sequence[str]) -> str:
    """A wording as a prompt shows it: behind the row's system turn, before its choices.

    Templates of many models have no system role, so a row's own system turn opens the user turn.
    """
    if choices and not are_closed(choices):
        wording = with_choices(wording, choices)
    return f"{system}\n\n{wording}" if system else wording


def reworded(question: SeedQuestion, wording: str) -> str:
    """Another wording of a question that was read, as a prompt would show it."""
    return as_asked(wording, question.system, question.choices)


def read_choices(value: Any, where: str) -> tuple[str, ...]:
    """The choices in the order of their letters; "" is a gap, whose letter is not given to another choice.

    UserError where there are more than letters, or where the cell is no list.
    """
    if not isinstance(value, list | tuple):
        return string_list(value, where)
    texts = ["" if is_missing(item) else string_list([item], where)[0] for item in value]
    while texts and not texts[-1]:
        texts.pop()
    if len(texts) > len(LETTERS):
        raise UserError(f"{where}: {len(texts)} choices, and {len(LETTERS)} (A to Z) is the most; leave some out")
    return tuple(texts)


def _without_letters(choices: tuple[str, ...]) -> tuple[str, ...]:
    """The choices without `A.`, `(B)`, ... at their beginnings, where each begins with its own letter."""
    pairs = zip(LETTERS, choices, strict=False)
    texts = [re.fullmatch(rf"\(?{letter}\s*[).:]\s*(\S.*)", choice, re.DOTALL) for letter, choice in pairs if choice]
    if len(texts) < 2 or not all(texts):
        return choices
    kept = iter(text.group(1) for text in texts if text)
    return tuple(next(kept) if choice else "" for choice in choices)


def with_choices(text: str, choices: Sequence[str]) -> str:
    """The text followed by "Choices: (A) ... (B) ...", unless it lists them by letter already; gaps are left out."""
    lettered = [(letter, choice) for letter, choice in zip(LETTERS, choices, strict=False) if choice]
    if all(re.search(rf"(?<!\w){letter}\s*[).:]\s*{re.escape(choice)}", text) for letter, choice in lettered):
        return text
    return f"{text}\nChoices: {' '.join(f'({letter}) {choice}' for letter, choice in lettered)}"
