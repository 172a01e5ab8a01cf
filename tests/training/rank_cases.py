"""Training runs of a tiny model that the tests of several ranks repeat: settings, packs, and what comes out."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from tiny_models import CORPUS, make_pack

from sharegrpo_rl.config import GRPOOptions
from sharegrpo_rl.config.run import TinyModelOptions
from sharegrpo_rl.models.loading import ModelSettings, load_policy
from sharegrpo_rl.models.prompts import PromptSettings
from sharegrpo_rl.models.tiny import build_tiny
from sharegrpo_rl.training.batching import plan_update
from sharegrpo_rl.training.sharding import Ranks, load_on_ranks, shard
from sharegrpo_rl.training.step import TrainingStep

PROMPTS = PromptSettings(max_prompt_tokens=512, min_pixels=784, max_pixels=3136)
SHARDINGS = {
    "ddp": {"sharding": "ddp"},
    "fsdp2": {"sharding": "fsdp2"},
    "offloaded": {"sharding": "fsdp2", "cpu_offload": True},
    "hsdp": {"sharding": "fsdp2", "fsdp_size": 2},
}
LORA = {"r": 4, "target_modules": ["language", "vision"]}


@dataclass(frozen=True)
class Case:
    """A run: its model, its training settings, how many pictures each question shows, and what is odd about it."""

    model: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    pictures: tuple[int, ...] = (1, 0, 2, 1)
    shared: bool = False  # a second wording trains the same completions
    spoiled: int | None = None  # a question whose gradient is not finite in update 1
    updates: int = 3


def write_model(folder):
    """A Qwen2.5-VL of 80 thousand parameters."""
    sizes = TinyModelOptions(hidden_size=32, num_layers=2, num_heads=2, num_kv_heads=1, vision_layers=1, vocab_size=300)
    model, processor = build_tiny(sizes, CORPUS, 0, PROMPTS.min_pixels, PROMPTS.max_pixels)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def packs_of(policy, case, update):
    """Questions of three completions of lengths that differ."""
    packs = []
    for group, pictures in enumerate(case.pictures):
        seed = 100 * update + group
        native = (True, True, case.shared)
        pack = make_pack(policy, (3 + group, 4, 2 + seed % 5), group=group, pictures=pictures, seed=seed, native=native)
        if group == case.spoiled and update == 1:
            pack = replace(pack, advantages=np.array([np.inf, 1.0, 0.0]))
        packs.append(pack)
        if case.shared:
            sibling = make_pack(policy, (1,), pictures=pictures, seed=seed, text="Count the things.")
            packs.append(replace(pack, slot=1, prompt=sibling.prompt, native=np.zeros(3, bool)))
    return packs


def settings_of(case):
    return GRPOOptions(**{"lr": 1e-3, "max_tokens_per_microbatch": 60, **case.training})


def made_step(folder, case, sharding):
    """A training step on this process's group; `sharding` None trains alone; see SHARDINGS."""
    model = ModelSettings(str(folder), prompts=PROMPTS, **case.model)
    policy = load_on_ranks(model) if sharding else load_policy(model)
    settings, reference = settings_of(case), None
    if sharding:
        shard(policy, **SHARDINGS[sharding])
    if settings.uses_reference and case.model.get("lora"):
        reference = policy.adapters_off()
    elif settings.uses_reference:
        reference = _other_policy(folder, case)
        if sharding:
            shard(reference, **SHARDINGS[sharding])
    return TrainingStep(policy, settings, reference, None if sharding else Ranks())


def _other_policy(folder, case):
    """A frozen policy a little off the one that is trained: its KL is not 0."""
    policy = load_policy(ModelSettings(str(folder), prompts=PROMPTS, **case.model))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in policy.model.parameters():
            p += 0.02 * torch.randn(p.shape, generator=generator).to(p.dtype)
    policy.model.requires_grad_(False).eval()
    return policy


def trained(step, case, updates):
    """Metrics of some updates, of this rank's shares."""
    ranks = step.ranks
    return [
        step.run(plan_update(packs_of(step.policy, case, u), step.options, ranks.size)[ranks.rank]) for u in updates
    ]


def run_case(folder, case, sharding):
    """Metrics of every update."""
    return trained(made_step(folder, case, sharding), case, range(case.updates))


def compared(metrics):
    """Metrics without the count of encodes: a picture that two ranks show is encoded on both."""
    return [{k: v for k, v in m.items() if k != "encoded_images"} for m in metrics]
