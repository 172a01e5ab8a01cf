"""Weights on their way to an engine: names, what is left out, merged adapters, buckets, arrays."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sharegrpo_rl.models.loading import ModelSettings, load_model, load_policy, save_pretrained
from sharegrpo_rl.models.prompts import PromptSettings
from sharegrpo_rl.models.weights import engine_weights, in_buckets, to_array, to_tensor


@pytest.fixture
def folder(make_policy, tmp_path):
    save_pretrained(make_policy(), tmp_path / "model")
    return str(tmp_path / "model")


def load(folder, **changes):
    return load_policy(ModelSettings(folder, prompts=PromptSettings(min_pixels=784, max_pixels=3136), **changes))


def perturb(policy):
    """Change everything that trains."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))


def test_everything_is_the_models_state(policy):
    sent = dict(engine_weights(policy.model))
    assert sent.keys() == policy.model.state_dict().keys()
    assert all(torch.equal(sent[name], tensor) for name, tensor in policy.model.state_dict().items())


def test_frozen_parts_are_sent_with_everything_only(folder):
    policy = load(folder, freeze_vision_tower=True)
    sent = dict(engine_weights(policy.model, everything=False))
    assert not [name for name in sent if ".visual." in name and ".merger." not in name]
    assert [name for name in sent if ".merger." in name]
    assert len(sent) < len(dict(engine_weights(policy.model)))


@pytest.mark.parametrize("targets", [["language"], ["language", "vision", "projector"]])
def test_adapters_are_merged_as_in_an_export(folder, tmp_path, targets):
    policy = load(folder, lora={"r": 4, "target_modules": targets})
    perturb(policy)
    before = {name: tensor.clone() for name, tensor in policy.model.state_dict().items()}
    sent = dict(engine_weights(policy.model))
    changed = dict(engine_weights(policy.model, everything=False))
    assert all(torch.equal(before[name], tensor) for name, tensor in policy.model.state_dict().items())
    save_pretrained(policy, tmp_path / "merged")
    merged = load_model(str(tmp_path / "merged"), "float32")[0].state_dict()
    assert sent.keys() == merged.keys()
    for name, tensor in sent.items():
        torch.testing.assert_close(tensor, merged[name], atol=1e-6, rtol=1e-6)
    original = load_model(folder, "float32")[0].state_dict()
    assert {name for name in sent if not torch.equal(sent[name], original[name])} <= changed.keys()
    # What an engine holds fused comes together, frozen biases of adapted layers among it.
    assert {n.replace(".weight", ".bias") for n in changed if n.endswith("q_proj.weight")} <= changed.keys()
    assert any(".visual." in name for name in changed) == ("vision" in targets)


@given(st.lists(st.integers(1, 40), max_size=12), st.integers(1, 200))
def test_buckets_hold_all_in_order_within_their_size(sizes, limit):
    weights = [(str(i), torch.zeros(n, dtype=torch.uint8)) for i, n in enumerate(sizes)]
    buckets = list(in_buckets(iter(weights), limit))
    assert [name for bucket, _ in buckets for name, _ in bucket] == [name for name, _ in weights]
    assert [last for _, last in buckets] == [False] * (len(buckets) - 1) + [True]
    assert all(len(b) == 1 or sum(t.nbytes for _, t in b) <= limit for b, _ in buckets if b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_arrays_keep_every_bit(dtype):
    tensor = torch.randn(3, 5, dtype=dtype, requires_grad=True)
    array = to_array(tensor)
    array.flags.writeable = False  # as in the object store
    again = to_tensor(array)
    assert again.dtype == dtype
    assert torch.equal(again, tensor)
