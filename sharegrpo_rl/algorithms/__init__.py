"""The algorithms. Importing this package registers their names with Ray Tune: `tune.Tuner("ShareGRPO", ...)`."""

from sharegrpo_rl.algorithms.grpo import GRPO, GRPOConfig
from sharegrpo_rl.algorithms.grpo_d import GRPOD, GRPODConfig
from sharegrpo_rl.algorithms.registry import ALGORITHMS, build_config, register
from sharegrpo_rl.algorithms.sft import SFT, SFTConfig
from sharegrpo_rl.algorithms.share_grpo import ShareGRPO, ShareGRPOConfig
from sharegrpo_rl.algorithms.step_grpo import StepGRPO, StepGRPOConfig

__all__ = [
    "ALGORITHMS",
    "GRPO",
    "GRPOD",
    "SFT",
    "GRPOConfig",
    "GRPODConfig",
    "SFTConfig",
    "ShareGRPO",
    "ShareGRPOConfig",
    "StepGRPO",
    "StepGRPOConfig",
    "build_config",
]

register()
