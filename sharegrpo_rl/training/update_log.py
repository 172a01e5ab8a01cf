"""What an update logs: sums over micro-batches, optimizer steps and ranks, turned into means at the end."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch
from torch import Tensor

from sharegrpo_rl.training.ranks import Ranks
from sharegrpo_rl.training.shares import MicroBatch

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
        self.lr = 0.0
        self.kl_coeff = 0.0
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

    def sampler_gap(self, micro: MicroBatch, logprobs: Tensor) -> None:
        """|trainer - sampler| log-prob of native tokens, taken before the first optimizer step."""
        real = len(micro.packs) - micro.fillers
        sampler = np.concatenate([c.sampler_logprobs for p in micro.packs for c in p.completions])
        native = np.concatenate(
            [
                np.repeat(p.native & (i < real), [len(c.token_ids) for c in p.completions])
                for i, p in enumerate(micro.packs)
            ]
        )
        gap = (logprobs.float().cpu() - torch.from_numpy(sampler)).abs()
        self.gaps.append(gap[torch.from_numpy(native)])

    def metrics(self, ranks: Ranks) -> dict[str, float]:
        """The update's figures; entropy, ratio and clip fractions are means over trained tokens. Collective."""
        gaps = torch.cat(self.gaps) if self.gaps else torch.zeros(0)
        gap_sum = gaps.mean().item() * len(gaps) if len(gaps) else 0.0
        *added, gap_sum, gap_count = ranks.sum([*(self.sums[k] for k in SUMS), gap_sum, len(gaps)])
        deviation, gap_max = ranks.max([self.deviation, gaps.max().item() if len(gaps) else 0.0])
        sums = dict(zip(SUMS, added, strict=True))
        steps, tokens = max(1, len(self.norms)), max(1.0, sums["tokens"])
        return {
            "policy_loss": sums["policy_loss"] / steps,
            "kl": sums["kl"] / steps,
            "entropy": sums["entropy"] / tokens,
            "ratio_mean": sums["ratio"] / tokens if sums["tokens"] else 1.0,
            "ratio_max_deviation": deviation,
            "clip_fraction_low": sums["clipped_low"] / tokens,
            "clip_fraction_high": sums["clipped_high"] / tokens,
            "clip_fraction_dual": sums["clipped_dual"] / tokens,
            "encoded_images": sums["encoded_images"],
            "grad_norm": sum(self.norms) / steps,
            "lr": self.lr,
            "kl_coeff": self.kl_coeff,
            "sampler_gap_mean": gap_sum / gap_count if gap_count else 0.0,
            "sampler_gap_max": gap_max,
        }
