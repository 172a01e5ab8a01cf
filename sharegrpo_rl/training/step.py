"""From packs to optimizer steps, without Ray: epochs x minibatches x micro-batches under one global denominator."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from sharegrpo_rl.config.registry import LOSSES
from sharegrpo_rl.config.run import GRPOOptions, RunOptions
from sharegrpo_rl.data.types import Completion, PromptPack
from sharegrpo_rl.errors import NotFiniteError
from sharegrpo_rl.models.policy import AdaptersOff, Policy
from sharegrpo_rl.models.vision import ImageBank, count_distinct
from sharegrpo_rl.ops.policy_loss import correction_weights, kl_estimate
from sharegrpo_rl.training.batching import MicroBatch, Minibatch, UpdateShare, gather_kl, plan_kl, plan_update
from sharegrpo_rl.training.loss import rows_of, weighted_loss
from sharegrpo_rl.training.optimizer import build_optimizer, set_learning_rate
from sharegrpo_rl.training.sharding import Ranks, full_tensor, sum_gradients, total_norm

SUMS = (
    "policy_loss",
    "kl",
    "tokens",
    "entropy",
    "ratio",
    "clipped_low",
    "clipped_high",
    "clipped_dual",
    "encoded_images",
)


class UpdateLog:
    """Sums over one rank's micro-batches and optimizer steps; `metrics` adds up those of all ranks."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = defaultdict(float)
        self.norms: list[float] = []
        self.lr = self.kl_coeff = math.nan  # of the last optimizer step
        self.deviation = 0.0
        self.gaps: list[Tensor] = []

    def add(self, sums: dict[str, float]) -> None:
        """Add a micro-batch's sums; of the ratio's deviation the largest is kept."""
        for key, value in sums.items():
            if key == "ratio_max_deviation":
                self.deviation = max(self.deviation, value)
            else:
                self.sums[key] += value

    def step(self, lr: float, norm: float, kl_coeff: float) -> None:
        """Note an optimizer step: its learning rate, the norm of its gradient, the KL's weight."""
        self.lr, self.kl_coeff = lr, kl_coeff
        self.norms.append(norm)

    def check_logits(self, ranks: Ranks) -> None:
        """NotFiniteError on every rank where one of them had logits that are not finite, and so an entropy. Collective."""
        if ranks.max([float(not math.isfinite(self.sums["entropy"]))])[0]:
            raise NotFiniteError.of("the logits are")

    def sampler_gap(self, micro: MicroBatch, logprobs: Tensor) -> None:
        """|trainer - sampler| log-prob of native tokens, taken before the first optimizer step."""
        real = len(micro.packs) - micro.fillers
        sampler = np.concatenate([c.sampler_logprobs for p in micro.packs for c in p.completions])
        native = np.concatenate(
            [
                np.repeat(p.native & (i < real and p.sampled), [len(c.token_ids) for c in p.completions])
                for i, p in enumerate(micro.packs)
            ]
        )
        gap = (logprobs.float().cpu() - torch.from_numpy(sampler)).abs()
        self.gaps.append(gap[torch.from_numpy(native)])

    def metrics(self, ranks: Ranks) -> dict[str, float]:
        """The update's figures; entropy, ratio and clip fractions are means over trained tokens. Collective."""
        gaps = torch.cat(self.gaps) if self.gaps else torch.zeros(0)
        gap_sum = gaps.mean().item() * len(gaps) if len(gaps) else 0.0
        own_statistics = sorted(set(self.sums) - set(SUMS))  # of the loss; the same on every rank
        names = [*SUMS, *own_statistics]
        *added, gap_sum, gap_count = ranks.sum([*(self.sums[k] for k in names), gap_sum, len(gaps)])
        deviation, gap_max = ranks.max([self.deviation, gaps.max().item() if len(gaps) else 0.0])
        sums = dict(zip(names, added, strict=True))
        # Figures of an update that trained nothing are NaN, null in result.json: a 0 would be drawn and averaged.
        trained = sums["tokens"] > 0
        steps, tokens = (len(self.norms), sums["tokens"]) if trained else (math.nan, math.nan)
        return {name: sums[name] / tokens for name in own_statistics} | {
            "policy_loss": sums["policy_loss"] / steps,
            "kl": sums["kl"] / steps,
            "entropy": sums["entropy"] / tokens,
            "ratio_mean": sums["ratio"] / tokens,
            "ratio_max_deviation": deviation if trained else math.nan,
            "clip_fraction_low": sums["clipped_low"] / tokens,
            "clip_fraction_high": sums["clipped_high"] / tokens,
            "clip_fraction_dual": sums["clipped_dual"] / tokens,
            "encoded_images": sums["encoded_images"],
            "grad_norm": sum(self.norms) / steps,
            "lr": self.lr,
            "kl_coeff": self.kl_coeff,
            "logprob_diff_mean": gap_sum / (gap_count or math.nan),
            "logprob_diff_max": gap_max if gap_count else math.nan,
        }


class TrainingStep:
    """Owns the optimizer of a policy and updates it on packs. `reference` is the frozen policy of the KL term.

    With several ranks each runs its share of `plan_update`, and `run`, `kl_of` are collective. Policies that are to be
    sharded are sharded first.
    """

    def __init__(
        self,
        policy: Policy,
        options: RunOptions,
        reference: Policy | AdaptersOff | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        if options.uses_reference and reference is None:
            raise ValueError("a KL term needs a reference policy")
        self.loss_function = LOSSES.load(options.loss)
        self.policy = policy
        self.options = options
        self.reference = reference
        self.ranks = ranks or Ranks.current()
        self.optimizer = build_optimizer(policy.model, options)
        self.optimizer_steps = 0
        self.skipped_steps = 0
        self.on_progress: Callable[[str], None] | None = None  # called with where it is, before each pass
        # With replay, of the last update: log-probs by the policy before it, for each pair of this rank that was sampled
        # from its own prompt.
        self.sampled_logprobs: dict[int, np.ndarray] = {}

    def update(self, packs: Sequence[PromptPack]) -> dict[str, float]:
        """Train on the packs, alone; returns the metrics of the update (means over its optimizer steps)."""
        return self.run(plan_update(packs, self.options, 1, not self.policy.shares_prefix)[0])

    def run(self, share: UpdateShare) -> dict[str, float]:
        """Train on this rank's share of an update; returns the metrics of the whole update, on every rank."""
        self.policy.model.train()
        log = UpdateLog()
        batches = [MinibatchState(b) for b in share.minibatches]
        correction = self._prepare(batches, share)
        for epoch in range(self.options.num_epochs):
            for batch in batches:
                self._optimizer_step(batch, log, correction, first=epoch == 0 and batch is batches[0])
        self.sampled_logprobs = _by_pair(batches) if self.options.replays else {}
        return log.metrics(self.ranks) | {
            "optimizer_steps": self.optimizer_steps,
            "skipped_steps": self.skipped_steps,
            "packs": share.num_packs,
            "pairs": len(share.starts),
            "skipped_packs": share.skipped_packs,
            "correction_mean": correction.mean if correction else 1.0,
        }

    def reference_kl(self, packs: Sequence[PromptPack]) -> list[np.ndarray]:
        """For each pack the summed KL estimate of each completion, [G] nats: what `kl_in_reward: True` takes off."""
        return gather_kl(packs, [self.kl_of(plan_kl(packs, self.options, 1, not self.policy.shares_prefix)[0])])

    @torch.no_grad()
    def kl_of(self, share: UpdateShare) -> dict[int, float]:
        """The summed KL estimate, in nats, of each pair of this rank's share of `plan_kl`."""
        assert self.reference is not None
        self.policy.model.train()
        batches = [micro for batch in share.minibatches for micro in batch.micro]
        banks = [_bank(policy, batches) for policy in (self.policy, self.reference)]
        by_pair: dict[int, float] = {}
        for i, micro in enumerate(batches):
            self._tell("KL to the reference", i, batches)
            new, reference = (
                _logprobs(policy, micro, bank)
                for policy, bank in zip((self.policy, self.reference), banks, strict=True)
            )
            assert isinstance(self.options, GRPOOptions)  # no other method has a reference
            estimate = kl_estimate(new, reference, self.options.kl_estimator)
            lengths = [len(c.token_ids) for p in micro.packs for c in p.completions]
            sums = [part.sum().item() for part in estimate.split(lengths)]
            fillers = sum(len(p.completions) for p in micro.packs[len(micro.packs) - micro.fillers :])
            by_pair |= dict(zip(micro.pairs[: len(sums) - fillers], sums[: len(sums) - fillers], strict=True))
        return by_pair

    def kl_weight(self) -> float:
        """The KL's weight at the next optimizer step."""
        return self.options.kl_weight(self.optimizer_steps)

    def _prepare(self, batches: list[MinibatchState], share: UpdateShare) -> ImportanceWeights | None:
        """What must be taken before the first optimizer step: log-probs of the policy that sampled, for later steps
        and for the importance correction. The first minibatch's own first pass gives them too: without correction it
        needs none taken here, and a single on-policy step needs none at all."""
        if not all(p.sampled for p in share.packs):
            return None
        corrects = self.options.correction != "none"
        correction = ImportanceWeights(self.options, share, self.ranks) if corrects else None
        for batch in batches if correction else batches[1:]:
            batch.old = self._old_logprobs(batch.micro)
            if correction:
                for micro, old in zip(batch.micro, batch.old, strict=True):
                    correction.add(micro, old)
        if correction:
            correction.exchange()
        return correction

    def _optimizer_step(
        self, batch: MinibatchState, log: UpdateLog, correction: ImportanceWeights | None, first: bool
    ) -> None:
        lr = set_learning_rate(self.optimizer, self.options, self.optimizer_steps)
        kl_weight = self.kl_weight() if self.options.uses_reference else 0.0
        self.optimizer.zero_grad(set_to_none=True)
        images = _bank(self.policy, batch.micro)
        reference = self.reference if self.options.kl_in_loss else None
        reference_images = _bank(reference, batch.micro) if reference else None
        for i, micro in enumerate(batch.micro):
            self._tell(f"optimizer step {self.optimizer_steps + 1}", i, batch.micro)
            frozen = _logprobs(reference, micro, reference_images) if reference else None
            values = self.policy.logprobs(micro.packs, images)
            rows = rows_of(micro.packs, self.options, values.logprobs, micro.fillers)
            if i == len(batch.old):  # this very pass is the policy that sampled
                batch.old.append(_stored(micro, values.logprobs.detach()))
            loss, sums = weighted_loss(
                self.loss_function,
                rows,
                values.logprobs,
                batch.old[i].to(values.logprobs.device),
                batch.denominator,
                self.options,
                ref_logprobs=frozen,
                kl_denominator=batch.kl_denominator,
                kl_weight=kl_weight,
                correction=correction.of(micro).to(values.logprobs.device) if correction else None,
            )
            loss.backward()
            if images:
                images.release([p.prompt for p in micro.packs])
            log.add(sums)
            log.add({"entropy": float((rows.pad(values.entropy) * rows.mask).sum())})
            if first:
                log.sampler_gap(micro, values.logprobs.detach())
        log.add({"encoded_images": self._encodes(batch, images)})
        norm = self._apply_gradients()
        if not math.isfinite(norm):
            log.check_logits(self.ranks)
        log.step(lr, norm, kl_weight)

    def _tell(self, what: str, i: int, batches: Sequence[MicroBatch]) -> None:
        if self.on_progress is not None:
            self.on_progress(f"{what}, micro-batch {i + 1} of {len(batches)}")

    def _encodes(self, batch: MinibatchState, images: ImageBank | None) -> int:
        """How many images went through the vision tower: a sharded one runs again in every micro-batch that shows them."""
        if images:
            return images.encodes
        return sum(count_distinct(p.prompt for p in m.packs) for m in batch.micro) if self.policy.sharded else 0

    def _apply_gradients(self) -> float:
        """One clipped optimizer step, skipped and counted where the gradient is not finite. Returns the gradient's norm.

        The norm is taken over all ranks' gradients, so they all decide alike.
        """
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        sum_gradients(parameters, self.ranks)
        norm = total_norm(parameters)
        grad_norm = float(full_tensor(norm))
        if not np.isfinite(grad_norm):
            self.skipped_steps += 1
        else:
            if self.options.grad_clip > 0:
                nn.utils.clip_grads_with_norm_(parameters, self.options.grad_clip, norm)
            self.optimizer.step()
            self.optimizer_steps += 1
        return grad_norm

    def _old_logprobs(self, batches: Sequence[MicroBatch]) -> list[Tensor]:
        """Flat old log-probs of each micro-batch."""
        images, old_logprobs = _bank(self.policy, batches), []
        for i, micro in enumerate(batches):
            self._tell("old log-probs", i, batches)
            # Sharded, a rank must not skip a pass that another one makes.
            known = not self.policy.sharded and all(p.old_logprobs is not None for p in micro.packs)
            computed = None if known else _logprobs(self.policy, micro, images)
            old_logprobs.append(_stored(micro, computed))
        return old_logprobs

    def get_state(self) -> dict[str, Any]:
        """Optimizer moments, step counters and the length of the KL schedule; not the weights, which the policy holds."""
        return {
            "kl_schedule_steps": self.options.kl_schedule_length,
            "optimizer": self.optimizer.state_dict(),
            "optimizer_steps": self.optimizer_steps,
            "skipped_steps": self.skipped_steps,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from `get_state()`; a KL schedule keeps the length it began with.

        Learning rates and decay stay those of the options: a search may continue another trial's state.
        """
        configured = [{key: value for key, value in g.items() if key != "params"} for g in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, settings in zip(self.optimizer.param_groups, configured, strict=True):
            group.update(settings)
        self.go_on_from(state["optimizer_steps"], state["skipped_steps"], state["kl_schedule_steps"])

    def go_on_from(self, optimizer_steps: int, skipped_steps: int, kl_schedule_steps: int | None) -> None:
        """Set the counters and the length of the KL schedule."""
        self.options = self.options.with_kl_schedule_length(kl_schedule_steps)
        self.optimizer_steps, self.skipped_steps = optimizer_steps, skipped_steps


class MinibatchState:
    """A minibatch in progress, with the old log-probs of the micro-batches that have them already."""

    def __init__(self, batch: Minibatch) -> None:
        self.denominator = batch.denominator
        self.kl_denominator = batch.kl_denominator
        self.micro = batch.micro
        self.old: list[Tensor] = []


def _by_pair(batches: Sequence[MinibatchState]) -> dict[int, np.ndarray]:
    """Old log-probs [T] of each pair that the policy sampled in this iteration, under the pair's own prompt."""
    found: dict[int, np.ndarray] = {}
    for micro, old in ((m, o) for batch in batches for m, o in zip(batch.micro, batch.old, strict=True)):
        real = len(micro.packs) - micro.fillers
        own = [n and i < real and p.old_logprobs is None for i, p in enumerate(micro.packs) for n in p.native]
        lengths = [len(c.token_ids) for p in micro.packs for c in p.completions]
        parts = zip(micro.pairs, old.float().cpu().split(lengths), own, strict=True)
        found |= {pair: part.numpy().copy() for pair, part, is_own in parts if is_own}
    return found


def _bank(policy: Policy | AdaptersOff, batches: Sequence[MicroBatch]) -> ImageBank | None:
    return policy.image_bank([[p.prompt for p in micro.packs] for micro in batches])


@torch.no_grad()
def _logprobs(policy: Policy | AdaptersOff, micro: MicroBatch, images: ImageBank | None) -> Tensor:
    """Flat log-probs [N] of a micro-batch, without gradient."""
    logprobs = policy.logprobs(micro.packs, images).logprobs
    if images:
        images.release([p.prompt for p in micro.packs])
    return logprobs


def _stored(micro: MicroBatch, computed: Tensor | None) -> Tensor:
    """Flat old log-probs [N]: those stored in a pack, else the computed ones."""
    if computed is not None and all(p.old_logprobs is None for p in micro.packs):
        return computed
    parts, start = [], 0
    for pack in micro.packs:
        length = sum(len(c.token_ids) for c in pack.completions)
        if pack.old_logprobs is not None:
            stored = torch.from_numpy(np.concatenate(pack.old_logprobs)).float()
            parts.append(stored if computed is None else stored.to(computed))
        else:
            assert computed is not None
            parts.append(computed[start : start + length])
        start += length
    return torch.cat(parts)


_UNKNOWN = -1.0  # weights are not negative


class ImportanceWeights:
    """The importance correction of an update: one weight for every token of its distinct completions.

    Computed once, under the completion's native prompt, by the rank that trains it there; reused for its shared copies.
    """

    def __init__(self, options: RunOptions, share: UpdateShare, ranks: Ranks) -> None:
        self.options = options
        self.ranks = ranks
        self._starts = share.starts
        self._weights = torch.full((share.tokens,), _UNKNOWN, device=ranks.device)
        self._sum = self._count = 0.0

    def add(self, micro: MicroBatch, old_logprobs: Tensor) -> None:
        """Weigh the native completions of a micro-batch; old_logprobs flat [N], in the packs' order."""
        lengths = [len(c.token_ids) for p in micro.packs for c in p.completions]
        native = [bool(n) and i < len(micro.packs) - micro.fillers for i, p in enumerate(micro.packs) for n in p.native]
        parts = zip(_numbered_completions(micro), old_logprobs.split(lengths), native, strict=True)
        rows = [(pair, completion, old.float()) for (pair, completion, _), old, is_native in parts if is_native]
        if not rows:
            return
        old = pad_sequence([o for _, _, o in rows], batch_first=True)
        sampler = pad_sequence([torch.tensor(c.sampler_logprobs).to(old) for _, c, _ in rows], batch_first=True)
        sizes = [len(c.token_ids) for _, c, _ in rows]
        mask = torch.arange(old.shape[1], device=old.device)[None] < torch.tensor(sizes, device=old.device)[:, None]
        s = self.options
        assert isinstance(s, GRPOOptions)  # no other method is corrected
        weights = correction_weights(
            old, sampler, mask, s.correction, s.rollout_correction_level, s.rollout_correction_cap
        )
        for (pair, _, _), row, size in zip(rows, weights, sizes, strict=True):
            self._slice(pair, size).copy_(row[:size])
        self._sum += float((weights * mask).sum())
        self._count += float(mask.sum())

    def exchange(self) -> None:
        """Share the weights with all ranks, which may train other copies. Collective, after the last `add`."""
        self.ranks.all_reduce_max(self._weights)
        self._sum, self._count = self.ranks.sum([self._sum, self._count])

    def of(self, micro: MicroBatch) -> Tensor:
        """Weights of a micro-batch's tokens, flat [N].

        Packs without any advantage are not run, so a copy of their completions may have no weight; its advantage is 0
        too, and it gets 1. Raises KeyError where one with an advantage has none.
        """
        parts = []
        for pair, completion, advantage in _numbered_completions(micro):
            weights = self._slice(pair, len(completion.token_ids))
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

    def _slice(self, pair: int, length: int) -> Tensor:
        start = int(self._starts[pair])
        return self._weights[start : start + length]


def _numbered_completions(micro: MicroBatch) -> Iterator[tuple[int, Completion, float]]:
    """(pair, completion, advantage) of a micro-batch, in order."""
    pairs = iter(micro.pairs)
    for pack in micro.packs:
        for completion, advantage in zip(pack.completions, pack.advantages, strict=True):
            yield next(pairs), completion, float(advantage)
