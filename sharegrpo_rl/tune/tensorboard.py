"""TensorBoard events: the result tree's numbers under their flat names, and pictures of sampled groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sharegrpo_rl.data.types import Group, PromptPack, SeedQuestion
from sharegrpo_rl.tune.rollout_picture import draw_group
from sharegrpo_rl.tune.run_folder import storage_errors

# Clocks and bookkeeping that Tune leaves out of the curves too.
LEFT_OUT = {"training_iteration", "timestamp", "pid", "iterations_since_restore", "time_since_restore", "config"}


def flat_scalars(tree: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The finite numbers of a nested result as `part/part/name`."""
    flat: dict[str, float] = {}
    for key, value in tree.items():
        if not prefix and key in LEFT_OUT:
            continue
        if isinstance(value, Mapping):
            flat |= flat_scalars(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat[f"{prefix}{key}"] = float(value)
    return flat


class TensorBoardLog:
    """Writes one run's events; `first_step` hides what a killed process wrote for iterations that are run again."""

    def __init__(self, folder: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder = folder
        with storage_errors(folder):
            self._writer = SummaryWriter(str(folder), purge_step=first_step, max_queue=200)

    def scalars(self, tree: Mapping[str, Any], step: int) -> None:
        """All numbers of a result tree."""
        with storage_errors(self._folder):
            for tag, value in flat_scalars(tree).items():
                self._writer.add_scalar(tag, value, step)

    def groups(self, groups: Sequence[Group], question: Callable[[int], SeedQuestion], step: int) -> None:
        """A picture of each group, its completions and rewards beside the question."""
        with storage_errors(self._folder):
            for place, group in enumerate(groups):
                picture = np.asarray(draw_group(group, question(group.question_index)))
                self._writer.add_image(f"rollouts/question_{place}", picture, step, dataformats="HWC")

    def advantages(self, plain: Sequence[PromptPack], trained: Sequence[PromptPack], step: int) -> None:
        """Histograms of every pair's advantage: as plain GRPO gives it, and as it was trained."""
        with storage_errors(self._folder):
            for name, packs in (("before_sharing", plain), ("after_sharing", trained)):
                if packs:
                    self._writer.add_histogram(
                        f"advantages/{name}", np.concatenate([p.advantages for p in packs]), step
                    )

    def flush(self) -> None:
        with storage_errors(self._folder):
            self._writer.flush()

    def close(self) -> None:
        self._writer.close()
