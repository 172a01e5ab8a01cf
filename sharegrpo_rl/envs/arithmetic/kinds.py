"""The kinds of question on two numbers: which numbers they take, how they are asked, which number facts they use.

A number fact is an unordered pair of numbers: whoever knows 7 + 5 knows 5 + 7, and 12 - 5 too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sharegrpo_rl.errors import UserError

Pair = tuple[int, int]
LARGEST_FACTOR = 12


@dataclass(frozen=True)
class Kind:
    """Wording 0 is the plain one. `commutes`: the numbers may stand in either order."""

    sign: str
    spoken: str
    wordings: tuple[str, ...]
    commutes: bool = True

    def operands(self, max_number: int) -> list[Pair]:
        """All pairs of numbers from 1 to `max_number` that can be asked; the larger one first where order matters."""
        if self.commutes:
            largest = min(max_number, LARGEST_FACTOR) if self.sign == "*" else max_number
            return [(a, b) for a in range(1, largest + 1) for b in range(a, largest + 1)]
        return [(a, b) for a in range(2, max_number + 1) for b in range(1, a)]

    def facts(self, operands: Pair) -> tuple[Pair, ...]:
        """The number facts that a question uses; 12 - 5 uses {5, 12}, which it shows, and {5, 7}, which answers it."""
        a, b = operands
        shown = (min(a, b), max(a, b))
        return (shown,) if self.commutes else (shown, (min(b, a - b), max(b, a - b)))

    def result(self, operands: Pair) -> int:
        """The answer."""
        a, b = operands
        return {"+": a + b, "-": a - b, "*": a * b}[self.sign]


KINDS: dict[str, Kind] = {
    "addition": Kind(
        "+",
        "plus",
        (
            "What is {a} + {b}?",
            "How much is {a} plus {b}?",
            "Find the sum of {a} and {b}.",
            "Add {a} and {b} together.",
            "Start at {a} and count {b} further. Where do you end?",
        ),
    ),
    "subtraction": Kind(
        "-",
        "minus",
        (
            "What is {a} - {b}?",
            "How much is {a} minus {b}?",
            "Take {b} away from {a}.",
            "Find the difference of {a} and {b}.",
            "Start at {a} and count {b} back. Where do you end?",
        ),
        commutes=False,
    ),
    "multiplication": Kind(
        "*",
        "times",
        (
            "What is {a} * {b}?",
            "How much is {a} times {b}?",
            "Find the product of {a} and {b}.",
            "Multiply {a} by {b}.",
            "Count from zero in {a} steps of {b}. Where do you end?",
        ),
    ),
}


def check_kinds(names: Sequence[str]) -> None:
    """UserError where a name is unknown or none is given."""
    for name in names:
        if name not in KINDS:
            raise UserError(f"env_config.kinds: unknown kind of question {name!r}; known kinds: {', '.join(KINDS)}")
    if not names:
        raise UserError(f"env_config.kinds: name at least one kind of question: {', '.join(KINDS)}")
