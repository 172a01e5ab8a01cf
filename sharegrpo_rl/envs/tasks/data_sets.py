"""`VisualCounting-v0`: how many things an image shows; every answer is a whole number."""

from __future__ import annotations

from sharegrpo_rl.data.transforms import DEFAULT_TRANSFORMS, TRANSFORMS
from sharegrpo_rl.data.types import SeedQuestion
from sharegrpo_rl.envs.file_task import FileTask
from sharegrpo_rl.errors import UserError

# ---- `GeometryQA-v0`: plane geometry with a diagram; answers are numbers, closed forms too, or choices.


class GeometryQAEnv(FileTask):
    """Geometry problems: noise only, since turned and mirrored letters would make the diagram another one."""

    id = "GeometryQA-v0"
    answer_type = "numeric"
    transforms = DEFAULT_TRANSFORMS


# ---- `MathQA-v0`: mathematics with images or without; any answer that can be graded.


class MathQAEnv(FileTask):
    """Mathematical problems: expressions, numbers, words or choices as answers; noise is the only transform."""

    id = "MathQA-v0"
    transforms = DEFAULT_TRANSFORMS


# ---- `MultimodalQA-v0`: any data set by path, nothing assumed about it.


class AnyDatasetEnv(FileTask):
    """Questions of any data set; the type of each answer is told from the row or from the answer itself."""

    id = "MultimodalQA-v0"


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
