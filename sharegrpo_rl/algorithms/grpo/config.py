"""GRPOConfig."""

from __future__ import annotations

from typing import ClassVar

from sharegrpo_rl.algorithms.run_config import RunConfig
from sharegrpo_rl.options import GRPOOptions, RunOptions
from sharegrpo_rl.training.settings import TrainingSettings


class GRPOConfig(RunConfig):
    """Configures GRPO.

    config = GRPOConfig().environment("DrawnShapes-v0").training(num_samples=12, lr=2e-4).debugging(seed=0)
    algo = config.build_algo()
    print(algo.train()["groups"]["valid_advantage_ratio"])
    """

    name: ClassVar[str] = "GRPO"
    options: ClassVar[type[RunOptions]] = GRPOOptions

    def __init__(self, algo_class: type | None = None) -> None:
        from sharegrpo_rl.algorithms.grpo.grpo import GRPO

        super().__init__(algo_class=algo_class or GRPO)

    def uses_reference(self) -> bool:
        """Does a KL to the reference policy take part, at any step?"""
        return TrainingSettings.pick({name: getattr(self, name) for name in self.option_names()}).uses_reference
