"""Plans of an update for several ranks: every completion trained once, ranks in step, work balanced, one denominator."""

import pickle
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharegrpo_rl.config import GRPOOptions
from sharegrpo_rl.data.types import Completion, PixelInput, Prompt, PromptPack
from sharegrpo_rl.training.batching import (
    balance,
    gather_kl,
    micro_batches,
    minibatches,
    num_tokens,
    plan_kl,
    plan_update,
)
from sharegrpo_rl.training.loss import count

ELSEWHERE = object()  # what stands for pixels in the object store: it has no shape, and no use


def made_pack(group, prompt_length, lengths, advantages, pictures):
    images = tuple(PixelInput(f"{group}-{i}", ELSEWHERE) for i in range(pictures))
    completions = tuple(Completion(np.zeros(n, np.int64), np.zeros(n, np.float32), "") for n in lengths)
    credit = np.array(advantages, np.float64)
    return PromptPack(
        group, 0, Prompt(np.zeros(prompt_length, np.int64), images), completions, credit, credit == credit
    )


@st.composite
def some_packs(draw):
    packs = []
    for group in range(draw(st.integers(0, 7))):
        for _ in range(draw(st.integers(1, 2))):
            lengths = draw(st.lists(st.integers(1, 30), min_size=1, max_size=4))
            credit = draw(st.sampled_from([0.0, 1.0, -0.5]))
            pictures = draw(st.sampled_from([0, 0, 1, 2]))
            packs.append(made_pack(group, draw(st.integers(1, 40)), lengths, [credit] * len(lengths), pictures))
    return packs


plans = given(
    some_packs(), st.integers(1, 5), st.integers(1, 120), st.sampled_from([None, 1, 3]), st.sampled_from([0.0, 0.1])
)


def options(budget, minibatch_size, kl_coeff=0.0):
    return GRPOOptions(max_tokens_per_microbatch=budget, minibatch_size=minibatch_size, kl_coeff=kl_coeff)


def trained(micro):
    """(pair, completion) of what counts in a micro-batch."""
    completions = [c for p in micro.packs for c in p.completions]
    weightless = sum(len(p.completions) for p in micro.packs[len(micro.packs) - micro.fillers :])
    return list(zip(micro.pairs, completions, strict=True))[: len(completions) - weightless]


either = pytest.mark.parametrize("prompt_in_each", [False, True], ids=["shared prompts", "a prompt in each row"])


@either
@plans
def test_every_completion_is_trained_once(prompt_in_each, packs, ranks, budget, size, kl_coeff):
    shares = plan_update(packs, options(budget, size, kl_coeff), ranks, prompt_in_each)
    found = [x for s in shares for b in s.minibatches for m in b.micro for x in trained(m)]
    numbered = list(enumerate((p, c) for p in packs for c in p.completions))
    expected = {pair: c for pair, (p, c) in numbered if kl_coeff or p.advantages.any()}
    assert len(found) == len(expected)
    assert all(expected[pair] is completion for pair, completion in found)
    assert len(shares) == ranks


@plans
def test_ranks_stay_in_step(packs, ranks, budget, size, kl_coeff):
    """As many micro-batches everywhere, none empty, and where one shows pictures all of them do."""
    shares = plan_update(packs, options(budget, size, kl_coeff), ranks)
    for batches in zip(*(s.minibatches for s in shares), strict=True):
        for step in zip(*(b.micro for b in batches), strict=True):
            shown = [any(p.prompt.images for p in m.packs) for m in step]
            assert len(set(shown)) == 1
            assert all(m.packs for m in step)
            assert any(m.fillers < len(m.packs) for m in step)


@plans
def test_denominators_are_the_whole_minibatch_s(packs, ranks, budget, size, kl_coeff):
    settings = options(budget, size, kl_coeff)
    expected = [count(b, settings) for b in minibatches(packs, size)]
    for share in plan_update(packs, settings, ranks):
        assert [b.denominator for b in share.minibatches] == expected
        assert share.num_packs == len(packs)


@plans
def test_one_rank_runs_the_micro_batches_in_order(packs, ranks, budget, size, kl_coeff):
    settings = options(budget, size, kl_coeff)
    (share,) = plan_update(packs, settings, 1)
    for batch, whole in zip(share.minibatches, minibatches(packs, size), strict=True):
        expected = micro_batches([p for p in whole if kl_coeff or p.advantages.any()], budget)
        same = [[(p.prompt, p.completions) for p in m] for m in expected]
        assert [[(p.prompt, p.completions) for p in m.packs] for m in batch.micro] == same
        assert not any(m.fillers for m in batch.micro)


@either
@plans
def test_micro_batches_fit_the_budget(prompt_in_each, packs, ranks, budget, size, kl_coeff):
    """But for a completion that is too long even alone, and a filler beside a text-only pack."""
    for share in plan_update(packs, options(budget, size, kl_coeff), ranks, prompt_in_each):
        for micro in (m for b in share.minibatches for m in b.micro):
            real = micro.packs[: len(micro.packs) - micro.fillers]
            alone = len(real) == 1 and len(real[0].completions) == 1
            assert alone or sum(num_tokens(p, prompt_in_each) for p in real) <= budget


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 6), st.integers(1, 200))
def test_work_is_balanced(costs, ranks, limit):
    plan = balance(costs, ranks, limit)
    assert sorted(chain.from_iterable(chain.from_iterable(plan))) == list(range(len(costs)))
    most_expensive = max(costs, default=0)
    loads = [[sum(costs[i] for i in items) for items in rank] for rank in plan]
    assert all(
        load <= limit or len(items) == 1
        for r, own in zip(loads, plan, strict=True)
        for load, items in zip(r, own, strict=True)
    )
    for step in zip(*loads, strict=True):
        assert max(step) - min(step) <= most_expensive
    totals = [sum(rank) for rank in loads]
    assert max(totals) - min(totals) <= most_expensive


def test_five_equal_packs_on_two_ranks():
    packs = [made_pack(g, 10, (5, 5), (1.0, -1.0), 1) for g in range(5)]
    shares = plan_update(packs, options(1000, None), 2)
    assert sorted(len(s.packs) for s in shares) == [2, 3]
    assert not any(m.fillers for s in shares for b in s.minibatches for m in b.micro)


def test_a_text_only_rank_takes_the_cheapest_pack_with_a_picture_along():
    seeing = [made_pack(0, 30, (9, 2, 4), (1.0, -1.0, 1.0), 1), made_pack(1, 20, (50,), (1.0,), 1)]
    text = made_pack(2, 100, (20, 40), (1.0, -1.0), 0)
    shares = plan_update([*seeing, text], options(200, None), 2)
    (lonely,) = [m for s in shares for b in s.minibatches for m in b.micro if m.fillers]
    assert [p.group for p in lonely.packs] == [2, 0]
    filler = lonely.packs[-1]
    assert filler.prompt is seeing[0].prompt
    assert [len(c.token_ids) for c in filler.completions] == [2]


def test_a_rank_without_work_repeats_the_cheapest():
    shares = plan_update([made_pack(0, 5, (7, 3), (1.0, -1.0), 0)], options(100, None), 3)
    work = [[(m.fillers, m.pairs) for b in s.minibatches for m in b.micro] for s in shares]
    assert sorted(work) == [[(0, (0, 1))], [(1, (1,))], [(1, (1,))]]


def test_a_rank_without_work_beside_text_takes_text():
    """The cheapest of all has a picture, but no other rank runs the vision tower in that step."""
    seeing = [made_pack(g, 9, (1, 80), (1.0, -1.0), 1) for g in range(2)]
    shares = plan_update([*seeing, made_pack(2, 60, (20,), (1.0,), 0)], options(110, None), 2)
    work = [[m for b in s.minibatches for m in b.micro] for s in shares]
    last = [[p.group for p in micro[-1].packs] for micro in work]
    assert [len(micro) for micro in work] == [2, 2]
    assert last == [[2], [2]]
    assert sorted(micro[-1].fillers for micro in work) == [0, 1]


@plans
def test_a_share_is_pickled_and_takes_other_packs(packs, ranks, budget, size, kl_coeff):
    packs = [made_pack(p.group, 3, [len(c.token_ids) for c in p.completions], p.advantages, 0) for p in packs]
    for share in plan_update(packs, options(budget, size, kl_coeff), ranks):
        again = pickle.loads(pickle.dumps(share))
        assert [len(p.completions) for p in again.packs] == [len(p.completions) for p in share.packs]
        renewed = again.with_packs(share.packs)
        assert renewed.minibatches == share.minibatches


@plans
def test_the_kl_s_of_all_ranks_come_back_in_order(packs, ranks, budget, size, kl_coeff):
    """Each rank answers with its completions' lengths in place of their KL."""
    shares = plan_kl(packs, options(budget, size), ranks)
    micro = [[m for b in s.minibatches for m in b.micro] for s in shares]
    parts = [{pair: float(len(c.token_ids)) for m in own for pair, c in trained(m)} for own in micro]
    for pack, found in zip(packs, gather_kl(packs, parts) if packs else [], strict=True):
        assert found.tolist() == [len(c.token_ids) for c in pack.completions]


def test_copies_of_a_completion_have_one_place():
    own = made_pack(0, 5, (7, 3), (1.0, -1.0), 0)
    sibling = PromptPack(0, 1, own.prompt, own.completions, own.advantages, np.zeros(2, bool))
    (share,) = plan_update([own, sibling], options(100, None), 1)
    assert share.starts.tolist() == [0, 7, 0, 7]
    assert share.tokens == pytest.approx(10, abs=0)
