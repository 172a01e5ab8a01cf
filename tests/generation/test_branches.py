"""Branches over shared prompts: images and prompts once, ragged prompts, ends, families, batches, early hand-over."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sampler_gap import gap, with_ends

from sharegrpo_rl.generation.generator import Sampling
from sharegrpo_rl.generation.hf import HFGenerator
from sharegrpo_rl.models.decoding import BranchStore
from sharegrpo_rl.models.policy import Policy
from sharegrpo_rl.models.prompts import PromptSettings

TEXTS = ("How many?", "Which colour is the circle on the left of the square?", "A", "And what is red here?")


def tokens(answers):
    return [[c.token_ids.tolist() for c in group] for group in answers]


@contextmanager
def calls(module, size):
    """The sizes of the calls of a module, as `size(args, kwargs)` tells them."""
    seen = []
    hook = module.register_forward_pre_hook(lambda m, a, k: seen.append(size(a, k)), with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()


@pytest.fixture(scope="module")
def prompts(policy, tiny):
    """Ragged, with 0 to 3 images."""
    return [tiny.prompt(policy, text, pictures=n, seed=n) for n, text in enumerate(TEXTS)]


@settings(max_examples=12)
@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=6),
    st.integers(1, 4),
    st.sampled_from([1, 60, 120, 200, 65536]),
    st.sampled_from([1.0, 0.8]),
)
def test_completions_do_not_depend_on_the_split_into_batches(policy, prompts, shown, n, budget, top_p):
    policy = with_ends(policy)
    asked, seeds = [prompts[i] for i in shown], [10 + i for i in range(len(shown))]
    sampling = Sampling(9, top_p=top_p)
    split = HFGenerator(policy, max_tokens_per_microbatch=budget).generate(asked, n, seeds, sampling)
    alone = [HFGenerator(policy).generate([p], n, [s], sampling)[0] for p, s in zip(asked, seeds, strict=True)]
    assert tokens(split) == tokens(alone)
    for a, b in zip(split, alone, strict=True):
        for c, d in zip(a, b, strict=True):
            np.testing.assert_allclose(c.sampler_logprobs, d.sampler_logprobs, atol=1e-5)


def test_branches_that_end_leave_the_batch(policy, prompts):
    policy = with_ends(policy)
    with calls(policy.model.get_decoder(), lambda a, k: k["position_ids"].shape[-2]) as rows:
        answers = HFGenerator(policy).generate(prompts, 8, [1, 2, 3, 4], Sampling(20))
    assert gap(policy, prompts, answers) < 1e-5
    lengths = [len(c.token_ids) for a in answers for c in a]
    decoding = rows[1 : 1 + max(lengths) - 1]  # the first call is over prompts
    assert decoding == sorted(decoding, reverse=True)
    assert decoding[0] > decoding[-1] > 0
    assert sum(decoding) < 0.8 * len(lengths) * len(decoding)


@pytest.mark.parametrize(("dtype", "limit"), [("float64", 1e-6), ("bfloat16", 0.05)])
def test_other_precisions(make_policy, tiny, dtype, limit):
    policy = make_policy(dtype=dtype)
    prompts = [tiny.prompt(policy, text, pictures=n, seed=n) for n, text in enumerate(TEXTS)]
    assert gap(policy, prompts, HFGenerator(policy).generate(prompts, 4, [5, 6, 7, 8], Sampling(12))) < limit


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl", "llava", "idefics3", "smolvlm", "llama", "qwen2"])
def test_families(family, tiny):
    import small_families

    made = small_families.text_only(family) if family in ("llama", "qwen2") else getattr(small_families, family)()
    policy = Policy(*made, PromptSettings(max_prompt_tokens=512, min_pixels=784, max_pixels=3136))
    assert policy.shares_prefix
    pictures = (0, 0, 0) if family in ("llama", "qwen2") else (0, 1, 2)
    prompts = [tiny.prompt(policy, t, pictures=n, seed=n) for n, t in zip(pictures, TEXTS, strict=False)]
    answers = HFGenerator(policy).generate(prompts, 3, [1, 2, 3], Sampling(8))
    assert gap(policy, prompts, answers) < 1e-5
    policy.shares_prefix = False  # transformers' own cache, as other families run
    assert tokens(HFGenerator(policy).generate(prompts, 3, [1, 2, 3], Sampling(8))) == tokens(answers)


@pytest.mark.parametrize("family", ["gemma3", "gemma4", "gemma4 small", "phi3", "cohere2"])
def test_completions_longer_than_a_window(family, tiny):
    """Windows of 8 and 16 tokens, of which first the prompt drops out, then a completion's own beginning."""
    import families_by_rows
    import families_with_windows

    name, _, small = family.partition(" ")
    text = name in ("phi3", "cohere2")
    made = (
        families_by_rows.more_text_only(name) if text else getattr(families_with_windows, name)(*[True] * bool(small))
    )
    policy = Policy(*made, PromptSettings(max_prompt_tokens=512, min_pixels=784, max_pixels=3136))
    assert policy.shares_prefix
    prompts = [tiny.prompt(policy, t, pictures=0 if text else n, seed=n) for n, t in enumerate(TEXTS[:3])]
    answers = HFGenerator(policy).generate(prompts, 3, [1, 2, 3], Sampling(24))
    assert max(len(c.token_ids) for a in answers for c in a) > 16
    assert gap(policy, prompts, answers) < 3e-5


def test_each_image_goes_through_the_vision_tower_once(policy, tiny):
    shared = tiny.prompt(policy, TEXTS[0], pictures=1, seed=1)
    both = tiny.prompt(policy, TEXTS[1], pictures=2, seed=2)
    reworded = replace(tiny.prompt(policy, TEXTS[2], pictures=1, seed=1), images=shared.images)
    prompts = [shared, both, reworded, shared]
    patches = {i.key: len(i.tensors["pixel_values"]) for p in prompts for i in p.images}
    assert len(patches) == 3
    for budget in (1, 65536):
        with calls(policy.model.model.visual, lambda a, k: len(a[0] if a else k["hidden_states"])) as seen:
            HFGenerator(policy, max_tokens_per_microbatch=budget).generate(prompts, 2, [1, 2, 3, 4], Sampling(3))
        assert sum(seen) == sum(patches.values())


def test_equal_prompts_run_once(policy, tiny):
    one, other = tiny.prompt(policy, TEXTS[0], seed=1), tiny.prompt(policy, TEXTS[1], pictures=0)
    with calls(
        policy.model.get_decoder(), lambda a, k: len(k["inputs_embeds"]) if k.get("input_ids") is None else 0
    ) as n:
        answers = HFGenerator(policy).generate([one, other, one], 3, [1, 2, 1], Sampling(5))
    assert n[0] == 2
    assert not any(n[1:])
    assert tokens(answers)[0] == tokens(answers)[2]
    assert tokens(answers)[0] == tokens(HFGenerator(policy).generate([one], 3, [1], Sampling(5)))[0]


def test_long_prompts_are_prefilled_in_parts(policy, prompts, monkeypatch):
    whole = HFGenerator(policy).generate(prompts, 2, [1, 2, 3, 4], Sampling(5))
    monkeypatch.setattr("sharegrpo_rl.models.decoding.PREFILL_TOKENS", 1)
    assert tokens(HFGenerator(policy).generate(prompts, 2, [1, 2, 3, 4], Sampling(5))) == tokens(whole)


def test_prompts_are_handed_over_as_they_end(policy, prompts):
    policy = with_ends(policy)
    heard, generator = [], HFGenerator(policy)
    with calls(policy.model.get_decoder(), lambda a, k: None) as steps:
        answers = generator.generate(
            prompts, 2, [1, 2, 3, 4], Sampling(30), lambda place, group: heard.append((place, group, len(steps)))
        )
    assert sorted(place for place, *_ in heard) == [0, 1, 2, 3]
    for place, group, step in heard:
        assert group is answers[place]
        assert step == max(len(c.token_ids) for c in group)  # the pass over prompts gives the first token
    assert heard[0][2] < heard[-1][2] <= len(steps)


def test_an_error_of_the_listener_leaves_the_model_as_it_was(policy, prompts):
    def broken(place, group):
        raise KeyError("lost")

    policy.model.train()
    usual = policy.model.get_decoder().config._attn_implementation
    with pytest.raises(KeyError, match="lost"):
        HFGenerator(policy).generate(prompts, 2, [1, 2, 3, 4], Sampling(3), broken)
    assert policy.model.training
    assert policy.model.get_decoder().config._attn_implementation == usual


def test_a_layer_that_drops_the_store_is_an_error():
    layer = (torch.zeros(1, 2, 4, 3), torch.zeros(1, 2, 3, 4))
    store = BranchStore({0: layer, 1: layer}, torch.zeros(2, 3, dtype=torch.bool), torch.tensor([0, 0, 1]), 5)
    with pytest.raises(RuntimeError, match="1 of 2 layers"), store.token():
        store.attend(0, torch.zeros(3, 1, 1, 4), torch.zeros(3, 1, 1, 4), torch.zeros(3, 1, 1, 4), 1.0)
