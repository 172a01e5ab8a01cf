"""The law of sampling: softmax, nucleus, the edges of the uniform number, seeds."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sharegrpo_rl.generation.hf import nucleus, sample, uniform_numbers

PROBS = torch.tensor([0.05, 0.3, 0.0, 0.4, 0.2, 0.05], dtype=torch.float64)


def counts(probs, top_p, number=40_000):
    uniforms = torch.from_numpy(np.random.default_rng(0).random(number))
    drawn = sample(nucleus(probs[None], top_p).repeat(number, 1), uniforms)
    return torch.bincount(drawn, minlength=len(probs)).double()


def chi_square(observed, probs):
    expected = probs / probs.sum() * observed.sum()
    inside = expected > 0
    return float(((observed - expected)[inside] ** 2 / expected[inside]).sum())


def test_sampling_follows_the_softmax():
    observed = counts(PROBS, 1.0)
    assert observed[2] == 0
    assert chi_square(observed, PROBS) < 18.5  # 99.9 % point at 4 degrees of freedom


@pytest.mark.parametrize(("top_p", "kept"), [(0.35, [3]), (0.5, [3, 1]), (0.71, [3, 1, 4]), (0.89, [3, 1, 4])])
def test_top_p_keeps_the_smallest_set_of_that_mass(top_p, kept):
    observed = counts(PROBS, top_p)
    assert set(observed.nonzero()[:, 0].tolist()) == set(kept)
    inside = torch.zeros_like(PROBS)
    inside[kept] = PROBS[kept]
    assert chi_square(observed, inside) < 18.5


@pytest.mark.parametrize("top_p", [0.2, 0.9, 0.999])
def test_few_candidates_give_the_same_nucleus(top_p):
    sharp, flat = torch.randn(2, 4, 50, generator=torch.Generator().manual_seed(0)).double().mul_(3).unbind()
    probs = torch.cat([sharp, flat / 30]).softmax(-1)
    torch.testing.assert_close(nucleus(probs, top_p, 8), nucleus(probs, top_p), rtol=1e-12, atol=0)


@given(
    st.lists(st.floats(-30, 5), min_size=1, max_size=8),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from([0.01, 0.5, 0.9, 0.999, 1.0]),
)
def test_a_drawn_id_always_has_probability(logits, uniform, top_p):
    probs = torch.tensor([*logits, float("-inf")])[None].float().softmax(-1)
    number = torch.tensor([uniform], dtype=torch.float64)
    (drawn,) = sample(nucleus(probs, top_p), number).tolist()
    assert probs[0, drawn] > 0
    tiny_nucleus = sample(nucleus(probs, 1e-9), number).item()
    assert probs[0, tiny_nucleus] == probs.max()


def test_the_extremes_of_the_uniform_number():
    probs = torch.tensor([[0.0, 0.5, 0.5, 0.0]])
    last = 1 - 2.0**-53
    assert sample(probs, torch.tensor([0.0], dtype=torch.float64)).tolist() == [1]
    assert sample(probs, torch.tensor([last], dtype=torch.float64)).tolist() == [2]


def test_uniform_numbers_are_those_of_their_seed():
    assert torch.equal(uniform_numbers(3, 2, 5), uniform_numbers(3, 2, 5))
    assert not torch.equal(uniform_numbers(3, 2, 5), uniform_numbers(4, 2, 5))
