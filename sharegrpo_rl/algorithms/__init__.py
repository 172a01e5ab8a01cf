"""The algorithms. Importing this package registers their names with Ray Tune: `tune.Tuner("ShareGRPO", ...)`."""

from sharegrpo_rl.algorithms.grpo.config import GRPOConfig
from sharegrpo_rl.algorithms.grpo.grpo import GRPO
from sharegrpo_rl.algorithms.registry import ALGORITHMS, build_config, register
from sharegrpo_rl.algorithms.share_grpo.share_grpo import ShareGRPO, ShareGRPOConfig

__all__ = ["ALGORITHMS", "GRPO", "GRPOConfig", "ShareGRPO", "ShareGRPOConfig", "build_config"]

register()
