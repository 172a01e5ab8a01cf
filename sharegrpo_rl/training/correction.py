"""The importance correction of a minibatch: computed once under each completion's own prompt, reused for its copies."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sharegrpo_rl.data.types import Completion, PromptPack
from sharegrpo_rl.ops.importance_correction import correction_weights
from sharegrpo_rl.training.settings import TrainingSettings

MicroBatch = Sequence[PromptPack]


class Correction:
    """Weights [T] of every native completion of an update, found again by the completion itself."""

    def __init__(self, settings: TrainingSettings) -> None:
        self.settings = settings
        self._weights: dict[int, Tensor] = {}
        self._kept: list[Completion] = []  # an id is only good while its object lives
        self._sum = self._count = 0.0

    def add(self, micro: MicroBatch, old_logprobs: Tensor) -> None:
        """Take the native completions of a micro-batch; old_logprobs flat [N], in the packs' order."""
        completions = [c for p in micro for c in p.completions]
        native = [bool(n) for p in micro for n in p.native]
        parts = list(old_logprobs.split([len(c.token_ids) for c in completions]))
        rows = [(c, old) for c, old, own in zip(completions, parts, native, strict=True) if own]
        if not rows:
            return
        old = pad_sequence([o.float() for _, o in rows], batch_first=True)
        sampler = pad_sequence([torch.from_numpy(c.sampler_logprobs).to(old) for c, _ in rows], batch_first=True)
        lengths = torch.tensor([len(c.token_ids) for c, _ in rows], device=old.device)
        mask = torch.arange(old.shape[1], device=old.device)[None] < lengths[:, None]
        s = self.settings
        weights = correction_weights(old, sampler, mask, s.correction, s.importance_level, s.importance_cap)
        for (completion, _), row, length in zip(rows, weights, lengths.tolist(), strict=True):
            self._weights[id(completion)] = row[:length]
            self._kept.append(completion)
        self._sum += float((weights * mask).sum())
        self._count += float(mask.sum())

    def of(self, micro: MicroBatch) -> Tensor:
        """Weights of a micro-batch's tokens, flat [N].

        Packs without any advantage are not run, so a copy of their completions may have no weight; its advantage is 0
        too, and it gets 1. Raises KeyError where one with an advantage has none.
        """
        parts = []
        for pack in micro:
            for completion, advantage in zip(pack.completions, pack.advantages, strict=True):
                weight = self._weights.get(id(completion))
                if weight is None and advantage != 0:
                    raise KeyError(f"no importance correction for a completion of group {pack.group}")
                parts.append(torch.ones(len(completion.token_ids)) if weight is None else weight)
        device = next((w.device for w in self._weights.values()), torch.device("cpu"))
        return torch.cat([part.to(device) for part in parts])

    @property
    def mean(self) -> float:
        """Mean weight of the native tokens."""
        return self._sum / self._count if self._count else 1.0
