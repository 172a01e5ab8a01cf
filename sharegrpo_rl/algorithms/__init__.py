"""The algorithms. Importing this package registers their names with Ray Tune: `tune.Tuner("ShareGRPO", ...)`."""

from sharegrpo_rl.algorithms.grpo import GRPO, GRPOD, StepGRPO
from sharegrpo_rl.algorithms.registry import ALGORITHMS, build_config, register_algorithm
from sharegrpo_rl.algorithms.sft import SFT
from sharegrpo_rl.algorithms.share_grpo import ShareGRPO
from sharegrpo_rl.config.registry import register_loss, register_selection

GRPOConfig = GRPO.Config
GRPODConfig = GRPOD.Config
SFTConfig = SFT.Config
ShareGRPOConfig = ShareGRPO.Config
StepGRPOConfig = StepGRPO.Config

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
    "register_algorithm",
    "register_loss",
    "register_selection",
]
