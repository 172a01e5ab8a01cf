"""Seconds of an iteration with the learner in the driver and with 1 and 2 learners in Ray Train workers, on the same work.

    uv run python benchmarks/remote_learners.py --learners 0 1 2 --iterations 20

Whole GRPO iterations on drawn shapes, everything else in the driver: the questions, their completions and the updates are
the same. `commit` is what remote learners write after each iteration so that a lost one can go on from there; of the
seconds of an update, `messages` are those that neither driver nor slowest learner works in.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

# isort: off
import sharegrpo_rl  # noqa: F401  (before Ray: under `uv run` Ray would build an environment for every worker)
import ray

# isort: on
from arguments import report
from timing import progress

from sharegrpo_rl.algorithms.registry import build_config

WARM_UP = 3
OPTIONS = {
    "model": "tiny",
    "model_config": {"hidden_size": 128, "num_layers": 4, "vision_layers": 2},
    "env_config": {"kinds": ["counting"], "image_size": 56, "max_questions": 400},
    "min_pixels": 3136, "max_pixels": 3136, "max_prompt_tokens": 400, "max_completion_tokens": 32,
    "num_questions": 8, "num_generations": 8, "evaluation_questions": 1, "lr": 1e-5, "rewards": {"format": 1.0}, "kl_coeff": 0.01,
}  # fmt: skip
SMALL = {"model_config": {"hidden_size": 32, "num_layers": 1, "vision_layers": 1, "patch_size": 14}}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The measurement as its JSON fields: medians over the iterations of each number of learners."""
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    return {
        "measurement": "remote_learners",
        "sharding": options.sharding,
        "iterations": options.iterations,
        "learners": {str(number): _one(number, options) for number in options.learners},
    }


def _one(number: int, options: argparse.Namespace) -> dict[str, Any]:
    given = {**OPTIONS, "num_learners": number, "sharding": options.sharding, **(SMALL if options.small else {})}
    began = time.perf_counter()
    algorithm = build_config("GRPO", "DrawnShapes-v0", given, 0).build_algo()
    built = time.perf_counter() - began
    turns = []
    try:
        commits = _watched(algorithm.learner_group, "commit") if number else []
        for turn in range(WARM_UP + options.iterations):
            turns.append(_iteration(algorithm, commits))
            progress(f"{number} learners, iteration {turn}: {turns[-1]['iteration']:.3f} s")
        checkpoint = _seconds(algorithm.save_to_path, tempfile.mkdtemp())
    finally:
        algorithm.stop()
    counted = turns[WARM_UP:]
    return {
        "build_s": round(built, 2),
        "checkpoint_s": round(checkpoint, 3),
        **{f"{part}_ms": round(1000 * median(t[part] for t in counted), 2) for part in counted[0]},
    }


def _iteration(algorithm: Any, commits: list[float]) -> dict[str, float]:
    began = time.perf_counter()
    timers = algorithm.train()["timers"]
    seconds = {"iteration": time.perf_counter() - began}
    seconds |= {part: float(timers[part]) for part in ("sampling", "learning", "weight_sync")}
    seconds["commit"] = commits.pop() if commits else 0.0
    seconds["rest"] = seconds["iteration"] - sum(v for k, v in seconds.items() if k != "iteration")
    inside = getattr(algorithm.learner_group, "seconds", {})
    return seconds | {f"update_{part}": value for part, value in inside.items()}


def _watched(group: Any, method: str) -> list[float]:
    """Seconds of each call of the method from now on."""
    original, spent = getattr(group, method), []

    def watched(*arguments: Any, **keywords: Any) -> None:
        spent.append(_seconds(original, *arguments, **keywords))

    setattr(group, method, watched)
    return spent


def _seconds(call: Callable[..., Any], *arguments: Any, **keywords: Any) -> float:
    began = time.perf_counter()
    call(*arguments, **keywords)
    return time.perf_counter() - began


def main(words: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--learners", type=int, nargs="+", default=[0, 1, 2], metavar="N")
    options.add_argument("--sharding", choices=("ddp", "fsdp2"), default="ddp")
    options.add_argument("--iterations", type=int, default=20, metavar="N", help="after three to warm up")
    options.add_argument("--small", action="store_true", help="a smaller model, to try the command out")
    report(measure, options.parse_args(words))


if __name__ == "__main__":
    main()
