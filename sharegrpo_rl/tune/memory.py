"""How much memory this process has needed at most."""

from __future__ import annotations

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
