"""Tuned examples, by path or by short name, and where the data that they name comes from.

They travel in the wheel as `sharegrpo_rl/tuned_examples`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sharegrpo_rl.errors import UserError, closest


def examples_folder() -> Path:
    """The folder of the tuned examples: in the installed package, or next to it in a source tree."""
    package = Path(__file__).resolve().parent.parent
    shipped = package / "tuned_examples"
    return shipped if shipped.is_dir() else package.parent / "tuned_examples"


def list_examples() -> dict[str, Path]:
    """Every example by its short name (path without `.yaml`), sorted."""
    root = examples_folder()
    return {str(p.relative_to(root).with_suffix("").as_posix()): p for p in sorted(root.rglob("*.yaml"))}


def find_run_file(text: str) -> Path:
    """The file that a path or a short name (`share_grpo/drawn_shapes-tiny`, or its last part) means."""
    path = Path(text)
    if path.is_file():
        return path
    if path.is_dir():
        raise UserError(f"{text}: a folder; name a run file in it")
    examples = list_examples()
    short = text.removesuffix(".yaml").removeprefix("tuned_examples/")
    if short in examples:
        return examples[short]
    same_end = [name for name in examples if name.rsplit("/", 1)[-1] == short]
    if len(same_end) == 1:
        return examples[same_end[0]]
    if same_end:
        raise UserError(f"{text}: several examples have this name; use {' or '.join(same_end)}")
    near = closest(short, examples)
    hint = f"did you mean the example {near}?" if near else "`sharegrpo-rl list` names the examples"
    raise UserError(f"{text}: no such file or tuned example; {hint}")


# The data sets that tuned examples name by a relative folder; none of them travels in the wheel.
ORIGINS: dict[str, str] = {
    "easy_vqa": (
        "`pip install sharegrpo-rl[easy-vqa]`, then `python -m sharegrpo_rl.data.easy_vqa --out data/easy_vqa` "
        "writes it from the PyPI package easy-vqa"
    ),
    "mnist_pairs": (
        "pairs of MNIST test digits (yann.lecun.com/exdb/mnist) as train.parquet and test.parquet; "
        "the data page of the docs describes the columns"
    ),
    "counting_clevr": (
        "CLEVR and Super-CLEVR renders with their object lists (github.com/psunlpgroup/VisOnlyQA) as train.jsonl, "
        "test.jsonl and images/; the data page of the docs describes the columns"
    ),
    "mulberry_sft": (
        "HuanjinYao/Mulberry-SFT on the Hugging Face hub without its reflective rows, each chat as one row with problem, "
        "solution and images; the papers page of the docs describes it"
    ),
}


def check_data(env_config: Mapping[str, Any]) -> None:
    """UserError where data is needed and not named, or a tuned example's relative folder is not there."""
    if "data" not in env_config:
        return
    data = env_config["data"]
    if not data:
        raise UserError("config.env_config.data: missing; name a data set, such as --set config.env_config.data=FOLDER")
    if not isinstance(data, list):
        _check_origin("config.env_config.data", data, " with --set config.env_config.data=PATH")
        return
    for number, part in enumerate(data):
        _check_origin(f"config.env_config.data[{number}].data", part["data"], ", in the run file")


def _check_origin(key: str, data: str, how: str) -> None:
    path = Path(data)
    origin = ORIGINS.get(path.name)
    if origin and not path.exists():
        raise UserError(
            f"{key}: there is no {data} (looked in {Path.cwd()}); "
            f"set it to the path of {path.name}{how}. It comes from: {origin}"
        )
