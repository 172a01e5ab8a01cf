"""What runs on a GPU alone: flash kernels against dense attention, and a whole model there against the CPU.

    uv run pytest tests/models/test_cuda.py

The model's heads have 32 numbers, as the kernels take multiples of 8.
"""

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sharegrpo_rl.config import GRPOOptions, SFTOptions
from sharegrpo_rl.config.run import TinyModelOptions
from sharegrpo_rl.data.types import PromptPack
from sharegrpo_rl.generation.generator import Sampling
from sharegrpo_rl.generation.hf import HFGenerator
from sharegrpo_rl.models.branch_attention import Layout, attend, has_kernels, joined_attention
from sharegrpo_rl.models.loading import FULL, SELECTIVE, enable_checkpointing
from sharegrpo_rl.models.policy import Policy, padded_logprobs
from sharegrpo_rl.models.prompts import PromptSettings
from sharegrpo_rl.models.tiny import build_tiny
from sharegrpo_rl.models.vision import window_attention
from sharegrpo_rl.training.step import TrainingStep

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

SHAPES = {
    "one branch": [(3, [4])],
    "equal": [(50, [60, 60, 60])],
    "ragged": [(500, [1, 170, 3, 300])],
    "several packs": [(20, [90, 9]), (700, [4, 1, 330]), (1, [2])],
    "packs without branches between others": [(300, [0, 3, 0]), (200, [0, 0]), (100, []), (90, [40, 1])],
    "nothing but prompts": [(4, [0]), (300, []), (5, [0, 0])],
}
PACKS = [((30, 1, 40), 2, 0), ((20, 60, 1), 0, 1), ((4,), 1, 2), ((10, 1), 2, 3)]  # lengths, pictures, seed


@pytest.fixture(scope="module")
def cpu(tiny: Any) -> Policy:
    sizes = TinyModelOptions(
        hidden_size=128, num_layers=3, num_heads=4, num_kv_heads=2, vision_layers=2, vocab_size=300
    )
    model, processor = build_tiny(sizes, tiny.corpus, 0, 784, 12544)
    return Policy(model, processor, PromptSettings(max_prompt_tokens=512, min_pixels=784, max_pixels=12544), 0.7)


def on_gpu(policy: Policy, dtype: torch.dtype) -> Policy:
    return Policy(deepcopy(policy.model).to("cuda", dtype), policy.processor, policy.encoder.settings, 0.7)


def packs_of(policy: Policy, tiny: Any) -> list[PromptPack]:
    return [tiny.pack(policy, n, group=g, pictures=i, seed=seed) for g, (n, i, seed) in enumerate(PACKS)]


def distance(mine: Tensor, exact: Tensor) -> float:
    """Of the whole tensor, relative to its length."""
    return float((mine.double().cpu() - exact.double().cpu()).norm() / exact.double().norm().cpu())


def dense(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float) -> Tensor:
    seen = torch.zeros(layout.length, layout.length, dtype=torch.bool)
    for prompt, each in zip(layout.prompts, layout.each, strict=True):
        for span in (prompt, *each):
            seen[span, span] = torch.ones(layout.length, layout.length, dtype=torch.bool).tril()[span, span]
        for branch in each:
            seen[branch, prompt] = True
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    scores = (query @ key.transpose(-1, -2) * scale).masked_fill(~seen.to(query.device), -torch.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2)


def run(way: Any, layout: Layout, inputs: list[Tensor]) -> list[Tensor]:
    """Output and the three gradients."""
    inputs = [t.detach().requires_grad_() for t in inputs]
    out = way(*inputs, layout, 0.125)
    random = torch.Generator("cuda").manual_seed(1)
    upstream = torch.randn(out.shape, generator=random, device="cuda")
    return [out.detach(), *torch.autograd.grad((out * upstream).sum(), inputs)]


@pytest.mark.parametrize("size", [32, 80, 128])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_joined_attention_equals_a_dense_mask(shape, size):
    layout = Layout(shape, "cuda")
    random = torch.Generator("cuda").manual_seed(0)
    shapes = [(1, layout.length, heads, size) for heads in (8, 2, 2)]
    inputs = [torch.randn(s, generator=random, device="cuda", dtype=torch.bfloat16).transpose(1, 2) for s in shapes]
    assert has_kernels(inputs[0])
    exact = run(dense, layout, [x.double() for x in inputs])
    portable, joined = (run(way, layout, inputs) for way in (attend, joined_attention))
    for one, other, target in zip(joined, portable, exact, strict=True):
        assert one.dtype == torch.bfloat16
        assert distance(one, target) < max(2e-3, 1.6 * distance(other, target))


def test_portable_attention_in_float32():
    layout = Layout(SHAPES["several packs"], "cuda")
    random = torch.Generator("cuda").manual_seed(0)
    inputs = [torch.randn(1, h, layout.length, 64, generator=random, device="cuda") for h in (8, 2, 2)]
    for mine, exact in zip(run(attend, layout, inputs), run(dense, layout, [x.double() for x in inputs]), strict=True):
        assert distance(mine, exact) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_windows(dtype):
    lengths = [64, 64, 64, 16, 100, 100]
    random = torch.Generator("cuda").manual_seed(0)
    inputs = [
        torch.randn(1, 4, sum(lengths), 80, generator=random, device="cuda", dtype=dtype).requires_grad_()
        for _ in range(3)
    ]
    ends = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32, device="cuda")
    out, _ = window_attention(None, *inputs, None, cu_seq_lens_q=ends, max_length_q=max(lengths), scaling=0.1)
    exact_inputs = [x.detach().double().requires_grad_() for x in inputs]
    layout = Layout([(n, []) for n in lengths])
    same = torch.block_diag(*(torch.ones(n, n) for n in lengths)).bool().cuda()
    q, k, v = exact_inputs
    exact = ((q @ k.transpose(-1, -2) * 0.1).masked_fill(~same, -torch.inf).softmax(-1) @ v).transpose(1, 2)
    assert layout.length == out.shape[1]
    grads, exact_grads = (
        torch.autograd.grad((o * torch.linspace(-1, 1, o.numel(), device="cuda").view(o.shape)).sum(), i)
        for o, i in ((out, inputs), (exact, exact_inputs))
    )
    for mine, target in zip((out, *grads), (exact, *exact_grads), strict=True):
        assert distance(mine, target) < (1e-5 if dtype == torch.float32 else 5e-3)


def gradients_of(policy: Policy, tiny: Any, logprobs: Tensor) -> Tensor:
    weights = torch.linspace(-1, 1.5, len(logprobs), device=logprobs.device)
    found = tiny.gradients(policy, (logprobs * weights).mean())
    return torch.cat([found[name].double().flatten().cpu() for name in sorted(found)])


def test_a_model_in_float32_equals_the_cpu(cpu, tiny):
    policy, packs = on_gpu(cpu, torch.float32), packs_of(cpu, tiny)
    with torch.no_grad():
        expected = cpu.logprobs(packs).logprobs
    mine = policy.logprobs(packs)
    torch.testing.assert_close(mine.logprobs.cpu(), expected, rtol=0, atol=2e-5)
    assert (
        distance(gradients_of(policy, tiny, mine.logprobs), gradients_of(cpu, tiny, cpu.logprobs(packs).logprobs))
        < 1e-5
    )


def test_a_model_in_bfloat16_is_as_exact_as_one_row_per_completion(cpu, tiny):
    """Both against float64 weights that are rounded to bfloat16."""
    policy, packs = on_gpu(cpu, torch.bfloat16), packs_of(cpu, tiny)
    wide = on_gpu(policy, torch.float64)
    exact = wide.logprobs(packs).logprobs
    packed = policy.logprobs(packs).logprobs
    padded = padded_logprobs(policy.model, packs, 0.7, policy.banned, policy.pad_id).logprobs
    assert distance(packed, exact.detach()) < 1.3 * distance(padded, exact.detach())
    target = gradients_of(wide, tiny, exact)
    assert distance(gradients_of(policy, tiny, packed), target) < 1.3 * distance(
        gradients_of(policy, tiny, padded), target
    )


@pytest.mark.parametrize("keep", [FULL, SELECTIVE])
def test_checkpointing(cpu, tiny, keep):
    policy, packs = on_gpu(cpu, torch.bfloat16), packs_of(cpu, tiny)
    expected = gradients_of(policy, tiny, policy.logprobs(packs).logprobs)
    enable_checkpointing(policy.model, keep)
    policy.model.train()
    assert distance(gradients_of(policy, tiny, policy.logprobs(packs).logprobs), expected) < 1e-2


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
def test_sampler_and_trainer_agree(cpu, tiny, dtype, tolerance):
    policy = on_gpu(cpu, dtype)
    prompts = [p.prompt for p in packs_of(policy, tiny)]
    answers = HFGenerator(policy).generate(prompts, 5, [1, 2, 3, 4], Sampling(40))
    packs = [
        PromptPack(i, 0, p, a, np.ones(5), np.ones(5, bool))
        for i, (p, a) in enumerate(zip(prompts, answers, strict=True))
    ]
    sampled = np.concatenate([c.sampler_logprobs for a in answers for c in a])
    with torch.no_grad():
        values = policy.logprobs(packs).logprobs.float().cpu().numpy()
    assert np.abs(values - sampled).max() < tolerance


def test_greedy_answers_are_those_of_the_cpu(cpu, tiny):
    prompts = [p.prompt for p in packs_of(cpu, tiny)]
    said = [
        HFGenerator(policy).generate(prompts, 1, [0] * 4, Sampling(20, greedy=True))
        for policy in (cpu, on_gpu(cpu, torch.float32))
    ]
    for one, other in zip(*said, strict=True):
        np.testing.assert_array_equal(one[0].token_ids, other[0].token_ids)


def test_training_takes_the_steps_of_the_cpu(cpu, tiny):
    packs, losses = packs_of(cpu, tiny), []
    for policy in (on_gpu(cpu, torch.float32), Policy(deepcopy(cpu.model), cpu.processor, cpu.encoder.settings, 0.7)):
        step = TrainingStep(policy, GRPOOptions(lr=1e-3, max_tokens_per_microbatch=200, minibatch_size=2, num_epochs=2))
        found = [step.update(packs) for _ in range(5)]
        losses.append([(m["policy_loss"], m["grad_norm"]) for m in found])
    np.testing.assert_allclose(*losses, rtol=1e-3, atol=1e-4)


def test_training_in_bfloat16_learns(cpu, tiny):
    policy, packs = on_gpu(cpu, torch.bfloat16), packs_of(cpu, tiny)
    step = TrainingStep(policy, SFTOptions(lr=1e-3, loss_aggregation="token_mean"))
    losses = [step.update(packs)["policy_loss"] for _ in range(30)]
    assert losses[-1] < 0.7 * losses[0]
