"""Peak memory of a call, from the kernel's account of this process (Linux; None elsewhere)."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

STATUS = Path("/proc/self/status")


def peak_mb(run: Callable[[], object]) -> float | None:
    """MB that `run` takes at its height, on top of what was resident before."""
    before = start_peak()
    run()
    return since(before)


def start_peak() -> float | None:
    """Give free memory back, let the high-water mark start again, and say how many MB are resident now."""
    if not STATUS.exists():
        return None
    gc.collect()
    if hasattr(ctypes.CDLL(None), "malloc_trim"):  # glibc
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _status_mb("VmRSS")


def since(before: float | None) -> float | None:
    """The high-water mark above `before`, in MB."""
    return None if before is None else _status_mb("VmHWM") - before


def _status_mb(field: str) -> float:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) / 1024
