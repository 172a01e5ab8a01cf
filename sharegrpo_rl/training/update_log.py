"""What an update logs: sums over micro-batches and optimizer steps, turned into means at the end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sharegrpo_rl.data.types import PromptPack


class UpdateLog:
    """Sums over micro-batches and optimizer steps, turned into means at the end."""

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

    def sampler_gap(self, micro: Sequence[PromptPack], logprobs: Tensor) -> None:
        """|trainer - sampler| log-prob of native tokens, taken before the first optimizer step."""
        sampler = np.concatenate([c.sampler_logprobs for p in micro for c in p.completions])
        native = np.concatenate([np.repeat(p.native, [len(c.token_ids) for c in p.completions]) for p in micro])
        gap = (logprobs.float().cpu() - torch.from_numpy(sampler)).abs()
        self.gaps.append(gap[torch.from_numpy(native)])

    def metrics(self) -> dict[str, float]:
        """The update's figures; entropy, ratio and clip fractions are means over trained tokens."""
        steps, tokens = max(1, len(self.norms)), max(1.0, self.sums["tokens"])
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
            "encoded_images": self.sums["encoded_images"],
            "grad_norm": sum(self.norms) / steps,
            "lr": self.lr,
            "kl_coeff": self.kl_coeff,
            "sampler_gap_mean": gaps.mean().item() if len(gaps) else 0.0,
            "sampler_gap_max": gaps.max().item() if len(gaps) else 0.0,
        }
