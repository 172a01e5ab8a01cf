"""The patch embedding as a matrix product against transformers' own convolution."""

import copy

import pytest
import torch
from small_families import llava, qwen2_vl, qwen3_vl

from sharegrpo_rl.config.run import TinyModelOptions
from sharegrpo_rl.models.tiny import build_tiny
from sharegrpo_rl.models.vision import use_matrix_products


def qwen2_5_vl():
    return build_tiny(
        TinyModelOptions(hidden_size=32, num_heads=2, num_kv_heads=1, vocab_size=300), ["a b"], 0, 784, 3136
    )


def run(module, patches):
    module.zero_grad()
    out = module(patches)
    (out * torch.linspace(-1, 1, out.numel()).reshape(out.shape)).sum().backward()
    return [out.detach(), *(p.grad.clone() for p in module.parameters())]


@pytest.mark.parametrize("build", [qwen2_vl, qwen2_5_vl, qwen3_vl])
def test_equal_to_the_convolution(build):
    model, _ = build()
    module = model.model.visual.patch_embed
    patches = torch.randn(24, module.proj.weight[0].numel())
    expected = run(copy.deepcopy(module), patches)
    assert use_matrix_products(model) == 1
    for found in (run(module, patches), run(copy.deepcopy(module), patches)):
        for mine, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


def test_a_copy_uses_its_own_weights():
    model, _ = qwen2_vl()
    use_matrix_products(model)
    module, patches = (
        model.model.visual.patch_embed,
        torch.ones(2, model.model.visual.patch_embed.proj.weight[0].numel()),
    )
    other = copy.deepcopy(module)
    with torch.no_grad():
        other.proj.weight.zero_()
        assert other(patches).abs().max() == 0
        assert module(patches).abs().max() > 0


def test_other_towers_are_left_alone():
    assert use_matrix_products(llava()[0]) == 0
