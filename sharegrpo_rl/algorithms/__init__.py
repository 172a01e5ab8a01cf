"""The algorithms. Importing this package registers their names with Ray Tune: `tune.Tuner("ShareGRPO", ...)`."""

from typing import TypeAlias

from sharegrpo_rl.algorithms.grpo import GRPO, GRPOD, StepGRPO
from sharegrpo_rl.algorithms.registry import ALGORITHMS, build_config, register_algorithm
from sharegrpo_rl.algorithms.sft import SFT
from sharegrpo_rl.algorithms.share_grpo import ShareGRPO
from sharegrpo_rl.config.registry import register_loss, register_selection
from sharegrpo_rl.data.types import Group
from sharegrpo_rl.training.loss import LossInputs

GRPOConfig: TypeAlias = GRPO.Config
GRPODConfig: TypeAlias = GRPOD.Config
SFTConfig: TypeAlias = SFT.Config
ShareGRPOConfig: TypeAlias = ShareGRPO.Config
StepGRPOConfig: TypeAlias = StepGRPO.Config

__all__ = [
    "ALGORITHMS",
    "GRPO",
    "GRPOD",
    "SFT",
    "GRPOConfig",
    "GRPODConfig",
    "Group",
    "LossInputs",
    "SFTConfig",
    "ShareGRPO",
    "ShareGRPOConfig",
    "StepGRPO",
    "StepGRPOConfig",
    "build_config",
    "register_algorithm",
    "register_loss",
    "register_selection",
]
