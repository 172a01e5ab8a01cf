"""Which questions an iteration takes, and in which variants: seeds, the walk over a bank, the slots of a group.

Everything random is derived from what it belongs to, so that a run replays and resumes exactly.
"""

from __future__ import annotations

from collections import Counter
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharegrpo_rl.data.transforms import TRANSFORMS, check_names
from sharegrpo_rl.data.types import SeedQuestion, Slot
from sharegrpo_rl.errors import UserError


def derive_seed(*parts: str | int) -> int:
    """A number below 2**63 that depends on every part, its type and its position; never on Python's salted `hash`."""
    digest = blake2b(digest_size=8)
    for part in parts:
        encoded = b"s" + part.encode() if isinstance(part, str) else b"i" + str(int(part)).encode()
        digest.update(len(encoded).to_bytes(4, "little"))  # lengths keep ("a", "bc") apart from ("ab", "c")
        digest.update(encoded)
    return int.from_bytes(digest.digest(), "little") >> 1


class QuestionCursor:
    """A shuffled walk over a bank, every question once an epoch, in an order that depends on seed and epoch alone."""

    def __init__(self, num_questions: int, seed: int) -> None:
        if num_questions < 1:
            raise UserError("there is no question to train on; the data set is empty")
        self.num_questions = num_questions
        self.seed = seed
        self._move_to(epoch=0, position=0)

    def next(self, count: int) -> list[tuple[int, int]]:
        """The next `count` pairs (epoch, index), continuing into the next epoch where this one ends."""
        questions = []
        for _ in range(count):
            if self._position == self.num_questions:
                self._move_to(self._epoch + 1, position=0)
            questions.append((self._epoch, int(self._order[self._position])))
            self._position += 1
        return questions

    def get_state(self) -> dict[str, Any]:
        """The position in the walk, as JSON values."""
        return {
            "num_questions": self.num_questions,
            "seed": self.seed,
            "epoch": self._epoch,
            "position": self._position,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue where `get_state` was taken; UserError where the data set has another size or the run another seed."""
        for key, current in (("num_questions", self.num_questions), ("seed", self.seed)):
            if state[key] != current:
                raise UserError(
                    f"the checkpoint's data cursor has {key} {state[key]}, this run has {current}; "
                    "resume with the same data and seed, or start a new run"
                )
        self._move_to(int(state["epoch"]), int(state["position"]))

    def _move_to(self, epoch: int, position: int) -> None:
        self._epoch = epoch
        self._position = position
        rng = np.random.default_rng(derive_seed("epoch", self.seed, epoch))
        self._order: NDArray[np.int64] = rng.permutation(self.num_questions)


def plan_slots(
    question: SeedQuestion,
    *,
    num_variants: int,
    transform_probability: float,
    include_original: str,
    wording: str,
    strict_variants: bool,
    allowed: tuple[str, ...],
    seed: int,
) -> tuple[Slot, ...]:
    """1 to `num_variants` slots whose prompts all differ; equal arguments give equal slots.

    Wordings are drawn without repeats. Where they are fewer than `num_variants` they are reused in turn, and a
    reused text always carries a transform of `allowed`, another one each time (noise may come again under a new
    seed). Where none is left the group is smaller; `strict_variants` makes too few wordings a UserError.
    """
    check_names(allowed)
    if not question.images:
        allowed = ()
    rng = np.random.default_rng(derive_seed("slots", seed))
    texts = _draw_wordings(question, num_variants, include_original, wording, rng)
    if strict_variants and len(texts) < num_variants:
        raise UserError(
            f"question {question.id} has {len(texts)} wording(s), num_variants is {num_variants}; "
            "add wordings, lower num_variants, or set strict_variants to false"
        )
    texts = [texts[number % len(texts)] for number in range(num_variants)]
    uses = Counter(texts)
    used_transforms: dict[int, set[str | None]] = {text: set() for text in texts}
    slots: list[Slot] = []
    for number, text in enumerate(texts):
        used = used_transforms[text]
        if not used:
            transform = _first_transform(allowed, uses[text], transform_probability, rng)
        elif choices := _repeat_transforms(allowed, used):
            transform = choices[rng.integers(len(choices))]
        else:
            continue  # the same prompt again would teach nothing: the group shrinks
        used.add(transform)
        transform_seed = derive_seed("transform", seed, number) if transform else 0
        slots.append(Slot(len(slots), text, transform, transform_seed))
    return tuple(slots)


def _draw_wordings(
    question: SeedQuestion, num_variants: int, include_original: str, wording: str, rng: np.random.Generator
) -> list[int]:
    """At most `num_variants` different indices into the question's wordings, in drawn order."""
    if wording == "original":
        return [0]
    order = [int(index) for index in rng.permutation(len(question.wordings))]
    if include_original == "always" and num_variants >= 2:
        order = [0, *(index for index in order if index != 0)]
    return order[:num_variants]


def _first_transform(allowed: tuple[str, ...], uses: int, probability: float, rng: np.random.Generator) -> str | None:
    """A transform with the given probability, unless the text's later uses need every allowed one."""
    draw, choice = rng.random(), rng.random()
    repeatable = any(TRANSFORMS[name].seeded for name in allowed)
    if draw >= probability or not (repeatable or len(allowed) >= uses):
        return None
    return allowed[int(choice * len(allowed))]


def _repeat_transforms(allowed: tuple[str, ...], used: set[str | None]) -> list[str]:
    """Transforms that make this text a new prompt: unused ones, else those that another seed makes new."""
    unused = [name for name in allowed if name not in used]
    return unused or [name for name in allowed if TRANSFORMS[name].seeded]
