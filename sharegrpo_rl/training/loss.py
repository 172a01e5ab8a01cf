"""The loss of a micro-batch of packs: flat token log-probs -> padded rows -> a loss function -> one weighted sum."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sharegrpo_rl.config.run import GRPOOptions, RunOptions
from sharegrpo_rl.data.types import PromptPack
from sharegrpo_rl.ops.policy_loss import Denominator, clipped_surrogate, importance_ratio, kl_estimate, token_weights


class LossInputs(NamedTuple):
    """What a loss function sees: B completions of at most T tokens, zeros behind each. All are `[B, T]`.

    logprobs: by the policy now, with gradient; old_logprobs: by the policy that sampled, or at the start of the update.
    advantages: the completion's credit, the same at each of its tokens; mask: True where a token is trained on.
    native: True where the completion was sampled from this very prompt, False where it is shared from a sibling's.
    """

    logprobs: Tensor
    old_logprobs: Tensor
    advantages: Tensor
    mask: Tensor
    native: Tensor


LossFunction = Callable[[LossInputs, Any], tuple[Tensor, Mapping[str, Tensor]]]
"""`f(batch, options) -> (loss [B, T] of each token, statistics)`, to be minimised. `options` are the run's.

Statistics are `[B, T]` tensors without gradient. `ratio`, `clipped_low`, `clipped_high` and `clipped_dual` are logged as
`ratio_mean`, `ratio_max_deviation` and `clip_fraction_*`, any other under its own name, as its mean over trained tokens.
Masking, aggregation, the correction for the sampler, the KL to the reference and the denominator are added by the step.
"""


def clipped(batch: LossInputs, options: GRPOOptions) -> tuple[Tensor, dict[str, Tensor]]:
    """The clipped surrogate of PPO, GRPO and Share-GRPO (S2, S8)."""
    ratio = importance_ratio(batch.logprobs, batch.old_logprobs, batch.mask, options.ratio_level)
    objective, stats = clipped_surrogate(
        ratio, batch.advantages[:, 0], options.clip_low, options.clip_high, options.dual_clip
    )
    return -objective, stats._asdict()


def likelihood(batch: LossInputs, options: RunOptions) -> tuple[Tensor, dict[str, Tensor]]:
    """The negative log-likelihood of supervised fine-tuning."""
    return -batch.logprobs, {}


class Rows(NamedTuple):
    """A micro-batch's completions as rows: lengths and groups of B completions, mask [B, T], advantages [B], native [B]."""

    lengths: list[int]
    groups: list[int]
    mask: Tensor
    advantages: Tensor
    native: Tensor

    def pad(self, flat: Tensor) -> Tensor:
        """Flat tokens [N] -> [B, T], zeros behind each completion."""
        return pad_sequence(list(flat.split(self.lengths)), batch_first=True)


def rows_of(packs: Sequence[PromptPack], options: RunOptions, like: Tensor, fillers: int = 0) -> Rows:
    """The rows of some packs, on the device and in the precision of `like` (their log-probs).

    Truncated completions are masked out where `mask_truncated` says so, and those of the last `fillers` packs always.
    """
    completions = [c for p in packs for c in p.completions]
    lengths = [len(c.token_ids) for c in completions]
    real = sum(len(p.completions) for p in packs[: len(packs) - fillers])
    kept = torch.tensor([i < real and options.trains_on(c.truncated) for i, c in enumerate(completions)])
    mask = (torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]) & kept[:, None]
    advantages = torch.from_numpy(np.concatenate([p.advantages for p in packs]))
    native = torch.from_numpy(np.concatenate([p.native for p in packs]))
    groups = [p.group for p in packs for _ in p.completions]
    return Rows(lengths, groups, mask.to(like.device), advantages.to(like), native.to(like.device))


def count(packs: Sequence[PromptPack], options: RunOptions) -> Denominator:
    """What the minibatch's losses are divided by: its trained completions and their tokens, counted before any cut."""
    return _counted(packs, options, lambda pack, i: options.counts(pack.completions[i].truncated, pack.advantages[i]))


def count_kl(packs: Sequence[PromptPack], options: GRPOOptions) -> Denominator:
    """What the minibatch's KL is divided by: the completions that carry one, whatever their advantage."""

    def carries(pack: PromptPack, i: int) -> bool:
        return options.trains_on(pack.completions[i].truncated) and (options.kl_on_shared or bool(pack.native[i]))

    return _counted(packs, options, carries)


def _counted(
    packs: Sequence[PromptPack], options: RunOptions, counts: Callable[[PromptPack, int], bool]
) -> Denominator:
    tokens, of_question = 0, Counter[int]()
    for pack in packs:
        for i, completion in enumerate(pack.completions):
            if counts(pack, i):
                of_question[pack.group] += 1
                tokens += len(completion.token_ids)
    sequences = max(1, of_question.total())
    return Denominator(sequences, max(1, tokens), options.max_completion_tokens, dict(of_question))


def weighted_loss(
    function: LossFunction,
    rows: Rows,
    logprobs: Tensor,
    old_logprobs: Tensor,
    denominator: Denominator,
    options: RunOptions,
    *,
    ref_logprobs: Tensor | None = None,
    kl_denominator: Denominator | None = None,
    kl_weight: float = 0.0,
    correction: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """This micro-batch's part of the minibatch's loss, and sums over its tokens for logging.

    All log-probs and `correction` are flat [N].
    KL is taken on native completions only unless `kl_on_shared`: its estimator needs samples of that very prompt. Its mean
    is over the completions that carry it, so that its weight means the same with shared completions as without.
    """
    batch = LossInputs(
        rows.pad(logprobs),
        rows.pad(old_logprobs),
        rows.advantages[:, None].expand(rows.mask.shape),
        rows.mask,
        rows.native[:, None].expand(rows.mask.shape),
    )
    losses, stats = function(batch, options)
    if losses.shape != batch.mask.shape:
        name = f"loss {getattr(function, '__name__', function)}"
        raise ValueError(f"{name}: one value for each token is needed, {[*batch.mask.shape]}, not {[*losses.shape]}")
    corrected = 1.0 if correction is None else rows.pad(correction)

    def weights(mask: Tensor, counted: Denominator) -> Tensor:
        by_token = token_weights(mask, options.loss_aggregation, counted, options.level, losses.dtype, rows.groups)
        return by_token * corrected

    policy_loss = (losses * weights(batch.mask, denominator)).sum()
    kl = logprobs.new_zeros(())
    if ref_logprobs is not None:
        assert isinstance(options, GRPOOptions)  # no other method has a reference
        assert kl_denominator is not None
        where = batch.mask if options.kl_on_shared else batch.mask & batch.native
        estimate = kl_estimate(batch.logprobs, rows.pad(ref_logprobs), options.kl_estimator)
        kl = (estimate * weights(where, kl_denominator)).sum()
    sums = {"policy_loss": policy_loss.item(), "kl": kl.item()}
    return policy_loss + kl_weight * kl, sums | _token_sums(stats, batch)


@torch.no_grad()
def _token_sums(stats: Mapping[str, Tensor], batch: LossInputs) -> dict[str, float]:
    """Sums of the statistics over trained tokens; without a `ratio` the policy counts as the one that sampled."""
    tokens = batch.mask.sum().item()
    sums = {"tokens": tokens, "ratio": tokens}
    sums |= {name: (values * batch.mask).sum().item() for name, values in stats.items()}
    if "ratio" in stats:
        native = batch.mask & batch.native
        sums["ratio_max_deviation"] = ((stats["ratio"] - 1).abs() * native).max().item()
    return sums
