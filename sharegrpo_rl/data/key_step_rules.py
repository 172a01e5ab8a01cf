"""Rules that make key steps of what some data sets have in their place. A new rule is a function and a line here.

A rule gets the row's list and returns key steps, or () where the list is none of its kind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sharegrpo_rl.data.puzzle_steps import puzzle_steps
from sharegrpo_rl.data.theorem_steps import theorem_steps

Rule = Callable[[Sequence[str]], tuple[tuple[str, ...], ...]]
RULES: tuple[Rule, ...] = (theorem_steps, puzzle_steps)


def steps_by_rule(value: Sequence[Any]) -> tuple[tuple[str, ...], ...]:
    """Key steps by the first rule that knows lists of this kind; () where none does, or where an item is no text."""
    if not value or not all(isinstance(item, str) for item in value):
        return ()
    return next((steps for rule in RULES if (steps := rule(value))), ())
