"""A task with two answers that a tiny model learns in seconds: is the picture light or dark?

`write_two_answers(folder)` writes it as an ordinary data set (train.jsonl, test.jsonl, images/), with three wordings and
key steps for each question, and beside it `folder/blurred`, the same pictures with answers that say nothing about them:
half of the light pictures are called dark there and half of the dark ones light. The warm start of `two_answer_options`
is taught on those, so it learns words and form and nothing to see: accuracy begins near one half, and what comes on top
comes from the method under test. Sixty iterations (about 15 s on one thread) solve it with GRPO and with Share-GRPO:

    from two_answers import ITERATIONS, two_answer_options, write_two_answers

    folder = write_two_answers(tmp_path / "two_answers")
    algo = build_config("GRPO", "MultimodalQA-v0", two_answer_options(folder), seed=0).build_algo()
    for _ in range(ITERATIONS):
        algo.train()
    assert algo.evaluate_accuracy().accuracy > 0.9

The warm-started model (7 s) is kept in the user's cache, under the paths of the data: tests that share the folder and
`XDG_CACHE_HOME` share it.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

WORDINGS = ("Is the picture light or dark?", "Dark or light: which is it?", "Say how bright it is: light or dark.")
ITERATIONS = 60
SIDE = 28  # pixels: one token of the tiny model's 7-pixel patches in each quarter


def write_two_answers(folder: Path, train: int = 240, test: int = 60, seed: int = 0) -> Path:
    """Write the data set and its `blurred` twin; returns the folder. Half of all pictures are light."""
    random = Random(seed)
    (folder / "images").mkdir(parents=True)
    (folder / "blurred" / "images").mkdir(parents=True)
    for split, number in (("train", train), ("test", test)):
        rows, blurred = [], []
        for i in range(number):
            answer = ("light", "dark")[i % 2]
            name = f"images/{split}{i}.png"
            grey = random.randint(170, 250) if answer == "light" else random.randint(5, 85)
            picture = Image.new("RGB", (SIDE, SIDE), tuple(grey + random.randint(-5, 5) for _ in range(3)))
            for place in (folder, folder / "blurred"):
                picture.save(place / name)
            rows.append(_row(f"{split}{i}", name, answer))
            blurred.append(_row(f"{split}{i}", name, ("light", "dark")[i // 2 % 2]))
        for place, lines in ((folder, rows), (folder / "blurred", blurred)):
            (place / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    return folder


def _row(question_id: str, image: str, answer: str) -> dict[str, Any]:
    level = "bright" if answer == "light" else "dim"
    return {
        "id": question_id,
        "image": image,
        "question": WORDINGS[0],
        "variants": list(WORDINGS[1:]),
        "answer": answer,
        "answer_type": "word",
        "task": "two_answers",
        "subtask": "brightness",
        "key_steps": [[f"the pixels are {level}", level], [answer]],
    }


def two_answer_options(folder: Path, **changes: Any) -> dict[str, Any]:
    """Options of a run that solves it, for any method: 100 thousand parameters, 64 completions an iteration."""
    options: dict[str, Any] = {
        "env_config": {"data": str(folder)},
        "model": "tiny",
        "model_config": {
            "hidden_size": 48,
            "num_layers": 2,
            "num_heads": 2,
            "num_kv_heads": 1,
            "vision_layers": 1,
            "vocab_size": 400,
        },
        "min_pixels": SIDE * SIDE,
        "max_pixels": SIDE * SIDE,
        "max_prompt_tokens": 200,
        "max_completion_tokens": 24,
        "format_prompt": "",
        "warm_start": {
            "data": str(folder / "blurred"),
            "rows": 240,
            "steps": 120,
            "batch_size": 16,
            "lr": 3e-3,
            "wordings": "all",
            "template": "I look.",
        },
        "num_questions": 16,
        "num_generations": 4,
        "lr": 5e-4,
        "vision_lr": 3e-3,
        "evaluation_questions": 60,
    }
    return options | changes
