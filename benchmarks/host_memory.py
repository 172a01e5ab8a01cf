"""Peak host memory of whole iterations, and how often it holds the pixels of each distinct image.

    uv run python benchmarks/host_memory.py --questions 16 64 --samples 12 --image 1024 --env-runners 0 2

Every run has a fresh process: a tiny model, answers of a few tokens. `copies` is the slope of memory over the bytes of
distinct processed images, so that what does not grow with them (model, libraries, a micro-batch) plays no part.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

# isort: off
import sharegrpo_rl  # noqa: F401  (before Ray: under `uv run` Ray would build an environment for every worker)
import ray

# isort: on
from arguments import report
from fresh_process import in_fresh_process
from resident import ObjectStore, Watcher, give_back_freed_memory, resident_mb
from timing import progress

from sharegrpo_rl.algorithms.registry import build_config
from sharegrpo_rl.config.user_code import import_user_files
from sharegrpo_rl.data.types import Group

SIDE = 28  # pixels of an image token's edge
TEXT_TOKENS = 512  # room for the question
PARTS = ("driver", "runners", "store", "total")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The measurement as its JSON fields."""
    found = {}
    for runners in options.env_runners:
        rows = [in_fresh_process(peaks, questions, runners, options) for questions in options.questions]
        found[str(runners)] = {name: [row[name] for row in rows] for name in rows[0]} | {"copies": copies(rows)}
    return {
        "measurement": "host_memory",
        "questions": options.questions,
        "parameters": {k: getattr(options, k) for k in ("image", "samples", "variants", "iterations", "engine")},
        "env_runners": found,
    }


def copies(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """MB of each part for one more MB of distinct pixels."""
    pixels = [row["pixels_mb"] for row in rows]
    return {part: round(float(np.polyfit(pixels, [row[f"{part}_mb"] for row in rows], 1)[0]), 2) for part in PARTS}


def peaks(questions: int, runners: int, options: argparse.Namespace) -> dict[str, float]:
    """MB at the height of some iterations, on top of what was there before: each part at its own height, and the sum of
    all at its height."""
    import_user_files([Path(__file__).with_name("varied_reward.py")])
    store_bytes = int(options.store_gb * 2**30)
    ray.init(num_cpus=max(1, runners), include_dashboard=False, log_to_driver=False, object_store_memory=store_bytes)
    algorithm = build_config("ShareGRPO", "DrawnShapes-v0", _settings(questions, runners, options), 0).build_algo()
    workers = algorithm.env_runner_group.foreach_env_runner(lambda _: os.getpid(), local_env_runner=False)
    algorithm.env_runner_group.foreach_env_runner(lambda _: give_back_freed_memory())
    parts = {"driver": [os.getpid()], "runners": workers}
    store = ObjectStore.of_child()
    before = {name: resident_mb(pids) for name, pids in parts.items()} | {"store": store.resident_mb()}
    before["total"] = sum(before.values())
    with Watcher(parts, store) as watcher:
        for _ in range(options.iterations):
            algorithm.train()
    found = {f"{part}_mb": round(watcher.peaks[part] - before[part], 1) for part in PARTS}
    found["pixels_mb"] = round(_distinct_mb(algorithm.sampled_groups()), 1)
    progress(f"{questions} questions, {runners} env runners: {found}")
    algorithm.stop()
    ray.shutdown()
    return found


def _settings(questions: int, runners: int, options: argparse.Namespace) -> dict[str, Any]:
    size = {"hidden_size": 64, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "vision_layers": 1, "patch_size": 14}
    longest = (options.image // SIDE + 1) ** 2 + TEXT_TOKENS
    return {
        "env_config": {"kinds": ["counting"], "image_size": options.image, "max_questions": 4096},
        "model_config": size | {"max_positions": longest + 64},
        "max_pixels": max(3136, options.image**2),
        "max_prompt_tokens": longest,
        "max_completion_tokens": 4,
        "format_prompt": "",
        "rewards": {"varied": 1.0},
        "num_questions": questions,
        "num_variants": options.variants,
        "num_generations": options.samples // options.variants,
        "transform_probability": 0.0,
        "engine": options.engine,
        "num_env_runners": runners,
    } | ({"vllm": {"kv_cache_gb": 0.5}} if options.engine == "vllm" else {})


def _distinct_mb(groups: Sequence[Group]) -> float:
    """Bytes of the processed pixels of the last iteration, each distinct image once."""
    images = {i.key: i.tensors for g in groups for p in g.prompts for i in p.images}
    held = [ray.get(t) if isinstance(t, ray.ObjectRef) else t for t in images.values()]
    return sum(array.nbytes for tensors in held for array in tensors.values()) / 2**20


def main(words: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = options.add_argument
    add("--questions", type=int, nargs="+", default=[16, 64], metavar="Q", help="of an iteration; two sizes at least")
    add("--samples", type=int, default=12, metavar="N", help="completions of a question, over all its variants")
    add("--variants", type=int, default=2, metavar="M", help="wordings of a question, about one image")
    add("--image", type=int, default=1024, metavar="PX", help="edge of the images")
    add("--env-runners", type=int, nargs="+", default=[0, 2], metavar="K")
    add("--iterations", type=int, default=2, metavar="I")
    add("--engine", choices=("hf", "vllm"), default="hf")
    add("--store-gb", type=float, default=6.0, metavar="GB", help="limit of Ray's object store")
    report(measure, options.parse_args(words))


if __name__ == "__main__":
    main()
