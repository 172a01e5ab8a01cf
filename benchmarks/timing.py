"""CPU seconds and wall seconds of some callables that take turns."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from peak import peak_mb

Sides = Mapping[str, Callable[[], object]]


@dataclass(frozen=True)
class Sample:
    """Seconds of one run; CPU seconds are those of the whole process."""

    cpu_s: float
    wall_s: float


class Stopwatch:
    """Measures from its making to `stop()`."""

    def __init__(self) -> None:
        gc.collect()
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def stop(self) -> Sample:
        return Sample(time.process_time() - self.cpu, time.perf_counter() - self.wall)


def measured(sides: Sides, repeats: int) -> dict[str, Any]:
    """Figures of `ours` and, where there is one, `peer`: turns A B A B, then one more untimed run each for the memory."""
    samples = take_turns(sides, repeats)
    return compared({name: figures(samples[name], peak_mb(run)) for name, run in sides.items()})


def take_turns(sides: Sides, repeats: int) -> dict[str, list[Sample]]:
    """Run the sides A B A B ...; a first turn of each is dropped as warm-up."""
    samples: dict[str, list[Sample]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, run in sides.items():
            watch = Stopwatch()
            run()
            sample = watch.stop()
            tell(name, turn, sample)
            if turn:
                samples[name].append(sample)
    return samples


def figures(samples: list[Sample], peak: float | None) -> dict[str, float | None]:
    """Median and interquartile range of the seconds, and the peak in MB."""
    result: dict[str, float | None] = {}
    for name in ("cpu_s", "wall_s"):
        values = [getattr(s, name) for s in samples]
        low, high = np.quantile(values, [0.25, 0.75])
        result[name], result[f"{name}_iqr"] = round(median(values), 4), round(float(high - low), 4)
    result["peak_mb"] = None if peak is None else round(peak, 1)
    return result


def compared(sides: dict[str, dict[str, float | None]]) -> dict[str, Any]:
    """The sides with `speedup`, CPU seconds of the peer for each of ours, and its inverse `ratio`."""
    ours, peer = sides["ours"]["cpu_s"], sides.get("peer", {}).get("cpu_s")
    if not ours or not peer:
        return {**sides, "peer": None, "speedup": None, "ratio": None}
    return {**sides, "speedup": round(peer / ours, 3), "ratio": round(ours / peer, 4)}


def tell(name: str, turn: int, sample: Sample) -> None:
    """Progress of one run on stderr; turn 0 is the warm-up."""
    progress(f"{name} {turn or 'warm-up'}: {sample.cpu_s:.3f} CPU s, {sample.wall_s:.3f} s")


def progress(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
