"""Reinforcement learning that teaches vision-language models to reason.

Importing the package registers its environments with gymnasium (each is imported when it is first made) and loads
neither torch nor ray nor transformers.
"""

import os

# A driver started by `uv run` would otherwise have every Ray worker build its own environment again.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")

from sharegrpo_rl.envs.registry import ENVIRONMENTS, register_in_gymnasium

__version__ = "0.2.0"

for _spec in ENVIRONMENTS.values():
    register_in_gymnasium(_spec)
