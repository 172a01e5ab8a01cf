"""The key steps of a row: what a good solution says on the way, each step as its equivalent phrasings.

Three shapes are read: `["phrase", ["phrase", "another phrasing"], ...]`, R1-VL's `{"Steps": [...]}`, and either of them
as JSON text, which is how a parquet column holds such a mixture. Lists of sentences or theorem calls go through
`step_rules.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sharegrpo_rl.data.columns import is_missing
from sharegrpo_rl.data.step_rules import steps_by_rule
from sharegrpo_rl.data.types import KeySteps, QuestionBank
from sharegrpo_rl.errors import UserError

LOOSE_COLUMN = "steps"  # a name that data sets also use for other things


def read_key_steps(value: Any, column: str, where: str) -> KeySteps:
    """The key steps in a cell; () for an empty one. UserError naming the row, the column and the step.

    A column called `steps` may hold anything: what is no list of lists, no `{"Steps": ...}` and known to no rule is
    ignored there.
    """
    if value is None:
        return ()
    if isinstance(value, list) and (steps := steps_by_rule(value)):
        return steps
    if column == LOOSE_COLUMN and not _looks_like_key_steps(value):
        return ()
    where = f"{where}: {column}"
    if isinstance(value, str):
        value = _parse_json(value, where)
    if isinstance(value, Mapping):
        if value and "Steps" not in value:
            keys = ", ".join(map(str, list(value)[:5]))
            raise UserError(f'{where} has no "Steps" (found {keys}); write {{"Steps": [...]}}')
        value = value.get("Steps") or []  # R1-VL's other keys are not scored
    if not isinstance(value, list | tuple):
        raise UserError(f'{where} is a {type(value).__name__}, not key steps; write ["a", ["b", "also b"]]')
    return tuple(_phrasings(step, f"{where}, step {number}") for number, step in enumerate(value, 1))


def says_the_same(steps: KeySteps, value: Any) -> bool:
    """Whether the key steps say all that the cell does, so that the raw value need not be passed on."""
    return bool(steps) and value == [list(phrasings) for phrasings in steps]


def rows_without_key_steps(bank: QuestionBank, limit: int | None = None) -> int:
    """How many rows of the bank (or of its first `limit`) have no key step, so that their share k is always 0."""
    rows = len(bank) if limit is None else min(limit, len(bank))
    return sum(not bank[index].key_steps for index in range(rows))


def _looks_like_key_steps(value: Any) -> bool:
    if isinstance(value, Mapping):
        return "Steps" in value
    lists = isinstance(value, list) and all(isinstance(step, list) and step for step in value)
    return lists and all(isinstance(phrase, str) for step in value for phrase in step)


def _parse_json(text: str, where: str) -> Any:
    if not text.strip():
        return []
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise UserError(f'{where} is the text {text[:40]!r}, not key steps; write ["a", ["b", "also b"]]') from None


def _phrasings(step: Any, where: str) -> tuple[str, ...]:
    phrases: Sequence[Any] = step if isinstance(step, list | tuple) else [step]
    for phrase in phrases:
        if isinstance(phrase, bool) or not isinstance(phrase, str | int | float) or is_missing(phrase):
            raise UserError(f"{where} holds {str(phrase)[:40]!r}; write a phrase, or a list of equivalent phrases")
    if not phrases:
        raise UserError(f"{where} is an empty list; write at least one phrase, or leave the step out")
    return tuple(dict.fromkeys(str(phrase).strip() for phrase in phrases))
