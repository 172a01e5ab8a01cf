"""Keep the libraries' own chatter off the screen; their errors still come through."""

from __future__ import annotations

import logging
import os
import warnings

# Levels on the very loggers that speak: `ray.init` and RLlib reset the level of their parents.
LEVELS = {
    "ray._private.worker": logging.WARNING,  # "Started a local Ray instance"
    "ray._common.deprecation": logging.ERROR,  # RLlib about its own RLModuleConfig
    "ray.rllib.algorithms.algorithm_config": logging.ERROR,  # about the new API stack, which is meant
    "ray.tune.trainable.trainable": logging.WARNING,  # how long the set-up took
    "ray.tune.utils.util": logging.ERROR,  # about gputil
    "transformers": logging.ERROR,
    "datasets": logging.ERROR,
}


def quiet_libraries() -> None:
    """Call before the libraries are imported: their progress bars read the environment then."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name, level in LEVELS.items():
        logging.getLogger(name).setLevel(level)
    modules = r"(ray|transformers|torch|gymnasium|datasets|pydantic|tensorboard)\b.*"
    for category in (DeprecationWarning, FutureWarning, PendingDeprecationWarning, UserWarning):
        warnings.filterwarnings("ignore", category=category, module=modules)
