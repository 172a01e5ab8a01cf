"""The training step: clipping, KL, non-finite gradients, learning rates, resume, and a toy task that is learned."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sharegrpo_rl.algorithms.warm_start import SupervisedSettings, run_sft, target_pack
from sharegrpo_rl.config import GRPOOptions
from sharegrpo_rl.data.types import PromptPack
from sharegrpo_rl.errors import NotFiniteError
from sharegrpo_rl.generation.generator import Sampling
from sharegrpo_rl.generation.hf import HFGenerator
from sharegrpo_rl.ops.advantages import local_advantages
from sharegrpo_rl.training.optimizer import build_optimizer, set_learning_rate
from sharegrpo_rl.training.step import TrainingStep


def some_packs(policy, tiny, questions=4):
    return [
        tiny.pack(policy, (3, 4, 2), (1.0, -1.0, 0.5), group=g, pictures=g % 2, seed=g, native=(True, True, False))
        for g in range(questions)
    ]


def weights(policy):
    return {n: p.detach().clone() for n, p in policy.model.named_parameters()}


def test_first_pass_has_ratio_exactly_one(make_policy, tiny):
    policy = make_policy()
    metrics = TrainingStep(policy, GRPOOptions(lr=1e-2, max_tokens_per_microbatch=50)).update(some_packs(policy, tiny))
    assert metrics["ratio_max_deviation"] == 0
    assert metrics["ratio_mean"] == pytest.approx(1, abs=1e-6)
    assert metrics["clip_fraction_low"] == metrics["clip_fraction_high"] == 0
    assert (metrics["optimizer_steps"], metrics["packs"], metrics["pairs"]) == (1, 4, 12)


def test_trainer_and_sampler_may_have_temperatures_of_their_own(make_policy, tiny):
    """At log-prob temperature 1 the trainer is a policy at temperature 1, whatever the sampler's."""
    both, plain = make_policy(), make_policy()
    both.temperature, both.logprob_temperature, plain.temperature = 1.2, 1.0, 1.0
    pack = some_packs(plain, tiny, 1)
    torch.testing.assert_close(both.logprobs(pack).logprobs, plain.logprobs(pack).logprobs, rtol=0, atol=0)
    (sampled,) = HFGenerator(both).generate([pack[0].prompt], 4, [0], Sampling(8))
    both.logprob_temperature = None
    again = PromptPack(0, 0, pack[0].prompt, sampled, np.ones(4), np.ones(4, bool))
    found = torch.tensor(np.concatenate([c.sampler_logprobs for c in sampled]))
    torch.testing.assert_close(both.logprobs([again]).logprobs.detach(), found, rtol=1e-4, atol=1e-4)


def test_a_warm_up_may_be_a_share_of_the_run(make_policy):
    options = GRPOOptions(lr=1.0, lr_schedule="cosine", lr_warmup_ratio=0.03, lr_min_ratio=0.1, total_steps=200)
    optimizer = build_optimizer(make_policy().model, options)
    rates = [set_learning_rate(optimizer, options, step) for step in (0, 5, 6, 199, 200, 300)]
    assert rates[:3] == pytest.approx([1 / 6, 1.0, 1.0], abs=1e-9)  # 3 % of 200 steps
    assert rates[4:] == pytest.approx([0.1, 0.1], abs=1e-9)
    assert 0.1 < rates[3] < 0.11


def test_two_minibatches_and_two_epochs_reach_the_clip(make_policy, tiny):
    policy = make_policy()
    options = GRPOOptions(lr=1e-2, minibatch_size=2, num_epochs=2, clip_low=0.1, clip_high=0.1, dual_clip=1.2)
    metrics = TrainingStep(policy, options).update(some_packs(policy, tiny))
    assert metrics["optimizer_steps"] == 4
    assert metrics["clip_fraction_low"] > 0
    assert metrics["clip_fraction_high"] > 0
    assert metrics["clip_fraction_dual"] > 0
    assert metrics["ratio_max_deviation"] > 0.1


def test_old_logprobs_are_those_before_the_first_step(make_policy, tiny):
    """Two minibatches computed by the step equal two steps with log-probs taken by hand at the start."""
    results = []
    for by_hand in (False, True):
        policy = make_policy()
        packs = some_packs(policy, tiny)
        if by_hand:
            packs = [with_old(policy, p) for p in packs]
        TrainingStep(policy, GRPOOptions(lr=1e-2, minibatch_size=2)).update(packs)
        results.append(weights(policy))
    for name in results[0]:
        torch.testing.assert_close(results[0][name], results[1][name], rtol=0, atol=1e-5)


def with_old(policy, pack):
    with torch.no_grad():
        flat = policy.logprobs([pack]).logprobs.numpy()
    splits = np.split(flat, np.cumsum([len(c.token_ids) for c in pack.completions])[:-1])
    return replace(pack, old_logprobs=tuple(splits))


@pytest.mark.parametrize(
    ("minibatch_size", "num_epochs", "correction", "expected"),
    [
        (None, 1, "none", [True]),
        (2, 1, "none", [False, True, True]),  # the second minibatch needs its old log-probs, the first brings its own
        (None, 2, "none", [True, True]),
        (None, 1, "truncate", [False, True]),
    ],
)
def test_no_pass_is_made_that_on_policy_makes_needless(
    make_policy, tiny, monkeypatch, minibatch_size, num_epochs, correction, expected
):
    """Forward passes of an update, with gradient or without; each minibatch is one micro-batch."""
    policy, passes = make_policy(), []
    plain = policy.logprobs
    monkeypatch.setattr(policy, "logprobs", lambda *args: passes.append(torch.is_grad_enabled()) or plain(*args))
    options = GRPOOptions(minibatch_size=minibatch_size, num_epochs=num_epochs, rollout_correction=correction)
    packs = [replace(p, native=np.ones(3, bool)) for p in some_packs(policy, tiny)]
    TrainingStep(policy, options).update(packs)
    assert passes == expected


def test_each_image_is_encoded_once_a_minibatch(make_policy, tiny):
    policy = make_policy()
    packs = [tiny.pack(policy, (3, 4), group=0, slot=v, text=t, seed=7) for v, t in enumerate(("How many?", "Count."))]
    one, cut = (TrainingStep(policy, GRPOOptions(max_tokens_per_microbatch=b)).update(packs) for b in (10_000, 30))
    assert one["encoded_images"] == cut["encoded_images"] == 1


def test_packs_with_and_without_old_logprobs_mix(make_policy, tiny):
    policy = make_policy()
    packs = some_packs(policy, tiny)
    mixed = [with_old(policy, p) if i % 2 else p for i, p in enumerate(packs)]
    metrics = TrainingStep(policy, GRPOOptions(lr=1e-3)).update(mixed)
    assert metrics["ratio_max_deviation"] < 1e-4


def test_a_non_finite_gradient_is_left_out_and_counted(make_policy, tiny):
    policy = make_policy()
    step, packs = TrainingStep(policy, GRPOOptions(lr=1e-2)), some_packs(policy, tiny)
    before = weights(policy)
    spoiled = [replace(packs[0], advantages=np.array([np.inf, 1.0, 0.0]))]
    metrics = step.update(spoiled)
    assert (metrics["skipped_steps"], metrics["optimizer_steps"]) == (1, 0)
    assert all(torch.equal(p, before[n]) for n, p in policy.model.named_parameters())
    metrics = step.update(packs)
    assert (metrics["skipped_steps"], metrics["optimizer_steps"]) == (1, 1)
    assert all(bool(p.isfinite().all()) for p in policy.model.parameters())


def test_logits_that_are_not_finite_end_the_update(make_policy, tiny):
    policy = make_policy()
    step, packs = TrainingStep(policy, GRPOOptions(lr=1e-2)), some_packs(policy, tiny)
    with torch.no_grad():
        policy.model.get_output_embeddings().weight[policy.encoder.tokenizer.convert_tokens_to_ids("y")] = float("inf")
    with pytest.raises(NotFiniteError, match="logits are not finite"):
        step.update(packs)


def test_an_update_that_trained_nothing_has_no_figures(make_policy, tiny):
    policy = make_policy()
    packs = [replace(p, advantages=np.zeros(3)) for p in some_packs(policy, tiny)]
    metrics = TrainingStep(policy, GRPOOptions()).update(packs)
    measured = {"entropy", "grad_norm", "ratio_mean", "ratio_max_deviation", "policy_loss", "kl", "clip_fraction_low"}
    assert {name for name, value in metrics.items() if np.isnan(value)} >= measured | {"logprob_diff_mean"}
    counted = ("optimizer_steps", "skipped_steps", "packs", "pairs", "skipped_packs", "encoded_images")
    assert [metrics[name] for name in counted] == [1, 0, 4, 12, 4, 0]


def test_gradient_norm_is_clipped(make_policy, tiny):
    def change(grad_clip):
        policy = make_policy()
        step = TrainingStep(policy, GRPOOptions(lr=1.0, grad_clip=grad_clip))
        step.optimizer = torch.optim.SGD(step.optimizer.param_groups, lr=1.0)
        before = weights(policy)
        norm = step.update(some_packs(policy, tiny))["grad_norm"]
        return norm, torch.sqrt(
            sum(((p.detach() - before[n]) ** 2).sum() for n, p in policy.model.named_parameters())
        ).item()

    norm, moved = change(0.0)
    assert moved == pytest.approx(norm, rel=1e-4)
    clipped_norm, clipped = change(norm / 10)
    assert clipped_norm == pytest.approx(norm, rel=1e-4)  # the metric is the norm before clipping
    assert clipped == pytest.approx(norm / 10, rel=1e-3)


@pytest.mark.parametrize("cut_at", [1, 2])
def test_resume_is_bit_equal(make_policy, tiny, cut_at):
    options = GRPOOptions(
        lr=1e-3, lr_schedule="cosine", total_steps=12, lr_warmup_steps=2, minibatch_size=2, weight_decay=0.01
    )

    def rounds(policy, step, first, last):
        return [
            step.update([replace(p, group=p.group + 4 * r) for p in some_packs(policy, tiny)])
            for r in range(first, last)
        ]

    policy = make_policy()
    straight = rounds(policy, TrainingStep(policy, options), 0, 3)
    halfway = make_policy()
    step = TrainingStep(halfway, options)
    rounds(halfway, step, 0, cut_at)
    state, kept = step.get_state(), halfway.model.state_dict()
    resumed = make_policy(seed=9)
    resumed.model.load_state_dict(kept)
    again = TrainingStep(resumed, options)
    again.set_state(state)
    assert rounds(resumed, again, cut_at, 3) == straight[cut_at:]
    for (name, one), (_, other) in zip(policy.model.named_parameters(), resumed.model.named_parameters(), strict=True):
        assert torch.equal(one, other), name


def test_kl_pulls_back_to_the_reference(make_policy, tiny):
    def distance(kl_coeff, estimator="k3"):
        policy, reference = make_policy(), make_policy()
        options = GRPOOptions(lr=3e-3, kl_coeff=kl_coeff, kl_estimator=estimator)
        step = TrainingStep(policy, options, reference if kl_coeff else None)
        packs = some_packs(policy, tiny)
        for _ in range(6):
            metrics = step.update(packs)
        with torch.no_grad():
            gap = policy.logprobs(packs).logprobs - reference.logprobs(packs).logprobs
        assert metrics["kl"] > 0 or not kl_coeff
        return gap.abs().mean().item()

    free = distance(0.0)
    assert distance(5.0) < 0.7 * free
    assert distance(5.0, "k2") < 0.7 * free


def test_kl_needs_a_reference_and_reads_native_completions(make_policy, tiny):
    policy, reference = make_policy(), make_policy(seed=3)
    with pytest.raises(ValueError, match="reference"):
        TrainingStep(policy, GRPOOptions(kl_coeff=0.1))
    shared = [tiny.pack(policy, (3, 4), (0.0, 0.0), native=(False, False))]
    options = GRPOOptions(lr=1e-3, kl_coeff=1.0)
    metrics = TrainingStep(policy, options, reference).update(shared)
    assert (metrics["kl"], metrics["grad_norm"]) == (0, 0)
    metrics = TrainingStep(policy, options.model_copy(update=dict(kl_on_shared=True)), reference).update(shared)
    assert metrics["kl"] > 0
    assert metrics["grad_norm"] > 0


def test_learning_rates_by_part_and_step(make_policy):
    policy = make_policy()
    options = GRPOOptions(lr=1e-2, vision_lr=1e-3, lr_warmup_steps=2, weight_decay=0.1)
    optimizer = build_optimizer(policy.model, options)
    assert set_learning_rate(optimizer, options, 0) == pytest.approx(5e-3)
    rates = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in policy.model.named_parameters():
        rate, decay = rates[id(parameter)]
        assert rate == pytest.approx(5e-4 if ".visual." in name else 5e-3), name
        assert decay == (0.1 if parameter.ndim > 1 else 0.0), name
    assert len(rates) == len(list(policy.model.parameters()))


def test_nothing_to_train_is_an_error(make_policy):
    policy = make_policy()
    policy.model.requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable parameters"):
        build_optimizer(policy.model, GRPOOptions())


def test_a_two_answer_task_is_learned(make_policy, tiny):
    """Reward 1 for one of two letters as the first token; from a fair start to near certainty."""
    policy = make_policy()
    prompt = tiny.prompt(policy, "Yes or no?", pictures=0)
    first, second = (policy.encoder.tokenizer.convert_tokens_to_ids(t) for t in "yn")
    rows = [target_pack(policy, i, prompt, t) for i, t in enumerate("yn")]
    run_sft(policy, lambda step: rows, SupervisedSettings(steps=40, lr=3e-3, warmup_steps=5))
    step, generator = TrainingStep(policy, GRPOOptions(lr=3e-3)), HFGenerator(policy)
    shares = []
    for i in range(25):
        (answers,) = generator.generate([prompt], 16, [i], Sampling(2))
        rewards = torch.tensor([[float(c.token_ids[0] == second) for c in answers]], dtype=torch.float64)
        shares.append(rewards.mean().item())
        credit = local_advantages(rewards)[0].numpy()
        metrics = step.update([PromptPack(0, 0, prompt, answers, credit, np.ones(16, bool))])
        if np.any(credit):  # else nothing is trained, and nothing compared
            assert metrics["logprob_diff_max"] < 1e-4
    assert first != second
    assert np.mean(shares[:2]) < 0.8
    assert np.mean(shares[-5:]) > 0.9


def test_supervision_lowers_the_loss_and_targets_end(make_policy, tiny):
    policy = make_policy()
    rows = [target_pack(policy, i, tiny.prompt(policy, seed=i), str(i)) for i in range(3)]
    assert all(p.completions[0].token_ids[-1] == policy.end_ids[0] for p in rows)
    options = SupervisedSettings(steps=30, lr=3e-3, warmup_steps=3, max_tokens_per_microbatch=40)
    losses = run_sft(policy, lambda step: rows, options)
    assert len(losses) == 30
    assert losses[0] == pytest.approx(np.log(len(policy.encoder.tokenizer)), abs=1.5)
    assert losses[-1] < 0.5 * losses[0]
