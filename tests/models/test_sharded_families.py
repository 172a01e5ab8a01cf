"""Every family that FSDP2 takes trains on two ranks as in one process; the others are refused."""

from functools import partial

import pytest
from rank_processes import on_ranks
from small_families import (
    idefics3,
    internvl,
    llava,
    llava_next,
    mistral3,
    qwen2_vl,
    qwen3_5,
    qwen3_vl,
    smolvlm,
    text_only,
)

from sharegrpo_rl.config import GRPOOptions
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.models.policy import Policy
from sharegrpo_rl.models.prompts import PromptSettings
from sharegrpo_rl.training.batching import plan_update
from sharegrpo_rl.training.sharding import Ranks, shard
from sharegrpo_rl.training.step import TrainingStep

PROMPTS = PromptSettings(max_prompt_tokens=512, min_pixels=784, max_pixels=3136)
SEEING = {
    "internvl": internvl,
    "llava": llava,
    "qwen2_vl": qwen2_vl,
    "qwen3_5": qwen3_5,
    "qwen3_vl": qwen3_vl,
    "qwen3_vl_moe": partial(qwen3_vl, experts=True),
}
TEXT_ONLY = ("llama", "qwen2", "qwen3", "qwen3_moe", "smollm3", "lfm2", "mistral")


def made_policy(family):
    return Policy(*(SEEING[family]() if family in SEEING else text_only(family)), PROMPTS)


def trained(family, sharded):
    """Metrics of two updates; one rank has text alone."""
    from tiny_models import make_pack

    policy = made_policy(family)
    if sharded:
        shard(policy, "fsdp2")
    step = TrainingStep(
        policy, GRPOOptions(lr=1e-3, max_tokens_per_microbatch=10_000), None, None if sharded else Ranks()
    )
    pictures = (1, 0, 0, 0) if family in SEEING else (0, 0, 0)
    metrics = []
    for seed in (0, 10):
        packs = [make_pack(policy, (3, 5, 2), group=g, pictures=n, seed=seed + g) for g, n in enumerate(pictures)]
        share = plan_update(packs, step.options, step.ranks.size)[step.ranks.rank]
        metrics.append({k: v for k, v in step.run(share).items() if k != "encoded_images"})
    return metrics


@pytest.mark.slow
@pytest.mark.parametrize("family", [*SEEING, *TEXT_ONLY])
def test_two_ranks_train_as_one_process_does(family):
    first, second = on_ranks(2, trained, family, True)
    assert first == second
    for one, other in zip(first, trained(family, False), strict=True):
        assert one["grad_norm"] > 1e-3
        assert one == pytest.approx(other, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("build", [idefics3, llava_next, mistral3, smolvlm])
def test_families_that_encode_pictures_one_by_one_are_refused(build):
    with pytest.raises(UserError, match="use sharding: ddp"):
        shard(Policy(*build(), PROMPTS), "fsdp2")
