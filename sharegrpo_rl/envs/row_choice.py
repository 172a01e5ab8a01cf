"""Which rows of a data set are used: of the wanted kinds, in train a seeded subset, the warm start's left out."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from sharegrpo_rl.data.seeding import derive_seed
from sharegrpo_rl.data.types import QuestionBank
from sharegrpo_rl.errors import UserError


def choose_rows(rows: QuestionBank, options: Any, split: str, key: str = "env_config") -> Sequence[int]:
    """Row numbers in file order: only the wanted kinds; in train at most `max_questions`."""
    chosen: Sequence[int] = range(len(rows))
    if options.kinds:
        kinds = kinds_of(rows)
        check_kinds(options.kinds, kinds, f"{rows.name} ({split})", key)
        chosen = [index for index in chosen if kinds[index] in options.kinds]
    if split == "train" and options.max_questions is not None and options.max_questions < len(chosen):
        random = Random(derive_seed("subset", options.subset_seed))
        chosen = sorted(random.sample(chosen, options.max_questions))
    return chosen


def kinds_of(rows: QuestionBank) -> list[str]:
    """The kind of every row."""
    return [rows[index].subtask for index in range(len(rows))]


def check_kinds(wanted: Sequence[str], found: Sequence[str], where: str, key: str) -> None:
    """UserError naming the first wanted kind that no row has, and those that there are."""
    if missing := [kind for kind in wanted if kind not in found]:
        known = ", ".join(sorted(set(found) - {""})) or "none: its rows have no subtask"
        raise UserError(f"{key}.kinds: {where} has no kind {missing[0]!r}; it has {known}")


def check_skip(skip: int, questions: int, where: str) -> None:
    """UserError where leaving out the first `skip` questions leaves none."""
    if skip >= questions:
        raise UserError(
            f"env_config.skip_questions: {skip} are left out of {questions} questions of "
            f"{where} and none remains; lower it, or the warm start's rows"
        )
