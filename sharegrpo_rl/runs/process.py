"""This process while it trains: signals that end a run in good order, quiet libraries, peak memory."""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
import threading
import warnings
from types import FrameType
from typing import Any

# Levels on the very loggers that speak: `ray.init` and RLlib reset the level of their parents.
LOG_LEVELS = {
    "ray._private.worker": logging.WARNING,  # "Started a local Ray instance"
    "ray._common.deprecation": logging.ERROR,  # RLlib about its own RLModuleConfig
    "ray.rllib.algorithms.algorithm_config": logging.ERROR,  # about the new API stack, which is meant
    "ray.tune.trainable.trainable": logging.WARNING,  # how long the set-up took
    "ray.tune.utils.util": logging.ERROR,  # about gputil
    "transformers": logging.ERROR,
    "datasets": logging.ERROR,
}


def quiet_libraries() -> None:
    """Keep the libraries' chatter off the screen, their errors aside. Call it before they are imported."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name, level in LOG_LEVELS.items():
        logging.getLogger(name).setLevel(level)
    modules = r"(ray|transformers|torch|gymnasium|datasets|pydantic|tensorboard)\b.*"
    for category in (DeprecationWarning, FutureWarning, PendingDeprecationWarning, UserWarning):
        warnings.filterwarnings("ignore", category=category, module=modules)


class Interruption:
    """Ctrl-C and SIGTERM while entered: the first is only noted in `code`, a second one raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.code: int | None = None  # the exit code to end with: 128 + the signal's number
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.code is not None:
            raise KeyboardInterrupt
        self.code = 128 + number
        print("\nfinishing this iteration, then saving; once more to stop at once", file=sys.stderr, flush=True)


def peak_memory() -> dict[str, int]:
    """Peak bytes so far: `peak_memory_bytes` of the host, `peak_gpu_memory_bytes` where a GPU was used."""
    unit = 1 if sys.platform == "darwin" else 1024  # Linux counts in KiB
    peaks = {"peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        peaks["peak_gpu_memory_bytes"] = int(torch.cuda.max_memory_allocated())
    return peaks


def machine_memory() -> float:
    """Bytes of the first GPU, or of the host where there is none."""
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.get_device_properties(0).total_memory)
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def machine_gpus() -> int | None:
    """GPUs of this machine; None where RAY_ADDRESS names a cluster, which may have more."""
    import torch

    return None if os.environ.get("RAY_ADDRESS", "local").strip() not in ("", "local") else torch.cuda.device_count()
