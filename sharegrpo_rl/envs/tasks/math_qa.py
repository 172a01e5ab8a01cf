"""`MathQA-v0`: mathematics with images or without; any answer that can be graded."""

from __future__ import annotations

from sharegrpo_rl.data.transforms import DEFAULT_TRANSFORMS
from sharegrpo_rl.envs.file_task import FileTask


class MathQAEnv(FileTask):
    """Mathematical problems: expressions, numbers, words or choices as answers; noise is the only transform."""

    id = "MathQA-v0"
    transforms = DEFAULT_TRANSFORMS
