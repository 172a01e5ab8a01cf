"""When a runner's engine gets its prompts: seconds until the first and until the last are rendered, for large pictures.

    uv run python benchmarks/rendering.py --pictures 64 --image 1024 --per-prompt 1 20

An env runner answers requests about photos in a parquet set; in the place of its engine stands a reader that takes the
prompts in their order, as an engine queues them. Every second prompt has its pictures turned. They are resized to at most a
megapixel.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from arguments import report
from checkpoint import checkpoint, our_policy
from PIL import Image
from timing import progress

from sharegrpo_rl.algorithms.registry import build_config
from sharegrpo_rl.data.types import Completion, Prompt, Slot, SlotRequest
from sharegrpo_rl.generation.generator import PromptDone, Sampling
from sharegrpo_rl.rollouts.env_runner import QAEnvRunner

SIDE = 28  # pixels of an image token's edge


class Reader:
    """Takes prompts in their order, and answers none of them."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def generate(
        self,
        prompts: Sequence[Prompt],
        num_generations: int,
        seeds: Sequence[int],
        sampling: Sampling,
        on_prompt_done: PromptDone | None = None,
    ) -> list[tuple[Completion, ...]]:
        for index in range(len(prompts)):
            assert prompts[index].images
            self.times.append(time.perf_counter())
        nothing = Completion(np.zeros(1, np.int64), np.zeros(1, np.float32), "", True)
        return [(nothing,) * num_generations] * len(prompts)


class ReadingRunner(QAEnvRunner):
    """An env runner with a reader for an engine."""

    reader: Reader

    def make_generator(self) -> Reader:
        self.reader = Reader()
        return self.reader


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The measurement as its JSON fields: for each number of pictures in a prompt `first_s` and `all_s`."""
    with tempfile.TemporaryDirectory() as folder:
        return {
            "measurement": "rendering",
            "pictures": options.pictures,
            "image": options.image,
            "prompts": {str(n): _seconds(n, options, Path(folder) / str(n)) for n in options.per_prompt},
        }


def _seconds(per_prompt: int, options: argparse.Namespace, folder: Path) -> dict[str, float]:
    rows = max(1, options.pictures // per_prompt)
    _write_data(folder, rows, per_prompt, options.image)
    runner = ReadingRunner(config=build_config("GRPO", "MultimodalQA-v0", {"env_config": {"data": str(folder)}}, 0))
    policy = our_policy(checkpoint(0, small=True))
    longest = per_prompt * (options.image // SIDE + 1) ** 2 + 512
    policy.encoder.settings = replace(policy.encoder.settings, max_prompt_tokens=longest)
    runner.share_module(SimpleNamespace(policy=policy))
    turned = [None, "rotate_180"]
    requests = [SlotRequest(i, i, Slot(0, 0, turned[i % 2]), 1, i) for i in range(rows)]
    turns = []
    for turn in range(options.repeats + 1):
        began = time.perf_counter()
        runner.sample(requests=requests)
        first, last = (runner.reader.times[i] - began for i in (0, -1))
        progress(f"{per_prompt} pictures a prompt, turn {turn}: first {first:.3f} s, all {last:.3f} s")
        turns.append((first, last))
    first, last = (round(median(column), 3) for column in zip(*turns[1:], strict=True))
    return {"first_s": first, "all_s": last, "prompts": rows}


def _write_data(folder: Path, rows: int, per_prompt: int, edge: int) -> None:
    """Photos as JPEG, smooth as photos are, each another one."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for split, count, first in (("train", rows, 0), ("test", 1, rows)):
        table = {
            "id": [f"q{first + i}" for i in range(count)],
            "question": ["How many dots are there?"] * count,
            "answer": ["3"] * count,
            "images": [[{"bytes": _photo(rng, edge)} for _ in range(per_prompt)] for _ in range(count)],
        }
        pq.write_table(pa.table(table), folder / f"{split}.parquet")


def _photo(rng: np.random.Generator, edge: int) -> bytes:
    coarse = Image.fromarray(rng.integers(0, 256, (edge // 8, edge // 8, 3), np.uint8))
    buffer = io.BytesIO()
    coarse.resize((edge, edge)).save(buffer, "JPEG")
    return buffer.getvalue()


def main(words: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = options.add_argument
    add("--pictures", type=int, default=64, metavar="N", help="in all prompts together")
    add("--image", type=int, default=1024, metavar="PX", help="edge of the pictures")
    add("--per-prompt", type=int, nargs="+", default=[1, 20], metavar="K", help="pictures in one prompt")
    add("--repeats", type=int, default=3, metavar="N", help="after one to warm up")
    report(measure, options.parse_args(words))


if __name__ == "__main__":
    main()
