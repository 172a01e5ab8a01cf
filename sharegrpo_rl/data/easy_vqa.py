"""The data set easy-VQA (one coloured shape on each 64 x 64 image) from its PyPI package, as two parquet files.

    python -m sharegrpo_rl.data.easy_vqa --out data/easy_vqa

Per image at most two questions for a colour or shape, one answered yes, one answered no; no image occurs twice;
`question_variants` holds rule-based rewordings of the same meaning.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sharegrpo_rl.data.templates import template_wordings
from sharegrpo_rl.data.variants import derive_seed
from sharegrpo_rl.errors import UserError, require_extra
from sharegrpo_rl.files import replacing, storage_errors

_COLORS = {"black", "blue", "brown", "gray", "green", "red", "teal", "yellow"}
_TEXT = pa.string()
_SCHEMA = pa.schema(
    {
        **{name: _TEXT for name in ("id", "question", "answer", "answer_type", "task", "subtask", "source")},
        "choices": pa.list_(_TEXT),
        "question_variants": pa.list_(_TEXT),
        "image": pa.struct({"bytes": pa.binary(), "path": _TEXT}),
    }
)


def build(out: Path, *, train_images: int = 2500, test_images: int = 500, seed: int = 0) -> dict[str, int]:
    """Write `train.parquet` and `test.parquet` into `out`; returns the rows of each. UserError without the package."""
    require_extra("easy-vqa", "this data set")
    import easy_vqa

    seen: set[bytes] = set()  # over both splits: the package repeats some images
    train = _rows("train", easy_vqa.get_train_questions(), easy_vqa.get_train_image_paths(), train_images, seed, seen)
    test = _rows("test", easy_vqa.get_test_questions(), easy_vqa.get_test_image_paths(), test_images, seed, seen)
    for split, rows in (("train", train), ("test", test)):
        _write(out / f"{split}.parquet", rows)
    return {"train": len(train), "test": len(test)}


def _rows(
    split: str,
    questions: tuple[list[str], list[str], list[int]],
    paths: dict[int, str],
    num_images: int,
    seed: int,
    seen: set[bytes],
) -> list[dict[str, Any]]:
    """The rows of one split in shuffled order of images; `seen` gains the images taken."""
    by_image: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for question, answer, image in zip(*questions, strict=True):
        by_image[image].append((question, answer))
    rng = np.random.default_rng(derive_seed("easy_vqa", split, seed))
    rows: list[dict[str, Any]] = []
    taken = 0
    for image in (int(number) for number in rng.permutation(sorted(by_image))):
        data = Path(paths[image]).read_bytes()
        if taken == num_images or data in seen:
            continue
        taken += 1
        seen.add(data)
        pairs = [by_image[image][i] for i in rng.permutation(len(by_image[image]))]
        encoded = {"bytes": data, "path": f"{split}_{image}.png"}
        rows += [
            _row(f"easyvqa-{split}-{image}-{number}", question, answer, encoded, split)
            for number, (question, answer) in enumerate(_choose(pairs))
        ]
    return rows


def _choose(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Two colour or shape questions, one yes, one no, as far as there are any.

    The package asks four times as many questions with "not" whose answer is yes as whose answer is no, so that "not"
    alone would give the answer away. Half of the images have a question of the rarer kind; taking it there evens them out.
    """
    chosen = [pair for pair in pairs if pair[1] not in ("yes", "no")][:2]
    for answer in ("yes", "no"):
        closed = [pair for pair in pairs if pair[1] == answer]
        chosen += sorted(closed, key=lambda pair: _is_negated(pair[0]) == (pair[1] == "yes"))[:1]
    return chosen


def _is_negated(question: str) -> bool:
    return re.search(r"\b(?:no|not)\b", question) is not None


def _row(identity: str, question: str, answer: str, image: dict[str, Any], split: str) -> dict[str, Any]:
    text = question[0].upper() + question[1:]
    closed = answer in ("yes", "no")
    kind = "yes_no" if closed else "colour" if answer in _COLORS else "shape"
    return {
        "id": identity,
        "question": text,
        "answer": answer,
        "answer_type": "yes_no" if closed else "word",
        "task": "perception",
        "subtask": kind,
        "source": f"easy-VQA/{split}",
        "choices": ["yes", "no"] if closed else None,
        "question_variants": list(template_wordings(text)),
        "image": image,
    }


def _write(target: Path, rows: list[dict[str, Any]]) -> None:
    features: dict[str, Any] = {name: {"dtype": "string", "_type": "Value"} for name in _SCHEMA.names}
    for name in ("choices", "question_variants"):
        features[name] = {"feature": features[name], "_type": "List"}
    features["image"] = {"_type": "Image"}
    schema = _SCHEMA.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    with storage_errors(target, "free some space or name another --out"), replacing(target) as unfinished:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), unfinished, compression="zstd")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive whole number")
    return int(text)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m sharegrpo_rl.data.easy_vqa", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write train.parquet and test.parquet to")
    parser.add_argument("--train-images", type=_positive, default=2500, help="images of the train split (at most 4000)")
    parser.add_argument("--test-images", type=_positive, default=500, help="images of the test split (at most 1000)")
    parser.add_argument("--seed", type=int, default=0, help="which images and questions are taken")
    options = parser.parse_args(arguments)
    try:
        rows = build(options.out, train_images=options.train_images, test_images=options.test_images, seed=options.seed)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{options.out}: train {rows['train']} questions, test {rows['test']} questions")
    return 0


if __name__ == "__main__":
    sys.exit(main())
