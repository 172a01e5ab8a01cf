"""Small data sets on disk, one for each environment that reads files."""

import json

import numpy as np
import pytest
from PIL import Image

ROWS = {
    "VisualCounting-v0": ("How many dots are there?", ["1", "2", "3"], {}),
    "GeometryQA-v0": ("In the diagram, AB = 2. Find the length of AC.", ["5*sqrt(3)", "84/5", "13"], {}),
    "MathQA-v0": ("Simplify the expression.", [r"\frac{1}{2}", "x+1", "7"], {}),
    "MultimodalQA-v0": ("Which one is it?", ["A", "B", "A"], {"choices": ["a dot", "a line"]}),
}


def write_data(folder, question, answers, extra, number=12):
    """`number` rows a split; picture i of a split is a grey of its own."""
    for offset, split in enumerate(("train", "test")):
        (folder / "images").mkdir(parents=True, exist_ok=True)
        rows = []
        for i in range(number):
            name = f"images/{split}{i}.png"
            Image.fromarray(np.full((20, 30, 3), 2 * i + offset, np.uint8)).save(folder / name)
            rows.append(
                {"id": f"{split}{i}", "image": name, "question": question, "answer": answers[i % len(answers)], **extra}
            )
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def make_data(tmp_path):
    """A function that writes a data set: make_data(question, answers, **columns of every row)."""

    def make(question="How many dots are there?", answers=("1", "2", "3"), number=12, **extra):
        return write_data(tmp_path / "data", question, list(answers), extra, number)

    return make


@pytest.fixture
def write_set(tmp_path):
    """A function that writes one of several data sets: write_set(name, question, answers, number, **columns)."""

    def write(name, question, answers=("1", "2", "3"), number=12, **extra):
        return str(write_data(tmp_path / name, question, list(answers), extra, number))

    return write


@pytest.fixture
def env_config(tmp_path):
    """A function that gives an environment's smallest working env_config."""

    def config(env_id):
        if env_id not in ROWS:
            return {}
        return {"data": str(write_data(tmp_path / env_id, *ROWS[env_id]))}

    return config
