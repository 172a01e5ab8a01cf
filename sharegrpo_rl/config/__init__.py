"""Every option of every algorithm, once: type, default, bounds, unit, meaning and source.

YAML files, `--set`, `.training(...)`, Tune's `param_space`, `list` and the tables of the docs all come from these fields.
"""

from sharegrpo_rl.config.methods import GRPODOptions, SFTOptions, ShareGRPOOptions, StepGRPOOptions
from sharegrpo_rl.config.option import Options, meaning, option
from sharegrpo_rl.config.resolve import resolve
from sharegrpo_rl.config.run import GRPOOptions, RunOptions

__all__ = [
    "GRPODOptions",
    "GRPOOptions",
    "Options",
    "RunOptions",
    "SFTOptions",
    "ShareGRPOOptions",
    "StepGRPOOptions",
    "meaning",
    "option",
    "resolve",
]
