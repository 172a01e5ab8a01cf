"""Environment ids and `env_config` keys, checked against the registry; and where the data of examples comes from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sharegrpo_rl.envs.options import read_options
from sharegrpo_rl.envs.registry import ENVIRONMENTS
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.tune.peer_names import PEER_NAMES, suggestion

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


def check_environment(env: str) -> None:
    """UserError with the closest id where no such environment is registered."""
    if env not in ENVIRONMENTS:
        raise UserError(
            f"env: no environment {env!r}{suggestion(env, ENVIRONMENTS)} (known: {', '.join(ENVIRONMENTS)})"
        )


def check_environment_config(env: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """`env_config` with every option of the environment, checked and typed; opens no data."""
    options = ENVIRONMENTS[env].options
    try:
        return dict(vars(read_options(options, given)))
    except UserError as error:
        key = str(error).split(":")[0].removeprefix("env_config.")
        ours = PEER_NAMES.get(key, "").removeprefix("env_config.")
        hint = f"; it is called {ours} here" if ours in getattr(options, "__dataclass_fields__", ()) else ""
        raise UserError(f"config.{error}{hint}") from None


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
            f"set it to where {path.name} lies{how}. It comes from: {origin}"
        )
