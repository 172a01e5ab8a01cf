"""The wordings of a question: its own rewordings, those shared by all rows of a subtask, and choices made visible."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sharegrpo_rl.errors import UserError

SHARED_FILE = "question_variants.json"
_CLOSED = {"yes", "no", "true", "false"}
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


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


def are_closed(choices: Sequence[str]) -> bool:
    """Are these the answers of a yes/no or true/false question, which nobody needs to be shown?"""
    return {choice.lower() for choice in choices} <= _CLOSED


def needs_visible_choices(answer: str, answer_type: str | None, choices: Sequence[str]) -> bool:
    """Must the question's text show the choices: does the answer pick one of them by letter or by text?"""
    if not choices or are_closed(choices):
        return False
    if answer_type is not None:
        return answer_type == "multiple_choice"
    return answer in choices or answer.strip("()").upper() in _LETTERS[: len(choices)]


def with_choices(text: str, choices: Sequence[str]) -> str:
    """The text followed by "Choices: (A) ... (B) ...", unless it lists them by letter already."""
    if _lists_choices(text, choices):
        return text
    listed = " ".join(f"({letter}) {choice}" for letter, choice in zip(_LETTERS, choices, strict=False))
    return f"{text}\nChoices: {listed}"


def _lists_choices(text: str, choices: Sequence[str]) -> bool:
    """Does each choice stand in the text right after its letter: "(A) 4", "A. 4", "B: 5"?"""
    return all(
        re.search(rf"(?<!\w){letter}\s*[).:]\s*{re.escape(choice)}", text)
        for letter, choice in zip(_LETTERS, choices, strict=False)
    )
