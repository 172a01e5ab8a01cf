"""From packs to optimizer steps, without Ray: epochs x minibatches x micro-batches with one global denominator."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharegrpo_rl.data.types import PromptPack
from sharegrpo_rl.models.policy import Policy
from sharegrpo_rl.training.loss import count, policy_loss, rows_of
from sharegrpo_rl.training.microbatch import micro_batches, minibatches
from sharegrpo_rl.training.optimizer import build_optimizer, set_learning_rate
from sharegrpo_rl.training.settings import TrainingSettings

MicroBatch = list[PromptPack]


class TrainingStep:
    """Owns the optimizer of a policy and updates it on packs. `reference` is the frozen policy of the KL term."""

    def __init__(self, policy: Policy, settings: TrainingSettings, reference: Policy | None = None) -> None:
        if settings.kl_coeff > 0 and reference is None:
            raise ValueError("kl_coeff > 0 needs a reference policy")
        self.policy = policy
        self.settings = settings
        self.reference = reference
        self.optimizer = build_optimizer(policy.model, settings)
        self.optimizer_steps = 0
        self.skipped_steps = 0

    def update(self, packs: Sequence[PromptPack]) -> dict[str, float]:
        """Train on the packs; returns the metrics of the update (means over its optimizer steps)."""
        self.policy.model.train()
        log = _Log()
        batches = [_Minibatch(b, self.settings) for b in minibatches(packs, self.settings.minibatch_size)]
        several = len(batches) * self.settings.num_epochs > 1
        if several:  # later steps need the log-probs of the policy that sampled, taken before the first step
            for batch in batches:
                batch.old = [self._old_logprobs(m) for m in batch.micro]
        for epoch in range(self.settings.num_epochs):
            for batch in batches:
                self._optimizer_step(batch, log, first=epoch == 0 and batch is batches[0])
        return log.metrics(self, packs)

    def _optimizer_step(self, batch: _Minibatch, log: _Log, first: bool) -> None:
        lr = set_learning_rate(self.optimizer, self.settings, self.optimizer_steps)
        self.optimizer.zero_grad(set_to_none=True)
        for i, micro in enumerate(batch.micro):
            values = self.policy.logprobs(micro)
            old = batch.old[i] if batch.old else _stored(micro, values.logprobs.detach())
            reference = self._reference_logprobs(micro)
            rows = rows_of(micro, self.settings, values.logprobs)
            loss, sums = policy_loss(rows, values.logprobs, old, reference, batch.denominator, self.settings)
            loss.backward()
            log.add(sums)
            log.add({"entropy": float((rows.pad(values.entropy) * rows.mask).sum())})
            if first:
                log.sampler_gap(micro, values.logprobs.detach())
        log.step(lr, self._apply_gradients())

    def _apply_gradients(self) -> float:
        """One clipped optimizer step; a gradient that is not finite is left out and counted. Returns the norm."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for p in parameters:  # a skipped pass means a gradient of 0, which still moves AdamW by its momentum
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if not bool(torch.isfinite(norm)):
            self.skipped_steps += 1
        else:
            if self.settings.grad_clip > 0:
                torch.nn.utils.clip_grads_with_norm_(parameters, self.settings.grad_clip, norm)
            self.optimizer.step()
            self.optimizer_steps += 1
        return float(norm)

    @torch.no_grad()
    def _old_logprobs(self, micro: MicroBatch) -> Tensor:
        if all(p.old_logprobs is not None for p in micro):
            return _stored(micro, None).to(self.policy.model.device)
        return _stored(micro, self.policy.logprobs(micro).logprobs)

    @torch.no_grad()
    def _reference_logprobs(self, micro: MicroBatch) -> Tensor | None:
        if self.settings.kl_coeff == 0 or self.reference is None:
            return None
        return self.reference.logprobs(micro).logprobs

    def get_state(self) -> dict[str, Any]:
        """Optimizer moments and step counters; the weights are the policy's own."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "optimizer_steps": self.optimizer_steps,
            "skipped_steps": self.skipped_steps,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from `get_state()`."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.optimizer_steps = state["optimizer_steps"]
        self.skipped_steps = state["skipped_steps"]


class _Minibatch:
    """The micro-batches of one optimizer step. Packs without any advantage need no pass where no KL pulls on them,
    and stay in the denominator."""

    def __init__(self, packs: Sequence[PromptPack], settings: TrainingSettings) -> None:
        self.denominator = count(packs, settings)
        active = [p for p in packs if settings.kl_coeff > 0 or np.any(p.advantages != 0)]
        self.micro = micro_batches(active, settings.token_budget)
        self.old: list[Tensor] = []


def _stored(micro: MicroBatch, computed: Tensor | None) -> Tensor:
    """Flat old log-probs [N]: those a pack brings with it, else the computed ones."""
    if computed is not None and all(p.old_logprobs is None for p in micro):
        return computed
    parts, start = [], 0
    for pack in micro:
        length = sum(len(c.token_ids) for c in pack.completions)
        if pack.old_logprobs is not None:
            stored = torch.from_numpy(np.concatenate(pack.old_logprobs)).float()
            parts.append(stored if computed is None else stored.to(computed))
        else:
            assert computed is not None
            parts.append(computed[start : start + length])
        start += length
    return torch.cat(parts)


class _Log:
    """Sums over micro-batches and optimizer steps, turned into means at the end."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = defaultdict(float)
        self.norms: list[float] = []
        self.lr = 0.0
        self.deviation = 0.0
        self.gaps: list[Tensor] = []

    def add(self, sums: dict[str, float]) -> None:
        for key, value in sums.items():
            if key == "ratio_max_deviation":
                self.deviation = max(self.deviation, value)
            else:
                self.sums[key] += value

    def step(self, lr: float, norm: float) -> None:
        self.lr = lr
        self.norms.append(norm)

    def sampler_gap(self, micro: MicroBatch, logprobs: Tensor) -> None:
        """|trainer - sampler| log-prob of native tokens, taken before the first optimizer step."""
        sampler = np.concatenate([c.sampler_logprobs for p in micro for c in p.completions])
        native = np.concatenate([np.repeat(p.native, [len(c.token_ids) for c in p.completions]) for p in micro])
        gap = (logprobs.float().cpu() - torch.from_numpy(sampler)).abs()
        self.gaps.append(gap[torch.from_numpy(native)])

    def metrics(self, step: TrainingStep, packs: Sequence[PromptPack]) -> dict[str, float]:
        steps, tokens = len(self.norms), max(1.0, self.sums["tokens"])
        gaps = torch.cat(self.gaps) if self.gaps else torch.zeros(0)
        return {
            "policy_loss": self.sums["policy_loss"] / steps,
            "kl": self.sums["kl"] / steps,
            "entropy": self.sums["entropy"] / tokens,
            "ratio_mean": self.sums["ratio"] / tokens if self.sums["tokens"] else 1.0,
            "ratio_max_deviation": self.deviation,
            "clip_fraction_low": self.sums["clipped_low"] / tokens,
            "clip_fraction_high": self.sums["clipped_high"] / tokens,
            "clip_fraction_dual": self.sums["clipped_dual"] / tokens,
            "grad_norm": sum(self.norms) / steps,
            "lr": self.lr,
            "optimizer_steps": step.optimizer_steps,
            "skipped_steps": step.skipped_steps,
            "packs": len(packs),
            "pairs": sum(len(p.completions) for p in packs),
            "skipped_packs": sum(not np.any(p.advantages != 0) for p in packs) if step.settings.kl_coeff == 0 else 0,
            "sampler_gap_mean": gaps.mean().item() if len(gaps) else 0.0,
            "sampler_gap_max": gaps.max().item() if len(gaps) else 0.0,
        }
