"""A KL weight that changes, KL for the reward, the sampler correction, and supervised packs, in the training step."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sharegrpo_rl.config import GRPOOptions, SFTOptions
from sharegrpo_rl.data.types import Completion
from sharegrpo_rl.models.loading import ModelSettings, load_policy
from sharegrpo_rl.ops.policy_loss import kl_estimate
from sharegrpo_rl.training.batching import MicroBatch, plan_update
from sharegrpo_rl.training.sharding import Ranks
from sharegrpo_rl.training.step import ImportanceWeights, TrainingStep


def packs_of(policy, tiny, questions=4):
    return [
        tiny.pack(policy, (3, 4), (1.0, -1.0), group=g, pictures=g % 2, seed=g, native=(True, True))
        for g in range(questions)
    ]


def gradients(policy, settings, packs, reference=None, steps_before=0):
    """The gradient of one step, read off SGD."""
    step = TrainingStep(policy, settings, reference)
    step.optimizer = torch.optim.SGD([{**g, "base_lr": 1.0} for g in step.optimizer.param_groups], lr=1.0)
    step.optimizer_steps = steps_before
    before = {n: p.detach().clone() for n, p in policy.model.named_parameters()}
    metrics = step.update(packs)
    return {n: before[n] - p.detach() for n, p in policy.model.named_parameters()}, metrics


def test_a_schedule_weighs_the_kl_of_each_optimizer_step(make_policy, tiny):
    """At steps 0, w and t the gradient is that of a constant weight of the same size."""
    options = GRPOOptions(lr=1.0, grad_clip=0.0)
    dynamic = options.model_copy(update=dict(kl_schedule="v_shape", kl_min=0.0, kl_max=0.4, total_steps=10))
    for steps, weight in ((0, 0.2), (3, 0.0), (10, 0.4)):
        reference = make_policy(seed=3)
        one, metrics = gradients(make_policy(), dynamic, packs_of(make_policy(), tiny), reference, steps)
        constant = options.model_copy(update=dict(kl_coeff=weight)) if weight else options
        other, _ = gradients(
            make_policy(), constant, packs_of(make_policy(), tiny), reference if weight else None, steps
        )
        assert metrics["kl_coeff"] == pytest.approx(weight, abs=1e-12)
        for name in one:
            torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-6)


def test_the_schedule_s_length_survives_a_checkpoint(make_policy, tiny):
    options = GRPOOptions(kl_schedule="linear_increase", kl_min=0.0, kl_max=0.1, total_steps=20)
    step = TrainingStep(make_policy(), options, make_policy())
    step.update(packs_of(step.policy, tiny))
    again = TrainingStep(make_policy(), options.model_copy(update=dict(total_steps=500)), make_policy())
    again.set_state(step.get_state())
    assert again.kl_weight() == step.kl_weight() == pytest.approx(0.1 / 20, abs=1e-12)


def test_a_schedule_needs_its_length():
    with pytest.raises(ValueError, match="kl_schedule_steps or total_steps"):
        GRPOOptions(kl_schedule="v_shape", kl_max=0.1).kl_weight(0)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_reference_kl_is_the_sum_over_each_completion(make_policy, tiny, estimator):
    policy, reference = make_policy(), make_policy(seed=3)
    packs = packs_of(policy, tiny)
    options = GRPOOptions(kl_coeff=0.1, kl_in_reward=True, kl_estimator=estimator)
    sums = TrainingStep(policy, options, reference).reference_kl(packs)
    for pack, found in zip(packs, sums, strict=True):
        with torch.no_grad():
            new, ref = policy.logprobs([pack]).logprobs, reference.logprobs([pack]).logprobs
        expected = [
            sum(kl_estimate(a, b, estimator).item() for a, b in zip(x, y, strict=True))
            for x, y in zip(new.split([3, 4]), ref.split([3, 4]), strict=True)
        ]
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_kl_in_the_reward_leaves_the_loss_alone(make_policy, tiny):
    packs = packs_of(make_policy(), tiny)
    in_reward = GRPOOptions(lr=1.0, grad_clip=0.0, kl_coeff=5.0, kl_in_reward=True)
    one, _ = gradients(make_policy(), in_reward, packs, make_policy(seed=3))
    other, _ = gradients(make_policy(), in_reward.model_copy(update=dict(kl_coeff=0.0)), packs)
    assert all(torch.equal(one[n], other[n]) for n in one)


def sampled(policy, pack, gap):
    """The pack with sampler log-probs `gap` below the policy's own."""
    with torch.no_grad():
        flat = policy.logprobs([pack]).logprobs.numpy()
    parts = np.split(flat, np.cumsum([len(c.token_ids) for c in pack.completions])[:-1])
    completions = tuple(
        Completion(c.token_ids, (p - gap).astype(np.float32), c.text)
        for c, p in zip(pack.completions, parts, strict=True)
    )
    return replace(pack, completions=completions)


def test_correction_scales_the_gradient_and_is_bounded(make_policy, tiny):
    """A sampler that is e^-gap as sure everywhere: every token weighs e^gap, or the cap."""
    plain = GRPOOptions(lr=1.0, grad_clip=0.0)
    base, _ = gradients(make_policy(), plain, packs_of(make_policy(), tiny))
    for gap, cap, weight in ((0.3, 2.0, np.exp(0.3)), (1.5, 2.0, 2.0)):
        policy = make_policy()
        packs = [sampled(policy, p, gap) for p in packs_of(policy, tiny)]
        options = plain.model_copy(update=dict(rollout_correction="truncate", rollout_correction_cap=cap))
        found, metrics = gradients(policy, options, packs)
        assert metrics["correction_mean"] == pytest.approx(weight, abs=1e-4)
        for name in base:
            torch.testing.assert_close(found[name], base[name] * weight, rtol=1e-3, atol=1e-5)
    masked, _ = gradients(make_policy(), options.model_copy(update=dict(rollout_correction="mask")), packs)
    assert all(bool((g == 0).all()) for g in masked.values())


def test_shared_copies_weigh_what_their_own_prompt_says(make_policy, tiny):
    policy = make_policy()
    own = sampled(policy, tiny.pack(policy, (3, 2), (1.0, -1.0), native=(True, True)), 0.2)
    sibling = replace(own, slot=1, native=np.array([False, False]), prompt=tiny.prompt(policy, "Another wording?"))
    orphan = sampled(policy, tiny.pack(policy, (2,), (1.0,), native=(False,)), 0.0)
    options = GRPOOptions(rollout_correction="truncate")
    (share,) = plan_update([own, sibling, orphan], options, 1)
    correction = ImportanceWeights(options, share, Ranks())
    with torch.no_grad():
        correction.add(MicroBatch((own,), (0, 1)), policy.logprobs([own]).logprobs)
    assert correction.of(MicroBatch((sibling,), (2, 3))).tolist() == pytest.approx([np.exp(0.2)] * 5, abs=1e-4)
    with pytest.raises(KeyError, match="no importance correction"):
        correction.of(MicroBatch((orphan,), (4,)))


def test_auto_turns_on_with_nucleus_sampling_only():
    assert GRPOOptions().correction == "none"
    assert GRPOOptions(top_p=0.9).correction == "truncate"
    assert GRPOOptions(top_p=0.9, rollout_correction="none").correction == "none"


def test_supervised_packs_give_the_gradient_of_the_mean_likelihood(make_policy, tiny):
    policy = make_policy()
    packs = [replace(p, advantages=np.ones(2)) for p in packs_of(policy, tiny)]
    found, metrics = gradients(policy, SFTOptions(lr=1.0, grad_clip=0.0), packs)
    policy = make_policy()
    loss = -policy.logprobs(packs).logprobs.mean()
    loss.backward()
    assert metrics["policy_loss"] == pytest.approx(loss.item(), abs=1e-5)
    for name, parameter in policy.model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-6)


def test_an_update_without_packs_changes_nothing_and_says_so(make_policy):
    """Selection may find nothing to train on."""
    policy = make_policy()
    before = {n: p.detach().clone() for n, p in policy.model.named_parameters()}
    metrics = TrainingStep(policy, GRPOOptions(lr=1.0)).update([])
    assert (metrics["optimizer_steps"], metrics["packs"]) == (0, 0)
    assert np.isnan(metrics["policy_loss"])
    assert all(torch.equal(p, before[n]) for n, p in policy.model.named_parameters())


@pytest.mark.parametrize("targets", [["language"], ["language", "vision", "projector"]])
def test_adapters_off_is_the_model_before_training_exactly(make_policy, tiny, tmp_path, targets):
    make_policy().model.save_pretrained(tmp_path)
    make_policy().processor.save_pretrained(tmp_path)
    settings = ModelSettings(str(tmp_path), lora={"r": 4, "target_modules": targets})
    policy, before = load_policy(settings), load_policy(replace(settings, lora=None))
    before.model.requires_grad_(False)
    options = GRPOOptions(lr=1e-2, kl_coeff=0.1, minibatch_size=2)
    packs = packs_of(policy, tiny)
    copied, off = (
        [step.update(packs) for _ in range(2)]
        for step in (
            TrainingStep(load_policy(settings), options, before),
            TrainingStep(policy, options, policy.adapters_off()),
        )
    )
    assert copied == off
    assert off[1]["kl"] > 0
    packs = packs_of(policy, tiny, 6)
    assert torch.equal(policy.adapters_off().logprobs(packs).logprobs, before.logprobs(packs).logprobs)
    assert not torch.equal(policy.logprobs(packs).logprobs, before.logprobs(packs).logprobs)


def shared_packs(policy, tiny, extra=()):
    """One question in two variants: two completions sampled under each prompt, all four trained under both."""
    texts = ("How many?", "Count.")
    completions = [
        c for i, t in enumerate(texts) for c in tiny.pack(policy, (3, 4), (1.0, 1.0), text=t, seed=i).completions
    ]
    packs = []
    for k, text in enumerate(texts):
        own = tiny.pack(policy, (3, 4), (1.0, 1.0), slot=k, text=text, seed=k)
        native = np.array([i // 2 == k for i in range(4)])
        advantages = np.array([1.0, -1.0, 0.5, -0.5])
        packs.append(replace(own, completions=tuple(completions), advantages=advantages, native=native))
    return [*packs, *extra]


def kl_by_hand(policy, reference, packs):
    """The mean k3 over the native completions, each by its mean over tokens."""
    means = []
    for pack in packs:
        with torch.no_grad():
            new, ref = policy.logprobs([pack]).logprobs, reference.logprobs([pack]).logprobs
        lengths = [len(c.token_ids) for c in pack.completions]
        estimates = kl_estimate(new.double(), ref.double(), "k3").split(lengths)
        means += [e.mean().item() for e, native in zip(estimates, pack.native, strict=True) if native]
    return np.mean(means)


@pytest.mark.parametrize("aggregation", ["sequence_mean", "question_mean"])
def test_the_kl_is_a_mean_over_the_completions_that_carry_it(make_policy, tiny, aggregation):
    """With shared completions as without: not 1/m of it."""
    policy, reference = make_policy(), make_policy(seed=3)
    packs = shared_packs(policy, tiny)
    options = GRPOOptions(
        lr=1e-9, kl_coeff=0.1, loss_aggregation=aggregation, ratio_level="sequence_product", clip_low=0.2
    )
    expected = kl_by_hand(policy, reference, packs)
    metrics = TrainingStep(policy, options, reference).update(packs)
    assert metrics["kl"] == pytest.approx(expected, rel=1e-4)


def test_completions_without_advantage_carry_the_kl_once(make_policy, tiny):
    """`exclude_zero_advantage` takes them out of the policy's denominator, not out of the KL's."""
    policy, reference = make_policy(), make_policy(seed=3)
    packs = packs_of(policy, tiny)
    packs[0] = replace(packs[0], advantages=np.zeros(2))
    options = GRPOOptions(lr=1e-9, kl_coeff=0.1, loss_aggregation="sequence_mean", exclude_zero_advantage=True)
    metrics = TrainingStep(policy, options, reference).update(packs)
    assert metrics["kl"] == pytest.approx(kl_by_hand(policy, reference, packs), rel=1e-4)


def test_a_question_of_fewer_pairs_counts_as_much(make_policy, tiny):
    """The gradient of both questions together is the mean of what each gives alone."""
    policy = make_policy()
    options = GRPOOptions(lr=1.0, grad_clip=0.0, loss_aggregation="question_mean", ratio_level="sequence_product")
    small = tiny.pack(policy, (3,), (2.0,), group=1, text="Why?", seed=9)
    both, _ = gradients(make_policy(), options, shared_packs(policy, tiny, [small]))
    one, _ = gradients(make_policy(), options, shared_packs(policy, tiny))
    other, _ = gradients(make_policy(), options, [small])
    for name in both:
        torch.testing.assert_close(both[name], (one[name] + other[name]) / 2, rtol=1e-4, atol=1e-6)


def test_a_replayed_copy_has_a_correction_of_its_own(make_policy, tiny):
    """Replayed in the iteration that sampled it, a completion keeps the live copy's weight pi_old / pi_sampler."""
    policy = make_policy()
    (pack,) = packs_of(policy, tiny, 1)
    with torch.no_grad():
        now = policy.logprobs([pack]).logprobs.numpy()
    halves = [now[:3], now[3:]]
    completions = tuple(
        replace(c, sampler_logprobs=half + np.float32(np.log(1 / 0.8)))
        for c, half in zip(pack.completions, halves, strict=True)
    )
    live = replace(pack, completions=completions)
    replayed = replace(live, group=1, old_logprobs=tuple(c.sampler_logprobs for c in completions))
    options = GRPOOptions(lr=1e-9, top_p=0.8)
    metrics = TrainingStep(policy, options).update([live, replayed])
    assert metrics["correction_mean"] == pytest.approx((0.8 + 1.0) / 2, abs=1e-4)
    share = plan_update([live, replayed], options, 1)[0]
    assert len(set(share.starts)) == 4


def test_the_learner_s_log_probs_are_kept_for_replay(make_policy, tiny):
    """Of native pairs that were sampled now, by their number; a copy replayed with them has ratio 1 at equal policies."""
    policy = make_policy()
    packs = shared_packs(policy, tiny)
    step = TrainingStep(policy, GRPOOptions(lr=1e-9, replay_size=8, top_p=0.8, max_tokens_per_microbatch=60))
    with torch.no_grad():
        expected = [policy.logprobs([p]).logprobs.numpy() for p in packs]
    step.update(packs)
    assert sorted(step.sampled_logprobs) == [0, 1, 6, 7]
    found = step.sampled_logprobs
    np.testing.assert_allclose(np.concatenate([found[0], found[1]]), expected[0][:7], atol=1e-5)
    np.testing.assert_allclose(np.concatenate([found[6], found[7]]), expected[1][7:], atol=1e-5)
    own = replace(
        packs[0], completions=packs[0].completions[:2], advantages=np.array([1.0, -1.0]), native=np.ones(2, bool),
        old_logprobs=(found[0], found[1]),
    )  # fmt: skip
    assert step.update([own])["ratio_max_deviation"] < 1e-5
    assert step.sampled_logprobs == {}
    plain = TrainingStep(policy, GRPOOptions(lr=1e-9))
    plain.update(packs)
    assert plain.sampled_logprobs == {}
