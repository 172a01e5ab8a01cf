"""How much memory this process has needed at most, and how much there is."""

from __future__ import annotations

import os
import resource
import sys


def peak_memory() -> dict[str, int]:
    """Bytes at the highest point so far: `peak_memory_bytes` of the host, `peak_gpu_memory_bytes` where a GPU was used."""
    unit = 1 if sys.platform == "darwin" else 1024  # Linux counts in KiB
    found = {"peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        found["peak_gpu_memory_bytes"] = int(torch.cuda.max_memory_allocated())
    return found


def machine_memory() -> float:
    """Bytes of the first GPU, of the host where there is none."""
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.get_device_properties(0).total_memory)
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
