"""Seconds of an iteration with runner and learner in turn (`max_staleness: 0`) and side by side (1), on the same questions.

    uv run python benchmarks/max_staleness.py --iterations 20

Whole GRPO iterations on drawn shapes with one remote env runner, which needs a core of its own. The runs follow each
other: side by side each would have half of the machine. With `max_staleness` 1 `sampling` is what is left to wait for.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

# isort: off
import sharegrpo_rl  # noqa: F401  (before Ray: under `uv run` Ray would build an environment for every worker)
import ray

# isort: on
from arguments import report
from remote_learners import OPTIONS, SMALL, WARM_UP
from timing import progress

from sharegrpo_rl.algorithms.registry import build_config


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The measurement as its JSON fields: medians over the iterations."""
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    seconds: dict[int, list[float]] = {}
    parts: dict[int, dict[str, list[float]]] = {}
    for lag in (0, 1):
        seconds[lag], parts[lag] = _run(lag, options)
    return {
        "measurement": "max_staleness",
        "iterations": options.iterations,
        "iteration_ms": {lag: _ms(turns) for lag, turns in seconds.items()},
        **{f"{part}_ms": {lag: _ms(found[part]) for lag, found in parts.items()} for part in parts[0]},
        "ratio": round(median(seconds[1]) / median(seconds[0]), 3),
    }


def _run(lag: int, options: argparse.Namespace) -> tuple[list[float], dict[str, list[float]]]:
    given = {**OPTIONS, "num_env_runners": 1, "max_staleness": lag, **(SMALL if options.small else {})}
    algorithm = build_config("GRPO", "DrawnShapes-v0", given, 0).build_algo()
    turns, parts = [], {"sampling": [], "learning": [], "weight_sync": []}
    for turn in range(WARM_UP + options.iterations):
        began = time.perf_counter()
        timers = algorithm.train()["timers"]
        turns.append(time.perf_counter() - began)
        for part, found in parts.items():
            found.append(float(timers[part]))
        progress(f"max_staleness {lag}, iteration {turn}: {turns[-1]:.3f} s")
    algorithm.stop()
    return turns[WARM_UP:], {part: found[WARM_UP:] for part, found in parts.items()}


def _ms(seconds: Sequence[float]) -> float:
    return round(1000 * median(seconds), 1)


def main(words: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--iterations", type=int, default=20, metavar="N", help="after three to warm up")
    options.add_argument("--small", action="store_true", help="a smaller model, to try the command out")
    report(measure, options.parse_args(words))


if __name__ == "__main__":
    main()
