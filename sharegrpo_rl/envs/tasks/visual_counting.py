"""`VisualCounting-v0`: how many things an image shows; every answer is a whole number."""

from __future__ import annotations

from sharegrpo_rl.data.transforms import TRANSFORMS
from sharegrpo_rl.data.types import SeedQuestion
from sharegrpo_rl.envs.file_task import FileTask
from sharegrpo_rl.errors import UserError


class VisualCountingEnv(FileTask):
    """Counting questions: turned, mirrored or noisy images hold as many things, unless the text speaks of places."""

    id = "VisualCounting-v0"
    answer_type = "numeric"
    transforms = tuple(TRANSFORMS)

    @classmethod
    def check(cls, question: SeedQuestion) -> None:
        """The answer must be a whole number, zero or more."""
        if not question.answer.strip().isdecimal():
            raise UserError(
                f"the answer {question.answer!r} is not a whole number, as {cls.id} wants it; "
                "drop the row, choose env_config.kinds, or use MultimodalQA-v0"
            )
        super().check(question)
