"""Hands out question indices epoch by epoch, in an order that depends on the seed and the epoch alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sharegrpo_rl.data.seeding import derive_seed
from sharegrpo_rl.errors import UserError


class QuestionCursor:
    """A shuffled walk over a bank: every question once an epoch, and a place that can be saved."""

    def __init__(self, num_questions: int, seed: int) -> None:
        if num_questions < 1:
            raise UserError("there is no question to train on; the data set is empty")
        self.num_questions = num_questions
        self.seed = seed
        self._move_to(epoch=0, position=0)

    def next(self, count: int) -> list[tuple[int, int]]:
        """The next `count` pairs (epoch, index); the walk goes on into the next epoch where this one ends."""
        picked = []
        for _ in range(count):
            if self._position == self.num_questions:
                self._move_to(self._epoch + 1, position=0)
            picked.append((self._epoch, int(self._order[self._position])))
            self._position += 1
        return picked

    def get_state(self) -> dict[str, Any]:
        """The place in the walk, as JSON values."""
        return {
            "num_questions": self.num_questions,
            "seed": self.seed,
            "epoch": self._epoch,
            "position": self._position,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on where `get_state` was taken; UserError where the data set has another size or the run another seed."""
        for key, mine in (("num_questions", self.num_questions), ("seed", self.seed)):
            if state[key] != mine:
                raise UserError(
                    f"the checkpoint's data cursor has {key} {state[key]}, this run has {mine}; "
                    "resume with the same data and seed, or start a new run"
                )
        self._move_to(int(state["epoch"]), int(state["position"]))

    def _move_to(self, epoch: int, position: int) -> None:
        self._epoch = epoch
        self._position = position
        rng = np.random.default_rng(derive_seed("epoch", self.seed, epoch))
        self._order: NDArray[np.int64] = rng.permutation(self.num_questions)
