"""The loss of a micro-batch of packs: flat token log-probs -> padded rows -> the pure functions of `ops/`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sharegrpo_rl.config.run import TrainingSettings
from sharegrpo_rl.data.types import PromptPack
from sharegrpo_rl.ops.policy_loss import Denominator, clipped_surrogate, importance_ratio, kl_estimate, token_weights


class Rows(NamedTuple):
    """A micro-batch's completions as rows: lengths of B completions, mask [B, T], advantages [B], native [B]."""

    lengths: list[int]
    mask: Tensor
    advantages: Tensor
    native: Tensor

    def pad(self, flat: Tensor) -> Tensor:
        """Flat tokens [N] -> [B, T], zeros behind each completion."""
        return pad_sequence(list(flat.split(self.lengths)), batch_first=True)


def rows_of(packs: Sequence[PromptPack], settings: TrainingSettings, like: Tensor, fillers: int = 0) -> Rows:
    """The rows of some packs, on the device and in the precision of `like` (their log-probs).

    Truncated completions are masked out where `mask_truncated` says so, and those of the last `fillers` packs always.
    """
    completions = [c for p in packs for c in p.completions]
    lengths = [len(c.token_ids) for c in completions]
    real = sum(len(p.completions) for p in packs[: len(packs) - fillers])
    kept = torch.tensor([i < real and not (settings.mask_truncated and c.truncated) for i, c in enumerate(completions)])
    mask = (torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]) & kept[:, None]
    advantages = torch.from_numpy(np.concatenate([p.advantages for p in packs]))
    native = torch.from_numpy(np.concatenate([p.native for p in packs]))
    return Rows(lengths, mask.to(like.device), advantages.to(like), native.to(like.device))


def count(packs: Sequence[PromptPack], settings: TrainingSettings) -> Denominator:
    """What the minibatch's losses are divided by: its trained completions and their tokens, counted before any cut."""
    sequences = tokens = 0
    for pack in packs:
        for completion, advantage in zip(pack.completions, pack.advantages, strict=True):
            if settings.mask_truncated and completion.truncated:
                continue
            if settings.exclude_zero_advantage and advantage == 0:
                continue
            sequences += 1
            tokens += len(completion.token_ids)
    return Denominator(max(1, sequences), max(1, tokens), settings.max_completion_tokens)


def policy_loss(
    rows: Rows,
    logprobs: Tensor,
    old_logprobs: Tensor,
    ref_logprobs: Tensor | None,
    denominator: Denominator,
    settings: TrainingSettings,
    kl_weight: float = 0.0,
    correction: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """This micro-batch's part of the minibatch loss, and sums for logging. All log-probs and `correction` flat [N].

    KL is taken on native completions only unless `kl_on_shared`: its estimator needs samples of that very prompt.
    """
    new, old = rows.pad(logprobs), rows.pad(old_logprobs)
    ratio = importance_ratio(new, old, rows.mask, settings.ratio_level)
    objective, stats = clipped_surrogate(
        ratio, rows.advantages, settings.clip_low, settings.clip_high, settings.dual_clip
    )
    weights = token_weights(rows.mask, settings.loss_aggregation, denominator, settings.ratio_level, objective.dtype)
    if correction is not None:
        weights = weights * rows.pad(correction)
    surrogate = -(objective * weights).sum()
    kl = logprobs.new_zeros(())
    if ref_logprobs is not None:
        where = rows.mask if settings.kl_on_shared else rows.mask & rows.native[:, None]
        estimate = kl_estimate(new, rows.pad(ref_logprobs), settings.kl_estimator)
        kl = (estimate * weights * where).sum()
    loss = surrogate + kl_weight * kl
    native = rows.mask & rows.native[:, None]
    with torch.no_grad():
        sums = {
            "policy_loss": surrogate.item(),
            "kl": kl.item(),
            "tokens": rows.mask.sum().item(),
            "native_tokens": native.sum().item(),
            "ratio": (stats.ratio * rows.mask).sum().item(),
            "clipped_low": (stats.clipped_low & rows.mask).sum().item(),
            "clipped_high": (stats.clipped_high & rows.mask).sum().item(),
            "clipped_dual": (stats.clipped_dual & rows.mask).sum().item(),
        }
        deviation = ((stats.ratio - 1).abs() * native).max().item()
    return loss, {**sums, "ratio_max_deviation": deviation}


def supervised_loss(
    rows: Rows, logprobs: Tensor, denominator: Denominator, settings: TrainingSettings
) -> tuple[Tensor, dict[str, float]]:
    """This micro-batch's part of the mean negative log-likelihood of the completions; logprobs flat [N]."""
    new = rows.pad(logprobs)
    loss = -(new * token_weights(rows.mask, settings.loss_aggregation, denominator, dtype=new.dtype)).sum()
    tokens = rows.mask.sum().item()
    return loss, {"policy_loss": loss.item(), "tokens": tokens, "native_tokens": tokens, "ratio": tokens}
