"""`MultimodalQA-v0`: any data set by path, nothing assumed about it."""

from __future__ import annotations

from sharegrpo_rl.envs.file_task import FileTask


class AnyDatasetEnv(FileTask):
    """Questions of any data set; the type of each answer is told from the row or from the answer itself."""

    id = "MultimodalQA-v0"
