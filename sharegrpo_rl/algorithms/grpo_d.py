"""GRPO-D (OThink-MR1): GRPO whose KL weight follows a schedule, little while it explores and more later (O3).

The reward is R_acc + alpha R_format (O1): `rewards: {accuracy: 1.0, format: alpha}`. The loss is GRPO's with the mean
over each sequence and a k3 KL (O4). The schedule is `ops/schedules.py`, driven by optimizer steps.
"""

from __future__ import annotations

from typing import ClassVar

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.utils.annotations import override

from sharegrpo_rl.algorithms.grpo import GRPO, GRPOConfig
from sharegrpo_rl.config import GRPODOptions, RunOptions


class GRPODConfig(GRPOConfig):
    """Configures GRPO-D.

    config = GRPODConfig().environment("DrawnShapes-v0").training(kl_min=0.0, kl_max=0.02, total_steps=120)
    """

    name: ClassVar[str] = "GRPOD"
    options: ClassVar[type[RunOptions]] = GRPODOptions

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or GRPOD)


class GRPOD(GRPO):
    """GRPO's loop; only the options differ."""

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> GRPODConfig:
        return GRPODConfig()
