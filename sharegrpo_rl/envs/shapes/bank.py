"""The generated bank of questions about drawn shapes: any question is made from its index alone."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from functools import lru_cache
from random import Random

from sharegrpo_rl.data.seeding import derive_seed
from sharegrpo_rl.data.types import SeedQuestion
from sharegrpo_rl.envs.shapes.kinds import KIND_GROUPS, KINDS, Drawing, Kind
from sharegrpo_rl.envs.shapes.scene import DrawnImage, scene_digest
from sharegrpo_rl.errors import UserError

SPLIT_SIZES = {"train": 50_000, "test": 2_000}
TEST_SHARE = 4  # one scene in so many belongs to the test split


class DrawnShapesBank:
    """Generated questions; `bank[i]` depends on split and index (and, in train, on subset_seed) and on nothing else.

    Kinds and answers come in shuffled blocks: each kind is asked once in len(kinds) questions in a row, and within a
    kind each answer once in len(answers). Every scene belongs to one split by its digest, so that train and test
    never share a picture. The kind of question does not follow from `index % num_wordings`. `transforms` narrows what
    a kind allows.
    """

    name = "DrawnShapes-v0"

    def __init__(
        self,
        split: str,
        kinds: Sequence[str] = ("counting", "color", "form"),
        image_size: int = 42,
        num_questions: int | None = None,
        num_wordings: int | None = None,
        *,
        offset: int = 0,
        subset_seed: int = 0,
        transforms: Sequence[str] | None = None,
    ) -> None:
        if split not in SPLIT_SIZES:
            raise UserError(f"DrawnShapes-v0 has the splits train and test, not {split!r}")
        self.split = split
        self.kinds = expand_kinds(kinds)
        self.image_size = image_size
        self.num_wordings = num_wordings
        self._wanted = transforms
        self._offset = offset
        self._length = SPLIT_SIZES[split] if num_questions is None else num_questions
        self._stream = f"{split}-{subset_seed}" if split == "train" and subset_seed else split

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> SeedQuestion:
        if not 0 <= index < self._length:
            raise IndexError(f"question {index} of {self._length}")
        position = index + self._offset
        block, place = divmod(position, len(self.kinds))
        name = self._shuffled(self.kinds, "kinds", block)[place]
        kind = KINDS[name]
        cycle, turn = divmod(block, len(kind.answers))
        answer = self._shuffled(kind.answers, name, cycle)[turn]
        return self._question(f"{self._stream}-{position}", name, answer, self._draw(kind, name, answer, position))

    def _shuffled(self, values: tuple[str, ...], *stream: str | int) -> list[str]:
        return _shuffled(values, self._stream, *stream)

    def _draw(self, kind: Kind, name: str, answer: str, position: int) -> Drawing:
        """The first scene of this question's stream that belongs to this split."""
        random = Random(derive_seed("drawn_shapes", self._stream, name, position))
        while True:
            drawing = kind.draw(random, answer)
            if (scene_digest(drawing.figures) % TEST_SHARE == 0) == (self.split == "test"):
                return drawing

    def _question(self, question_id: str, name: str, answer: str, drawing: Drawing) -> SeedQuestion:
        kind = KINDS[name]
        wordings = [text.format(**drawing.words) for text in kind.wordings[: self.num_wordings]]
        return SeedQuestion(
            id=question_id,
            question=wordings[0],
            answer=answer,
            images=(DrawnImage(drawing.figures, self.image_size, name=f"drawn shapes {question_id}"),),
            variants=tuple(wordings[1:]),
            answer_type=kind.answer_type,
            key_steps=drawing.steps,
            task="drawn_shapes",
            subtask=name,
            transforms=tuple(t for t in kind.transforms if self._wanted is None or t in self._wanted),
        )


@lru_cache(maxsize=4096)  # the questions of a block share its order
def _shuffled(values: tuple[str, ...], *stream: str | int) -> list[str]:
    return Random(derive_seed("drawn_shapes", stream[0], "order", *stream[1:])).sample(values, len(values))


def expand_kinds(names: Sequence[str]) -> tuple[str, ...]:
    """Kinds of question, groups of them spelled out, each once; UserError where a name is unknown or none is given."""
    known = [*KINDS, *KIND_GROUPS]
    for name in names:
        if name not in known:
            close = get_close_matches(str(name), known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known kinds: {', '.join(known)}"
            raise UserError(f"env_config.kinds: unknown kind of question {name!r}; {hint}")
    if not names:
        raise UserError(f"env_config.kinds: name at least one kind of question: {', '.join(known)}")
    return tuple(dict.fromkeys(kind for name in names for kind in KIND_GROUPS.get(name, (name,))))
