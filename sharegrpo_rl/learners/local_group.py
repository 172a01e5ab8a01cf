"""The LearnerGroup: takes prompt packs instead of episodes. One Learner, in the driver."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.utils.annotations import override

from sharegrpo_rl.data.types import PixelInput, Prompt, PromptPack
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.learners.learner import SHARDS, VLMLearner, export, has_checkpoint, read_checkpoint, write_checkpoint
from sharegrpo_rl.models.loading import parameter_table


class VLMLearnerGroup(LearnerGroup):
    """RLlib's group with `update(packs)`; state, weights and checkpoints are RLlib's."""

    def __init__(self, *, config: Any, **kwargs: Any) -> None:
        if config.num_learners:
            raise UserError(
                "num_learners: remote learners live in a TrainLearnerGroup; config.build_learner_group() makes it"
            )
        super().__init__(config=config, **kwargs)

    @property
    def local_learner(self) -> VLMLearner:
        """The Learner of this process."""
        return self._learner

    @override(LearnerGroup)
    def update(self, packs: Sequence[PromptPack], **kwargs: Any) -> dict[str, float]:
        """Train on the packs; pixels that env runners left in the object store are fetched here."""
        return self.local_learner.update_packs(fetch_pixels(packs))

    def reference_kl(self, packs: Sequence[PromptPack]) -> tuple[float, list[np.ndarray]]:
        """The KL's weight at the next optimizer step, and each pack's summed KL by completion, [G] nats."""
        return self.local_learner.reference_kl(fetch_pixels(packs))

    def parameter_table(self) -> list[tuple[str, int, int]]:
        """(part, parameters, trainable parameters) of the model."""
        return parameter_table(self.local_learner.rl_module.model)

    def export(self, folder: Path) -> None:
        """The model as a Hugging Face folder with `sharegrpo_rl.json`."""
        export(self.local_learner, folder)

    # ---- checkpoints

    @override(LearnerGroup)
    def save_to_path(self, path: Any = None, **kwargs: Any) -> str:
        """Shards that any number of learners can go on from, and a Hugging Face folder."""
        shutil.rmtree(Path(path) / SHARDS, ignore_errors=True)  # of an attempt before
        self._write(Path(path).absolute())
        return str(path)

    @override(LearnerGroup)
    def restore_from_path(self, path: Any, *args: Any, **kwargs: Any) -> None:
        """Take up the checkpoint of any number of learners, or one in RLlib's own form."""
        if has_checkpoint(Path(path)):
            self._read(Path(path).absolute())
        else:
            super().restore_from_path(path, *args, **kwargs)

    def _write(self, folder: Path) -> None:
        write_checkpoint(self.local_learner, folder)

    def _read(self, folder: Path) -> None:
        read_checkpoint(self.local_learner, folder)

    # ---- weights for those who generate

    @property
    def weights_version(self) -> int:
        """How many updates the weights have seen."""
        return self.local_learner._weights_seq_no

    def module_state(self) -> ray.ObjectRef:
        """The module's whole state, as an env runner's `set_state` takes it."""
        return ray.put({DEFAULT_MODULE_ID: self.local_learner.rl_module.get_state()})

    def weight_parts(self, everything: bool) -> Iterator[tuple[ray.ObjectRef, bool]]:
        """Buckets (name -> array) of what training changes, or of `everything`, and whether each is the last: so much
        lies in the object store at a time."""
        for arrays, last in self.local_learner.weight_parts(everything):
            yield ray.put(arrays), last


def fetch_pixels(packs: Sequence[PromptPack]) -> list[PromptPack]:
    """The packs with every object reference replaced by its pixels, each distinct picture fetched once."""
    refs = {i.key: i.tensors for p in packs for i in p.prompt.images if isinstance(i.tensors, ray.ObjectRef)}
    if not refs:
        return list(packs)
    tensors = dict(zip(refs, ray.get(list(refs.values())), strict=True))

    def filled(prompt: Prompt) -> Prompt:
        return replace(prompt, images=tuple(PixelInput(i.key, tensors.get(i.key, i.tensors)) for i in prompt.images))

    return [replace(p, prompt=filled(p.prompt)) for p in packs]
