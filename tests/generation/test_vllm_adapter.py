"""LoRA adapters alone sent to vLLM's real CPU build: log-probs are the trainer's after each, and its own weights stay."""

from itertools import pairwise

import pytest
import torch
from sampler_gap import gap
from test_vllm_engine import (  # noqa: F401 (fixtures, and what skips without vLLM)
    PROMPTS,
    TOKENS,
    folder,
    generator,
    prompts,
    pytestmark,
    tokens,
    wide,
)

from sharegrpo_rl.generation.generator import Sampling, sends_adapters
from sharegrpo_rl.generation.hf import HFGenerator
from sharegrpo_rl.models.loading import ModelSettings, load_policy
from sharegrpo_rl.models.weights import adapter_weights, in_buckets

LORA = {"r": 4, "alpha": 8.0, "target_modules": ["language"]}


@pytest.fixture(scope="module")
def policy(folder):  # noqa: F811
    return load_policy(ModelSettings(str(folder), lora=LORA, temperature=0.7, prompts=PROMPTS))


@pytest.fixture(scope="module")
def engine(folder, policy):  # noqa: F811
    from sharegrpo_rl.config.run import VLLMOptions
    from sharegrpo_rl.generation.vllm.engine import VLLMEngine

    engine = VLLMEngine(
        str(folder), policy, dtype="float32", max_completion_tokens=TOKENS, images_per_prompt=3,
        settings=VLLMOptions(kv_cache_gb=0.25), adapter=LORA,
    )  # fmt: skip
    yield engine
    engine.stop()


def train(policy, seed):
    """Another adapter, large enough to change what is said; of twice the size, rounding would grow to 3e-4 on some CPUs."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if ".lora_" in name:
                parameter.copy_(0.15 * torch.randn_like(parameter))


def test_logprobs_after_each_of_five_adapters(policy, engine, prompts):  # noqa: F811
    sampling, seeds = Sampling(TOKENS), [3, 1, 4, 1]
    said = []
    for number in range(5):
        train(policy, number)
        engine.load(adapter_weights(policy.model), number)
        answers = generator(policy, engine).generate(prompts, 3, seeds, sampling)
        assert gap(policy, prompts, answers) < 1e-4
        greedy = generator(policy, engine).generate(prompts, 1, seeds, Sampling(TOKENS, greedy=True))
        assert tokens(greedy) == tokens(HFGenerator(policy).generate(prompts, 1, seeds, Sampling(TOKENS, greedy=True)))
        said.append(tokens(answers))
    assert all(one != other for one, other in pairwise(said))


def test_only_the_adapter_travels(policy):
    weights = list(adapter_weights(policy.model))
    trained = sum(p.numel() for p in policy.model.parameters() if p.requires_grad)
    assert sum(t.numel() for _, t in weights) == trained
    assert all(name.startswith("base_model.model.model.language_model.layers.") for name, _ in weights)
    assert [last for _, last in in_buckets(weights, 10_000)][-1]


@pytest.mark.parametrize(
    ("lora", "vllm", "expected"),
    [
        (None, {}, False),
        ({"r": 4}, {}, True),
        ({"target_modules": ["language", "vision"]}, {}, False),
        ({"target_modules": ["language", "vision"]}, {"lora": "adapter"}, True),
        ({"r": 4}, {"lora": "merged"}, False),
    ],
)
def test_when_adapters_are_sent(lora, vllm, expected):
    assert sends_adapters(lora, vllm) is expected
