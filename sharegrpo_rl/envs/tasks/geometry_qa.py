"""`GeometryQA-v0`: plane geometry with a diagram; answers are numbers, closed forms too, or choices."""

from __future__ import annotations

from sharegrpo_rl.data.transforms import DEFAULT_TRANSFORMS
from sharegrpo_rl.envs.file_task import FileTask


class GeometryQAEnv(FileTask):
    """Geometry problems: noise only, since turned and mirrored letters would make the diagram another one."""

    id = "GeometryQA-v0"
    answer_type = "numeric"
    transforms = DEFAULT_TRANSFORMS
