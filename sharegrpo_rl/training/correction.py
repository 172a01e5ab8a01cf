"""The importance correction of an update: computed once under each completion's own prompt, reused for its copies."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sharegrpo_rl.data.types import Completion
from sharegrpo_rl.ops.importance_correction import correction_weights
from sharegrpo_rl.training.ranks import Ranks
from sharegrpo_rl.training.settings import TrainingSettings
from sharegrpo_rl.training.shares import MicroBatch, UpdateShare

_UNKNOWN = -1.0  # weights are not negative


class Correction:
    """The weight of every token of an update's distinct completions, from the rank that trains the native one."""

    def __init__(self, settings: TrainingSettings, share: UpdateShare, ranks: Ranks) -> None:
        self.settings = settings
        self.ranks = ranks
        self._starts = share.starts
        self._weights = torch.full((share.tokens,), _UNKNOWN, device=ranks.device)
        self._sum = self._count = 0.0

    def add(self, micro: MicroBatch, old_logprobs: Tensor) -> None:
        """Take the native completions of a micro-batch; old_logprobs flat [N], in the packs' order."""
        lengths = [len(c.token_ids) for p in micro.packs for c in p.completions]
        native = [bool(n) and i < len(micro.packs) - micro.fillers for i, p in enumerate(micro.packs) for n in p.native]
        parts = zip(_placed(micro), old_logprobs.split(lengths), native, strict=True)
        rows = [(pair, completion, old.float()) for (pair, completion, _), old, own in parts if own]
        if not rows:
            return
        old = pad_sequence([o for _, _, o in rows], batch_first=True)
        sampler = pad_sequence([torch.tensor(c.sampler_logprobs).to(old) for _, c, _ in rows], batch_first=True)
        sizes = [len(c.token_ids) for _, c, _ in rows]
        mask = torch.arange(old.shape[1], device=old.device)[None] < torch.tensor(sizes, device=old.device)[:, None]
        s = self.settings
        weights = correction_weights(old, sampler, mask, s.correction, s.importance_level, s.importance_cap)
        for (pair, _, _), row, size in zip(rows, weights, sizes, strict=True):
            self._of(pair, size).copy_(row[:size])
        self._sum += float((weights * mask).sum())
        self._count += float(mask.sum())

    def exchange(self) -> None:
        """Tell all ranks: a completion's copies may be trained elsewhere. Collective, after the last `add`."""
        self.ranks.largest(self._weights)
        self._sum, self._count = self.ranks.sum([self._sum, self._count])

    def of(self, micro: MicroBatch) -> Tensor:
        """Weights of a micro-batch's tokens, flat [N].

        Packs without any advantage are not run, so a copy of their completions may have no weight; its advantage is 0
        too, and it gets 1. Raises KeyError where one with an advantage has none.
        """
        parts = []
        for pair, completion, advantage in _placed(micro):
            weights = self._of(pair, len(completion.token_ids))
            if bool((weights == _UNKNOWN).any()):
                if advantage != 0:
                    raise KeyError(f"no importance correction for pair {pair} of the update")
                weights = torch.ones_like(weights)
            parts.append(weights)
        return torch.cat(parts)

    @property
    def mean(self) -> float:
        """Mean weight of the native tokens."""
        return self._sum / self._count if self._count else 1.0

    def _of(self, pair: int, length: int) -> Tensor:
        start = int(self._starts[pair])
        return self._weights[start : start + length]


def _placed(micro: MicroBatch) -> Iterator[tuple[int, Completion, float]]:
    """(pair, completion, advantage) of a micro-batch, in order."""
    pairs = iter(micro.pairs)
    for pack in micro.packs:
        for completion, advantage in zip(pack.completions, pack.advantages, strict=True):
            yield next(pairs), completion, float(advantage)
