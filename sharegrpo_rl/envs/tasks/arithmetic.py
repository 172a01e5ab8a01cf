"""`Arithmetic-v0`: questions on two numbers without any image, some of the number facts held out for the test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from pydantic import field_validator

from sharegrpo_rl.config.option import option
from sharegrpo_rl.data.types import QuestionBank, SeedQuestion
from sharegrpo_rl.data.variants import derive_seed
from sharegrpo_rl.envs.generated import GeneratedBank
from sharegrpo_rl.envs.multimodal_qa import EnvOptions, MultimodalQAEnv
from sharegrpo_rl.errors import UserError

# A number fact is an unordered pair of numbers: whoever knows 7 + 5 knows 5 + 7, and 12 - 5 too.
Pair = tuple[int, int]
LARGEST_FACTOR = 12
SEEN, HELD_OUT = "seen-facts", "held-out-facts"


@dataclass(frozen=True)
class Kind:
    """A kind of question; wording 0 is the plain one. `commutes`: the numbers may come in either order."""

    sign: str
    spoken: str
    wordings: tuple[str, ...]
    commutes: bool = True

    def operands(self, max_number: int) -> list[Pair]:
        """All pairs of numbers from 1 to `max_number` that can be asked, the larger one first where order matters."""
        if self.commutes:
            largest = min(max_number, LARGEST_FACTOR) if self.sign == "*" else max_number
            return [(a, b) for a in range(1, largest + 1) for b in range(a, largest + 1)]
        return [(a, b) for a in range(2, max_number + 1) for b in range(1, a)]

    def facts(self, operands: Pair) -> tuple[Pair, ...]:
        """The number facts that a question uses: 12 - 5 uses {5, 12}, which it shows, and {5, 7}, which answers it."""
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


class ArithmeticBank(GeneratedBank):
    """Kinds come in shuffled blocks, and within a kind the pairs of numbers: each once before any comes again.

    So no constant answer earns much. A share of all number facts is held out: no training question of any kind,
    wording or order uses one. The test split asks, alternately for each kind, seen facts (training asks them too) and
    questions that use held-out facts alone; its subtask says which, such as `addition/held-out-facts`.
    """

    name = "Arithmetic-v0"
    task = "arithmetic"

    def __init__(
        self,
        split: str,
        kinds: Sequence[str] = ("addition", "subtraction"),
        max_number: int = 20,
        held_out_share: float = 1 / 3,
        num_wordings: int | None = None,
        *,
        held_out_seed: int = 0,
        subset_seed: int = 0,
    ) -> None:
        super().__init__(split, subset_seed=subset_seed)
        check_kinds(kinds)
        self.num_wordings = num_wordings
        held_out = held_out_facts(max_number, held_out_share, held_out_seed)
        pools = {name: divide(name, max_number, held_out) for name in dict.fromkeys(kinds)}
        groups = (SEEN,) if split == "train" or held_out_share == 0 else (SEEN, HELD_OUT)
        self._pools = {(name, group): pool[group] for name, pool in pools.items() for group in groups}
        self._groups = tuple(self._pools)
        for (name, group), pool in self._pools.items():
            if not pool:
                raise UserError(
                    f"env_config.held_out_share: {held_out_share:g} of the facts on numbers up to {max_number} leaves "
                    f"no question of kind {name} with {group}; change it, or raise env_config.max_number"
                )

    def make(self, number: int) -> SeedQuestion:
        """Question `number` of the split."""
        name, group = self.deal(self._groups, number, "kinds")
        kind = KINDS[name]
        a, b = operands = self.deal(self._pools[name, group], number // len(self._groups), f"{name}/{group}")
        if kind.commutes and self.random("order", number).random() < 0.5:
            a, b = b, a
        answer = str(kind.result(operands))
        wordings = [text.format(a=a, b=b) for text in kind.wordings[: self.num_wordings]]
        equation = f"{a} {kind.sign} {b} = {answer}"
        return SeedQuestion(
            id=self.question_id(number),
            question=wordings[0],
            answer=answer,
            variants=tuple(wordings[1:]),
            answer_type="numeric",
            solution=equation,
            key_steps=((str(a),), (str(b),), (equation, f"{a} {kind.spoken} {b} is {answer}", answer)),
            task=self.task,
            subtask=name if self.split == "train" else f"{name}/{group}",
            transforms=(),
        )


def held_out_facts(max_number: int, share: float, seed: int) -> frozenset[Pair]:
    """The share of all unordered pairs of numbers from 1 to `max_number` that no training question uses."""
    pairs = [(a, b) for a in range(1, max_number + 1) for b in range(a, max_number + 1)]
    random = Random(derive_seed("arithmetic", "held out", seed, max_number))
    return frozenset(random.sample(pairs, round(share * len(pairs))))


def divide(name: str, max_number: int, held_out: frozenset[Pair]) -> dict[str, tuple[Pair, ...]]:
    """A kind's operands by the facts they use: none held out, or all. Those that use one of each are never asked."""
    kind = KINDS[name]
    uses = {operands: held_out.intersection(kind.facts(operands)) for operands in kind.operands(max_number)}
    return {
        SEEN: tuple(operands for operands, used in uses.items() if not used),
        HELD_OUT: tuple(operands for operands, used in uses.items() if used == set(kind.facts(operands))),
    }


class ArithmeticOptions(EnvOptions):
    """What `env_config` may hold."""

    kinds: list[str] = option(
        ["addition", "subtraction"],
        f"kinds of question: {', '.join(KINDS)} (of numbers up to {LARGEST_FACTOR})",
    )
    max_number: int = option(20, "largest number in a question", ge=5, le=999)
    held_out_share: float = option(1 / 3, "share of the number facts that no training question uses", ge=0, le=0.9)
    held_out_seed: int = option(0, "which number facts are held out", ge=0)
    num_wordings: int | None = option(3, "wordings of each question; null = all of them", ge=1)

    @field_validator("kinds")
    @classmethod
    def _known_kinds(cls, kinds: list[str]) -> list[str]:
        check_kinds(kinds)
        return kinds


class ArithmeticEnv(MultimodalQAEnv):
    """Sums, differences and products; accuracy on held-out facts tells calculation from remembered answers."""

    id = "Arithmetic-v0"
    options_type = ArithmeticOptions

    @classmethod
    def questions(cls, options: Any, split: str) -> QuestionBank:
        """The generated bank."""
        return ArithmeticBank(
            split,
            options.kinds,
            options.max_number,
            options.held_out_share,
            options.num_wordings,
            held_out_seed=options.held_out_seed,
            subset_seed=options.subset_seed,
        )
