"""Does a run fit into this machine's memory? A rough answer, from the number of weights that a model's name tells."""

from __future__ import annotations

import re
from typing import Any

TRAINED_BYTES = 18  # a weight in bfloat16, its gradient, float32 copy and AdamW's two moments (docs/papers.md)
ADAPTED_BYTES = 3  # with LoRA: the frozen weight, and a share of adapters and activations
READ_BYTES = 2
TINY_BYTES = 2e9
NAMED_SIZE = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?)[bB](?![A-Za-z])")


def weights_named(model: str) -> float | None:
    """The number of weights in a name such as `Qwen2.5-VL-7B-Instruct`; None where it tells none."""
    found = NAMED_SIZE.findall(model.rsplit("/", 1)[-1]) or NAMED_SIZE.findall(model)
    return 1e9 * float(found[-1]) if found else None


def training_bytes(config: dict[str, Any]) -> float | None:
    """Memory that a run needs; None where the model's name does not tell its size."""
    if config["model"] == "tiny":
        return TINY_BYTES
    weights = weights_named(config["model"])
    if weights is None:
        return None
    return weights * (ADAPTED_BYTES if (config.get("lora") or {}).get("rank") else TRAINED_BYTES)
