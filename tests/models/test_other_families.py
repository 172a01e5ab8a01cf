"""A family that is not Qwen's (LLaVA), on the padded path too: generator, training step."""

import numpy as np
import pytest
import torch
from small_families import llava

from sharegrpo_rl.config import GRPOOptions
from sharegrpo_rl.data.types import PromptPack
from sharegrpo_rl.generation.generator import Sampling
from sharegrpo_rl.generation.hf import HFGenerator
from sharegrpo_rl.models.policy import Policy, padded_logprobs
from sharegrpo_rl.models.prompts import PromptSettings, Question
from sharegrpo_rl.training.step import TrainingStep


@pytest.fixture(scope="module")
def llava_policy():
    return Policy(*llava(), PromptSettings(max_prompt_tokens=128))


def prompts_of(policy):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (40, 30, 3), dtype=np.uint8) for _ in range(3)]
    return policy.encoder.encode(
        [
            Question("How many?", tuple(pictures[:1])),
            Question("Are these equal?", tuple(pictures[1:])),
            Question("And?"),
        ]
    )


def test_sampler_and_trainer_agree(llava_policy):
    policy, prompts = llava_policy, prompts_of(llava_policy)
    answers = HFGenerator(policy).generate(prompts, 3, [1, 2, 3], Sampling(6))
    packs = [
        PromptPack(i, 0, p, a, np.ones(3), np.ones(3, bool))
        for i, (p, a) in enumerate(zip(prompts, answers, strict=True))
    ]
    with torch.no_grad():
        logprobs = policy.logprobs(packs).logprobs.numpy()
    sampled = np.concatenate([c.sampler_logprobs for a in answers for c in a])
    np.testing.assert_allclose(logprobs, sampled, atol=1e-5)


def test_padded_path_equals_plain_transformers(llava_policy, tiny):
    untouched, _ = llava()
    pack = tiny.pack(llava_policy, (3, 2), pictures=1)
    with torch.no_grad():
        found = padded_logprobs(llava_policy.model, [pack], 1.0, llava_policy.banned, llava_policy.pad_id).logprobs
        expected = []
        for c in pack.completions:
            ids = torch.tensor([[*pack.prompt.input_ids, *c.token_ids]])
            pixels = torch.from_numpy(np.asarray(pack.prompt.images[0].tensors["pixel_values"]))
            logits = untouched(input_ids=ids, pixel_values=pixels).logits[0]
            logits[:, llava_policy.banned] = float("-inf")
            rows = logits[len(pack.prompt.input_ids) - 1 : -1].log_softmax(-1)
            expected.append(rows.gather(1, torch.from_numpy(c.token_ids)[:, None])[:, 0])
    torch.testing.assert_close(found, torch.cat(expected), rtol=0, atol=1e-5)


def test_pictures_are_seen(llava_policy):
    policy = llava_policy
    dark, light = policy.encoder.encode([Question("How many?", (np.full((28, 28, 3), v, np.uint8),)) for v in (0, 255)])
    (one,), (other,) = HFGenerator(policy).generate([dark, light], 1, [0, 0], Sampling(1, greedy=True))
    assert one.sampler_logprobs[0] != other.sampler_logprobs[0]


def test_a_training_step_runs(tiny):
    policy = Policy(*llava(), PromptSettings(max_prompt_tokens=128))
    packs = [tiny.pack(policy, (3, 2), (1.0, -1.0), group=g, pictures=1 + g) for g in range(2)]
    before = policy.logprobs(packs[:1]).logprobs.sum().item()
    metrics = TrainingStep(policy, GRPOOptions(lr=1e-3)).update(packs)
    assert metrics["optimizer_steps"] == 1
    assert metrics["grad_norm"] > 0
    assert policy.logprobs(packs[:1]).logprobs.sum().item() != before
