"""The algorithms by name, and the config of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.tune.registry import register_trainable

from sharegrpo_rl.algorithms.base import RunAlgorithm
from sharegrpo_rl.algorithms.config import RunConfig
from sharegrpo_rl.algorithms.grpo import GRPO, GRPOConfig
from sharegrpo_rl.algorithms.grpo_d import GRPOD, GRPODConfig
from sharegrpo_rl.algorithms.sft import SFT, SFTConfig
from sharegrpo_rl.algorithms.share_grpo import ShareGRPO, ShareGRPOConfig
from sharegrpo_rl.algorithms.step_grpo import StepGRPO, StepGRPOConfig
from sharegrpo_rl.errors import UserError

ALGORITHMS: dict[str, type[RunConfig]] = {
    "GRPO": GRPOConfig,
    "ShareGRPO": ShareGRPOConfig,
    "GRPOD": GRPODConfig,
    "StepGRPO": StepGRPOConfig,
    "SFT": SFTConfig,
}
CLASSES: dict[str, type[RunAlgorithm]] = {
    "GRPO": GRPO,
    "ShareGRPO": ShareGRPO,
    "GRPOD": GRPOD,
    "StepGRPO": StepGRPO,
    "SFT": SFT,
}


def register() -> None:
    """Make every algorithm known to Tune by its name."""
    for name, algorithm in CLASSES.items():
        register_trainable(name, algorithm)


def build_config(run: str, env: str, settings: Mapping[str, Any], seed: int) -> RunConfig:
    """The config of one run; UserError for an unknown algorithm, option or value."""
    if run not in ALGORITHMS:
        raise UserError(f"run: no algorithm {run!r}; known: {', '.join(ALGORITHMS)}")
    return ALGORITHMS[run]().environment(env).training(**settings).debugging(seed=seed)
