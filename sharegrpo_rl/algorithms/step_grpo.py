"""StepGRPO (R1-VL): GRPO with rewards for the steps of the reasoning, not only for its answer.

StepRAR is accuracy + 0.1 x the share of key steps that the reasoning contains, StepRVR is 1 where the reasoning is
complete and in order: `rewards: {accuracy: 1.0, key_steps: 0.1, step_validity: 1.0}`. The rewards themselves are in
`rewards/`, the form of a completion is `answer_format: steps`.
"""

from __future__ import annotations

from typing import ClassVar

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.utils.annotations import override

from sharegrpo_rl.algorithms.grpo import GRPO, GRPOConfig
from sharegrpo_rl.config import RunOptions, StepGRPOOptions


class StepGRPOConfig(GRPOConfig):
    """Configures StepGRPO.

    config = StepGRPOConfig().environment("DrawnShapes-v0").training(warm_start={"steps": 500})
    """

    name: ClassVar[str] = "StepGRPO"
    options: ClassVar[type[RunOptions]] = StepGRPOOptions

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or StepGRPO)


class StepGRPO(GRPO):
    """GRPO's loop; the rewards differ."""

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> StepGRPOConfig:
        return StepGRPOConfig()
