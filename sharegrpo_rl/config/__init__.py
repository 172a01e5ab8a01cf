"""Every option of every algorithm, once: type, default, bounds, unit, meaning and source.

YAML files, `--set`, `.training(...)`, `list` and the docs' tables are all checked against or made from these fields.
"""

from sharegrpo_rl.config.grpo import GRPOOptions, check_together
from sharegrpo_rl.config.methods import GRPODOptions, SFTOptions, ShareGRPOOptions, StepGRPOOptions
from sharegrpo_rl.config.option import check_option, meaning, option
from sharegrpo_rl.config.run import RunOptions

__all__ = [
    "GRPODOptions",
    "GRPOOptions",
    "RunOptions",
    "SFTOptions",
    "ShareGRPOOptions",
    "StepGRPOOptions",
    "check_option",
    "check_together",
    "meaning",
    "option",
]
