"""Which parameters of a run train, in which types, and over how many ranks they are spread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sharegrpo_rl.models.sizes import ModelSizes

BYTES = {"float32": 4, "bfloat16": 2}
TARGETS = {"language": "language model", "vision": "vision tower", "projector": "projector"}


@dataclass(frozen=True)
class Training:
    """How the learner holds a model."""

    bytes: int  # of a weight, as the model computes
    trained: Mapping[str, int]  # part -> parameters that train (adapters, where there are any)
    adapters: bool
    ranks: int
    sharded: bool  # FSDP2: each matrix is spread over the ranks
    offload: bool  # what is spread waits in host memory
    reference: bool  # a frozen copy of the model beside it; with LoRA the model without adapters does
    checkpointing: str | None  # what gradient checkpointing keeps; None = it is off

    @property
    def shards(self) -> int:
        """Ranks that a matrix is spread over."""
        return self.ranks if self.sharded else 1

    @property
    def parameters(self) -> int:
        return sum(self.trained.values())

    def trains(self, part: str) -> bool:
        return self.trained.get(part, 0) > 0


def training(config: Mapping[str, Any], sizes: ModelSizes) -> Training:
    """Read a resolved config."""
    sharded = config["num_learners"] > 0 and config["sharding"] == "fsdp2"
    return Training(
        bytes=BYTES[config["dtype"]],
        trained=_trained(config, sizes),
        adapters=config["lora"] is not None,
        ranks=max(1, config["num_learners"]),
        sharded=sharded,
        offload=sharded and config["cpu_offload"],
        reference=uses_reference(config) and config["lora"] is None,
        checkpointing=config["checkpoint_keep"] if config["gradient_checkpointing"] else None,
    )


def uses_reference(config: Mapping[str, Any]) -> bool:
    """Does a KL to the frozen model take part?"""
    if config.get("kl_schedule", "constant") != "constant":
        return max(config["kl_min"], config["kl_max"]) > 0
    return config.get("kl_coeff", 0.0) > 0


def _trained(config: Mapping[str, Any], sizes: ModelSizes) -> dict[str, int]:
    lora = config["lora"]
    if lora is not None:
        parts = [TARGETS[target] for target in lora["targets"]]
        return {part: lora["rank"] * sizes.lora_width.get(part, 0) for part in parts}
    frozen = {"vision tower": config["freeze_vision_tower"], "projector": config["freeze_projector"]}
    return {part: 0 if frozen.get(part, False) else count for part, count in sizes.parameters.items()}
