"""Images encoded once over micro-batches: features, gradients, and how often the vision tower runs."""

import pytest
import torch

from sharegrpo_rl.training.batching import micro_batches


@pytest.fixture
def encodes(policy):
    """The number of images in each run of the vision tower."""
    seen = []
    hook = policy.model.model.visual.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["grid_thw"])), with_kwargs=True
    )
    yield seen
    hook.remove()


def variants(policy, tiny):
    """Two wordings of one question about one picture, and another question with two pictures; 3 distinct pictures."""
    texts = ("How many?", "Count the circles, please.")
    packs = [tiny.pack(policy, (3, 5, 2), group=0, slot=i, seed=5, text=t) for i, t in enumerate(texts)]
    return [*packs, tiny.pack(policy, (4, 4), group=1, pictures=2, seed=6)]


def prompts_of(packs):
    return [p.prompt for p in packs]


def gradients(policy, batches, bank):
    """Summed over micro-batches, each with its own backward pass, with the bank or without."""
    policy.model.zero_grad(set_to_none=True)
    for micro in batches:
        found = policy.logprobs(micro, bank).logprobs
        (found * torch.linspace(-1, 1, len(found))).sum().backward()
        if bank:
            bank.release(prompts_of(micro))
    found = {n: p.grad.clone() for n, p in policy.model.named_parameters() if p.grad is not None}
    policy.model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("budget", [10_000, 60, 35], ids=["one batch", "several", "cut packs"])
def test_gradients_equal_those_of_images_encoded_in_each_batch(policy, tiny, encodes, budget):
    batches = micro_batches(variants(policy, tiny), budget)
    expected = gradients(policy, batches, None)
    encodes.clear()
    bank = policy.image_bank([prompts_of(m) for m in batches])
    found = gradients(policy, batches, bank)
    assert sum(encodes) == bank.encodes == 3
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5, msg=name)


def test_features_are_let_go_after_their_last_use(policy, tiny):
    batches = micro_batches(variants(policy, tiny), 35)
    assert len(batches) > 3
    bank, held = policy.image_bank([prompts_of(m) for m in batches]), []
    for micro in batches:
        policy.logprobs(micro, bank).logprobs.sum().backward()
        held.append(len(bank._features))
        bank.release(prompts_of(micro))
    assert max(held) <= 2  # the second question's pictures come when the first one's is gone
    assert not bank._features
    assert not bank._encoded


def test_a_frozen_tower_needs_no_backward_pass(make_policy, tiny):
    policy = make_policy()
    policy.model.model.visual.requires_grad_(False)
    batches = micro_batches(variants(policy, tiny), 60)
    bank = policy.image_bank([prompts_of(m) for m in batches])
    found = gradients(policy, batches, bank)
    assert bank.encodes == 3
    assert found
    assert not any("visual" in name for name in found)


def test_log_probs_with_and_without_a_bank_are_equal(policy, tiny):
    packs = variants(policy, tiny)
    with torch.no_grad():
        found = policy.logprobs(packs, policy.image_bank([prompts_of(packs)])).logprobs
        torch.testing.assert_close(found, policy.logprobs(packs).logprobs, rtol=0, atol=0)
