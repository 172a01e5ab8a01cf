"""Micro-batching, cuts, order and skipped packs never change a minibatch's loss or gradient: a tiny real model."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sharegrpo_rl.config import GRPOOptions
from sharegrpo_rl.training.batching import cut, micro_batches, minibatches, num_tokens, select
from sharegrpo_rl.training.loss import clipped, count, rows_of, weighted_loss
from sharegrpo_rl.training.step import TrainingStep

AGGREGATIONS = ("token_mean", "sequence_mean", "question_mean", "max_length")
LEVELS = ("token", "sequence_product", "sequence")


def with_old(packs, seed=0):
    """The packs with old log-probs a little off the truth of nobody: ratios away from 1, clips at work."""
    rng = np.random.default_rng(seed)
    return [
        replace(
            p, old_logprobs=tuple(rng.normal(-5.5, 0.7, len(c.token_ids)).astype(np.float32) for c in p.completions)
        )
        for p in packs
    ]


def hand_packs(policy, tiny, seed=0):
    return with_old(
        [
            tiny.pack(policy, (3, 1, 4), (1.0, -0.5, 0.0), group=0, slot=0, pictures=1, seed=seed),
            tiny.pack(policy, (3, 1, 4), (0.3, 0.2, -2.0), group=0, slot=1, pictures=1, seed=seed, text="Count."),
            tiny.pack(policy, (2, 5), (0.0, 0.0), group=1, pictures=0, seed=seed),
            tiny.pack(policy, (6,), (-1.0,), group=2, pictures=2, seed=seed),
        ],
        seed,
    )


def loss_of(policy, packs, options, skip=True):
    """Loss of a minibatch as the training step sums it up; `skip` leaves out packs without advantage."""
    denominator = count(packs, options)
    active = [p for p in packs if not skip or options.kl_coeff or np.any(p.advantages != 0)]
    total = torch.zeros((), dtype=torch.float64)
    for micro in micro_batches(active, options.max_tokens_per_microbatch):
        values = policy.logprobs(micro).logprobs
        old = torch.from_numpy(np.concatenate([o for p in micro for o in p.old_logprobs])).to(values)
        loss, _ = weighted_loss(clipped, rows_of(micro, options, values), values, old, denominator, options)
        total = total + loss
    return total


@pytest.fixture(scope="module")
def double_policy(make_policy):
    """In float64, apart from the norms and rotations that transformers always computes in float32."""
    return make_policy(dtype="float64")


@settings(max_examples=8)
@given(
    st.integers(1, 300),
    st.permutations(range(4)),
    st.sampled_from(AGGREGATIONS),
    st.sampled_from(LEVELS),
    st.sampled_from([None, 3.0]),
    st.booleans(),
)
def test_budget_and_order_change_nothing(double_policy, tiny, budget, order, aggregation, level, dual, excluded):
    packs = hand_packs(double_policy, tiny)
    options = GRPOOptions(
        loss_aggregation=aggregation, ratio_level=level, dual_clip=dual, exclude_zero_advantage=excluded,
        max_tokens_per_microbatch=10_000, max_completion_tokens=8,
    )  # fmt: skip
    whole = loss_of(double_policy, packs, options, skip=False)
    cut_up = loss_of(
        double_policy, [packs[i] for i in order], options.model_copy(update=dict(max_tokens_per_microbatch=budget))
    )
    assert whole.item() == pytest.approx(cut_up.item(), abs=1e-6)
    expected, found = (tiny.gradients(double_policy, x) for x in (whole, cut_up))
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6, msg=name)


def test_order_of_completions_changes_nothing(double_policy, tiny):
    packs = hand_packs(double_policy, tiny)
    options = GRPOOptions(max_completion_tokens=8)
    turned = [select(p, range(len(p.completions))[::-1]) for p in packs]
    one, other = (tiny.gradients(double_policy, loss_of(double_policy, x, options)) for x in (packs, turned))
    for name in one:
        torch.testing.assert_close(other[name], one[name], rtol=1e-5, atol=1e-6)


def test_loss_of_packs_equals_a_plain_loop(double_policy, tiny):
    """The whole way from packs to the loss against plain Python, to 1e-9."""
    from math import exp

    packs = hand_packs(double_policy, tiny)
    options = GRPOOptions(clip_low=0.2, clip_high=0.3, dual_clip=3.0)
    total = tokens = 0
    for pack in packs:
        values = iter(double_policy.logprobs([pack]).logprobs.tolist())
        for old, advantage in zip(pack.old_logprobs, pack.advantages, strict=True):
            for o in old.tolist():
                ratio = exp(next(values) - o)
                value = min(ratio * advantage, min(max(ratio, 0.8), 1.3) * advantage)
                total -= max(value, 3.0 * advantage) if advantage < 0 else value
                tokens += 1
    assert loss_of(double_policy, packs, options).item() == pytest.approx(total / tokens, abs=1e-9)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_steps_with_different_budgets_are_the_same(make_policy, tiny, aggregation):
    """Through the optimizer: one budget holds everything, the other cuts every pack."""
    norms = []
    for budget in (10_000, 30):
        policy = make_policy(dtype="float64")
        options = GRPOOptions(
            lr=1e-3, loss_aggregation=aggregation, max_tokens_per_microbatch=budget, max_completion_tokens=8
        )
        norms.append(TrainingStep(policy, options).update(hand_packs(policy, tiny))["grad_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-6)
    assert norms[0] > 0


def test_zero_advantages_count_in_the_denominator(policy, tiny):
    packs = hand_packs(policy, tiny)
    counted = count(packs, GRPOOptions())
    assert (counted.sequences, counted.tokens) == (9, 8 + 8 + 7 + 6)
    excluded = count(packs, GRPOOptions(exclude_zero_advantage=True))
    assert (excluded.sequences, excluded.tokens) == (6, 4 + 8 + 6)
    assert count(packs[2:3], GRPOOptions(exclude_zero_advantage=True))[:2] == (
        1,
        1,
    )  # nothing left: no division by 0
    ratio = loss_of(policy, packs, GRPOOptions()) / loss_of(policy, packs, GRPOOptions(exclude_zero_advantage=True))
    assert ratio.item() == pytest.approx(18 / 29, rel=1e-5)


def test_truncated_completions_can_be_masked(double_policy, tiny):
    pack = with_old([tiny.pack(double_policy, (3, 2), (1.0, -1.0), truncated=(1,))])
    kept = [select(pack[0], [0])]
    masked = GRPOOptions(mask_truncated=True)
    assert count(pack, masked)[:2] == (1, 3)
    one, other = loss_of(double_policy, pack, masked), loss_of(double_policy, kept, GRPOOptions())
    assert one.item() == pytest.approx(other.item(), abs=1e-9)
    assert loss_of(double_policy, pack, GRPOOptions()).item() != pytest.approx(one.item(), abs=1e-6)


def test_skipped_packs_leave_the_step_as_if_run(make_policy, tiny, monkeypatch):
    """Bit-equal weights after two steps, the second without any advantage (AdamW still moves by its momentum)."""
    from sharegrpo_rl.training import step as module

    found = []
    for skipping in (True, False):
        policy = make_policy()
        training = TrainingStep(policy, GRPOOptions(lr=1e-3, max_tokens_per_microbatch=60))
        if not skipping:
            monkeypatch.setattr(module.np, "any", lambda x: True)
        training.update(hand_packs(policy, tiny))
        training.update([tiny.pack(policy, (3, 2), (0.0, 0.0))])
        found.append({n: p.detach().clone() for n, p in policy.model.named_parameters()})
        assert training.optimizer_steps == 2
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=0, atol=1e-6, msg=name)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(1, 120))
def test_cut_keeps_every_completion_once(policy, tiny, lengths, budget):
    pack = tiny.pack(policy, tuple(lengths), pictures=0)
    parts = cut(pack, budget)
    assert [id(c) for p in parts for c in p.completions] == [id(c) for c in pack.completions]
    assert np.concatenate([p.advantages for p in parts]).tolist() == pack.advantages.tolist()
    assert all(p.prompt is pack.prompt for p in parts)
    assert all(num_tokens(p) <= budget or len(p.completions) == 1 for p in parts)
    batches = micro_batches([pack, pack], budget)
    assert all(sum(map(num_tokens, b)) <= budget or (len(b) == 1 and len(b[0].completions) == 1) for b in batches)
    assert sum(len(p.completions) for b in batches for p in b) == 2 * len(lengths)


def test_a_prompt_in_each_row_counts_each_time(policy, tiny):
    pack = tiny.pack(policy, (3, 1, 4, 2), pictures=0)
    prompt = len(pack.prompt.input_ids)
    assert num_tokens(pack, prompt_in_each=True) == 4 * prompt + 10
    assert [len(p.completions) for p in cut(pack, 2 * prompt + 6, prompt_in_each=True)] == [2, 2]
    assert [len(b) for b in micro_batches([pack, pack], 8 * prompt + 20, prompt_in_each=True)] == [2]
    assert len(micro_batches([pack, pack], 8 * prompt + 19, prompt_in_each=True)) == 2


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.sampled_from([None, 1, 2, 3]))
def test_a_question_is_never_split(policy, tiny, groups, size):
    packs = [tiny.pack(policy, (1,), group=g, slot=i, pictures=0) for i, g in enumerate(groups)]
    batches = minibatches(packs, size)
    homes = {g: {i for i, b in enumerate(batches) for p in b if p.group == g} for g in groups}
    assert all(len(places) == 1 for places in homes.values())
    assert sorted(p.slot for b in batches for p in b) == list(range(len(groups)))
    assert all(len({p.group for p in b}) <= (size or len(groups)) for b in batches)
