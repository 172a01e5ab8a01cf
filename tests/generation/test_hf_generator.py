"""The Hugging Face engine: log-probs, replay, independence of the batch, greedy, ends, bans."""

import pickle

import numpy as np
import pytest
import torch

from sharegrpo_rl.data.types import PromptPack
from sharegrpo_rl.errors import NotFiniteError
from sharegrpo_rl.generation.generator import Sampling
from sharegrpo_rl.generation.hf import HFGenerator
from sharegrpo_rl.models.policy import model_inputs


def tokens(answers):
    return [[c.token_ids.tolist() for c in group] for group in answers]


def prompts_of(policy, tiny):
    texts = ("How many?", "Which colour is the circle on the left of the square?", "A")
    return [tiny.prompt(policy, t, pictures=n, seed=n) for n, t in enumerate(texts)]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_sampler_logprobs_equal_teacher_forcing(make_policy, tiny, temperature):
    policy = make_policy(temperature=temperature)
    prompts = prompts_of(policy, tiny)
    answers = HFGenerator(policy).generate(prompts, 4, [5, 6, 7], Sampling(12))
    packs = [
        PromptPack(i, 0, p, a, np.ones(4), np.ones(4, bool))
        for i, (p, a) in enumerate(zip(prompts, answers, strict=True))
    ]
    with torch.no_grad():
        trained = policy.logprobs(packs).logprobs.numpy()
    sampled = np.concatenate([c.sampler_logprobs for a in answers for c in a])
    np.testing.assert_allclose(sampled, trained, atol=1e-5)


def test_same_seeds_same_completions(policy, tiny):
    prompts = prompts_of(policy, tiny)
    one, again, other = (
        HFGenerator(policy).generate(prompts, 3, seeds, Sampling(10)) for seeds in ([1, 2, 3], [1, 2, 3], [4, 5, 6])
    )
    assert tokens(one) == tokens(again)
    for a, b in zip(one, again, strict=True):
        for c, d in zip(a, b, strict=True):
            assert np.array_equal(c.sampler_logprobs, d.sampler_logprobs)
    assert tokens(one) != tokens(other)
    assert len({tuple(c) for c in tokens(one)[0]}) == 3  # samples of a prompt differ


def test_a_completion_does_not_depend_on_its_company(policy, tiny):
    prompts, seeds = prompts_of(policy, tiny), [11, 12, 13]
    together = tokens(HFGenerator(policy).generate(prompts, 3, seeds, Sampling(10)))
    alone = [
        tokens(HFGenerator(policy).generate([p], 3, [s], Sampling(10)))[0] for p, s in zip(prompts, seeds, strict=True)
    ]
    assert together == alone
    backwards = tokens(HFGenerator(policy).generate(prompts[::-1], 3, seeds[::-1], Sampling(10)))
    assert together == backwards[::-1]
    small_batches = HFGenerator(policy, max_tokens_per_microbatch=1)
    assert together == tokens(small_batches.generate(prompts, 3, seeds, Sampling(10)))


def test_greedy_equals_transformers(make_policy, tiny):
    policy, untouched = make_policy(), make_policy().model
    prompts = prompts_of(policy, tiny)
    answers = HFGenerator(policy).generate(prompts, 1, [0] * 3, Sampling(10, greedy=True))
    for prompt, (answer,) in zip(prompts, answers, strict=True):
        inputs = model_inputs(untouched, [prompt.input_ids], [prompt.images], policy.pad_id, "left")
        own = untouched.generate(
            **inputs, do_sample=False, max_new_tokens=10, suppress_tokens=policy.banned.tolist()
        )[0, len(prompt.input_ids) :]  # fmt: skip
        assert answer.token_ids.tolist() == own.tolist()


def biased(policy, token, weight=50.0):
    """A hook that pushes one token's logit up."""

    def push(module, args, output):
        output[..., token] += weight
        return output

    return policy.model.lm_head.register_forward_hook(push)


def test_end_token_is_kept_and_ends(policy, tiny):
    hook = biased(policy, policy.end_ids[0])
    try:
        (answers,) = HFGenerator(policy).generate([tiny.prompt(policy)], 3, [0], Sampling(8))
    finally:
        hook.remove()
    for answer in answers:
        assert answer.token_ids.tolist() == [policy.end_ids[0]]
        assert not answer.truncated
        assert answer.text == ""


def test_without_an_end_a_completion_is_truncated(policy, tiny):
    letter = policy.encoder.tokenizer.convert_tokens_to_ids("a")
    hook = biased(policy, letter)
    try:
        (answers,) = HFGenerator(policy).generate([tiny.prompt(policy)], 2, [0], Sampling(6))
    finally:
        hook.remove()
    for answer in answers:
        assert answer.token_ids.tolist() == [letter] * 6
        assert answer.truncated
        assert answer.text == "aaaaaa"


def test_ends_are_where_completions_end(policy, tiny):
    hook = biased(policy, policy.end_ids[0], 3.0)
    try:
        answers = HFGenerator(policy).generate(prompts_of(policy, tiny), 8, [1, 2, 3], Sampling(12))
    finally:
        hook.remove()
    flat = [c for a in answers for c in a]
    assert {c.truncated for c in flat} == {True, False}
    for c in flat:
        assert policy.end_ids[0] not in c.token_ids[:-1]
        assert c.truncated == (c.token_ids[-1] != policy.end_ids[0])
        assert len(c.token_ids) == 12 if c.truncated else len(c.token_ids) <= 12
        assert len(c.sampler_logprobs) == len(c.token_ids)


@pytest.mark.parametrize("greedy", [False, True])
def test_banned_ids_are_never_sampled(policy, tiny, greedy):
    prompt, hooks = tiny.prompt(policy), [biased(policy, t) for t in policy.banned.tolist()]
    try:
        (answers,) = HFGenerator(policy).generate([prompt], 4, [0], Sampling(10, greedy=greedy))
    finally:
        for hook in hooks:
            hook.remove()
    said = {int(t) for c in answers for t in c.token_ids}
    assert not said & set(policy.banned.tolist())
    assert all(np.isfinite(c.sampler_logprobs).all() for c in answers)


def test_training_mode_is_put_back(policy, tiny):
    policy.model.train()
    HFGenerator(policy).generate([tiny.prompt(policy)], 2, [0], Sampling(2))
    assert policy.model.training
    assert HFGenerator(policy).generate([], 2, [], Sampling(2)) == []


@pytest.mark.parametrize("sampling", [Sampling(4), Sampling(4, top_p=0.9), Sampling(4, greedy=True)])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_an_error(make_policy, tiny, sampling, value):
    policy = make_policy()
    with torch.no_grad():
        policy.model.get_output_embeddings().weight[policy.encoder.tokenizer.convert_tokens_to_ids("y")] = value
    with pytest.raises(NotFiniteError, match="lower lr") as error:
        HFGenerator(policy).generate([tiny.prompt(policy)], 2, [0], sampling)
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)  # as remote runners send it
