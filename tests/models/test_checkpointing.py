"""Gradient checkpointing of both kinds and compiled blocks: the same gradients; what is kept, what runs again."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sharegrpo_rl.models.loading import compile_blocks, enable_checkpointing


def packs_of(policy, tiny):
    return [tiny.pack(policy, lengths, group=g, seed=g) for g, lengths in enumerate([(3, 1, 9), (2, 6)])]


def gradients(policy, tiny, packs):
    policy.model.train()
    found = policy.logprobs(packs).logprobs
    return tiny.gradients(policy, (found * torch.linspace(-1, 1, len(found))).sum())


def kept_bytes(policy, packs):
    """Bytes that the forward pass keeps for the backward pass, each storage once, weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in policy.model.parameters()}
    kept = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    policy.model.train()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        policy.logprobs(packs)
    return sum(kept.values())


@pytest.mark.parametrize("keep", ["full", "selective"])
def test_gradients_are_the_same(make_policy, tiny, keep):
    policy = make_policy()
    packs = packs_of(policy, tiny)
    expected = gradients(policy, tiny, packs)
    enable_checkpointing(policy.model, keep)
    for name, gradient in gradients(policy, tiny, packs).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6, msg=name)


class Attentions(TorchDispatchMode):
    """How often attention ran."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func == torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
        return func(*args, **(kwargs or {}))


def test_products_are_not_computed_again(make_policy, tiny):
    again = {}
    for keep in ("full", "selective"):
        policy = make_policy()
        enable_checkpointing(policy.model, keep)
        policy.model.train()
        found = policy.logprobs(packs_of(policy, tiny)).logprobs.sum()
        with Attentions() as attentions:
            found.backward()
        again[keep] = attentions.count
    assert again["selective"] == 0
    assert again["full"] > 0


def test_less_is_kept(make_policy, tiny):
    policy = make_policy()
    packs = packs_of(policy, tiny)
    plain = kept_bytes(policy, packs)
    enable_checkpointing(policy.model, "full")
    assert kept_bytes(policy, packs) < plain / 2


def test_an_unknown_kind_is_refused(policy):
    with pytest.raises(ValueError, match="selective or full, not 'all'"):
        enable_checkpointing(policy.model, "all")


@pytest.mark.slow
def test_compiled_blocks_give_the_same_gradients(make_policy, tiny):
    policy = make_policy()
    names = list(policy.model.state_dict())
    packs = [tiny.pack(policy, (3, 2), group=0), *packs_of(policy, tiny)]
    expected = [gradients(policy, tiny, packs[:n]) for n in (1, 3)]
    assert compile_blocks(policy.model) > 8
    assert list(policy.model.state_dict()) == names
    for n, wanted in zip((1, 3), expected, strict=True):
        for name, gradient in gradients(policy, tiny, packs[:n]).items():
            torch.testing.assert_close(gradient, wanted[name], rtol=1e-4, atol=1e-5, msg=name)
