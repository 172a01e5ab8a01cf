"""What a rank holds after an update: run in processes of its own, by `rank_processes.on_ranks`."""

from __future__ import annotations

from typing import Any

import torch
from tiny_models import make_pack
from torch.distributed.tensor import DTensor

from sharegrpo_rl.config import GRPOOptions
from sharegrpo_rl.models.loading import ModelSettings, load_policy
from sharegrpo_rl.models.prompts import PromptSettings
from sharegrpo_rl.training.batching import plan_update
from sharegrpo_rl.training.sharding import Ranks, shard
from sharegrpo_rl.training.step import TrainingStep

PROMPTS = PromptSettings(max_prompt_tokens=512, min_pixels=784, max_pixels=3136)


def held_bytes(folder: str, model: dict[str, Any], sharding: str) -> dict[str, int]:
    """Bytes of this rank's weights (adapters and copies with them), gradients and moments."""
    policy = load_policy(ModelSettings(folder, prompts=PROMPTS, **model))
    shard(policy, sharding)
    settings, ranks = GRPOOptions(lr=1e-3), Ranks.current()
    step = TrainingStep(policy, settings)
    packs = [make_pack(policy, (3, 4, 5), group=i, seed=i) for i in range(4)]
    step.run(plan_update(packs, settings, ranks.size)[ranks.rank])
    trained = [p for group in step.optimizer.param_groups for p in group["params"]]
    weights = {id(t): t for t in [*policy.model.parameters(), *trained]}
    moments = [s[name] for s in step.optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    return {
        "weights": sum(map(_bytes, weights.values())),
        "gradients": sum(_bytes(p.grad) for p in trained if p.grad is not None),
        "optimizer": sum(map(_bytes, moments)),
    }


def _bytes(tensor: torch.Tensor) -> int:
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return local.numel() * local.element_size()
