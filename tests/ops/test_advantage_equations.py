"""Advantages against plain-Python loops typed from the equations of R1-ShareVL: S1, S5, S6, S7 and the released code."""

from math import sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sharegrpo_rl.ops.advantages import global_advantages, hierarchical_advantages, local_advantages, standardize

CLOSE = {"rtol": 0, "atol": 1e-9}
REWARD = st.sampled_from([0.0, 0.1, 0.9, 1.0, 1 / 3, 0.55, -0.2])


@st.composite
def groups(draw, max_variants=4, max_samples=5):
    """Rewards [V][N] as nested lists, N >= 2."""
    variants, samples = draw(st.integers(1, max_variants)), draw(st.integers(2, max_samples))
    return [[draw(REWARD) for _ in range(samples)] for _ in range(variants)]


def mean(values):
    return sum(values) / len(values)


def spread(values, kind):
    if kind == "none":
        return 1.0
    squares = sum((v - mean(values)) ** 2 for v in values)
    return sqrt(squares / (len(values) - 1 if kind == "std" else len(values)))


def score(value, values, kind="std", eps=0.0):
    """(r - mean) / (std + eps), 0 for a group of equal rewards."""
    if max(values) == min(values):
        return 0.0
    return (value - mean(values)) / (spread(values, kind) + (eps if kind != "none" else 0.0))


def s5(rewards, kind="std", eps=0.0, repeats=1):
    everything = [r for variant in rewards for r in variant] * repeats
    return [[score(r, everything, kind, eps) for r in variant] for variant in rewards]


def s6(rewards, kind="std", eps=0.0):
    return [[score(r, variant, kind, eps) for r in variant] for variant in rewards]


def s7(rewards, kind="std", eps=0.0, repeats=1):
    """{(i, j, k): advantage} of the i-th completion of variant j trained under variant k, literally as printed."""
    whole, own = s5(rewards, kind, eps, repeats), s6(rewards, kind, eps)
    m, n = len(rewards), len(rewards[0])
    return {
        (i, j, k): whole[j][i] + (own[j][i] if j == k else 0.0) for i in range(n) for j in range(m) for k in range(m)
    }


def released_code(rewards, eps=1e-6):
    """core_algos.py of R1-ShareVL: m^2 n rows, global spread over all rows, local over the diagonal ones."""
    m, n = len(rewards), len(rewards[0])
    rows = [(k, j, i) for k in range(m) for j in range(m) for i in range(n)]
    scores = [rewards[j][i] for _, j, i in rows]
    found = {}
    for k, j, i in rows:
        value = (rewards[j][i] - mean(scores)) / (spread(scores, "std") + eps)
        if j == k:
            value += (rewards[j][i] - mean(rewards[j])) / (spread(rewards[j], "std") + eps)
        found[i, j, k] = value
    return found


def tensor(rewards):
    return torch.tensor(rewards, dtype=torch.float64)


@given(groups(), st.sampled_from(["std", "population_std", "none"]), st.sampled_from([0.0, 1e-6, 1e-4]))
def test_levels_equal_the_printed_sums(rewards, kind, eps):
    torch.testing.assert_close(local_advantages(tensor(rewards), kind, eps), tensor(s6(rewards, kind, eps)), **CLOSE)
    torch.testing.assert_close(global_advantages(tensor(rewards), kind, eps), tensor(s5(rewards, kind, eps)), **CLOSE)


@given(groups(), st.sampled_from(["std", "population_std"]), st.sampled_from([0.0, 1e-6]))
def test_native_and_shared_credit_is_s7(rewards, kind, eps):
    native, shared = hierarchical_advantages(tensor(rewards), "global_local", kind, eps, single_variant_doubles=True)
    for (i, j, k), expected in s7(rewards, kind, eps).items():
        assert (native if j == k else shared)[j, i].item() == pytest.approx(expected, abs=1e-9)


@given(groups().filter(lambda g: all(max(v) > min(v) for v in g)))
def test_released_code_is_reproduced(rewards):
    native, shared = hierarchical_advantages(tensor(rewards), eps=1e-6, duplicate=True, single_variant_doubles=True)
    for (i, j, k), expected in released_code(rewards).items():
        assert (native if j == k else shared)[j, i].item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("m", "n", "ratio"), [(2, 6, 0.978), (3, 4, 0.971), (4, 3, 0.968)])
def test_spread_over_duplicated_rewards(m, n, ratio):
    rewards = torch.rand(m, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    quotient = global_advantages(rewards) / global_advantages(rewards, duplicate=True)
    torch.testing.assert_close(quotient, torch.full_like(quotient, sqrt(m * (m * n - 1) / (m * m * n - 1))), **CLOSE)
    assert quotient[0, 0].item() == pytest.approx(ratio, abs=6e-4)
    same = global_advantages(rewards, "population_std", duplicate=True)
    torch.testing.assert_close(same, global_advantages(rewards, "population_std"), **CLOSE)


@given(groups(max_variants=1), st.sampled_from(["std", "population_std", "none"]))
def test_one_variant_is_plain_grpo_unless_asked(rewards, kind):
    plain = local_advantages(tensor(rewards), kind)
    native, shared = hierarchical_advantages(tensor(rewards), std=kind)
    torch.testing.assert_close(native, plain, **CLOSE)
    torch.testing.assert_close(shared, plain, **CLOSE)
    doubled, _ = hierarchical_advantages(tensor(rewards), std=kind, single_variant_doubles=True)
    torch.testing.assert_close(doubled, 2 * plain, **CLOSE)


@pytest.mark.parametrize("levels", ["global", "local"])
def test_single_levels(levels):
    rewards = [[0.0, 1.0, 0.1], [0.9, 0.9, 0.1]]
    native, shared = hierarchical_advantages(tensor(rewards), levels)
    expected = tensor(s5(rewards) if levels == "global" else s6(rewards))
    torch.testing.assert_close(native, expected, **CLOSE)
    torch.testing.assert_close(shared, expected if levels == "global" else torch.zeros_like(expected), **CLOSE)


def test_questions_are_kept_apart():
    rewards = torch.rand(3, 2, 4, dtype=torch.float64)
    native, shared = hierarchical_advantages(rewards)
    for q in range(3):
        one, other = hierarchical_advantages(rewards[q])
        torch.testing.assert_close(native[q], one, **CLOSE)
        torch.testing.assert_close(shared[q], other, **CLOSE)


@given(
    st.sampled_from([0.1, 0.9, 1 / 3, 0.7, 1e-30, 123.456]) | st.floats(-1e6, 1e6),
    st.integers(1, 4),
    st.integers(2, 24),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from(["std", "population_std", "none"]),
    st.sampled_from([0.0, 1e-6]),
)
def test_equal_rewards_give_exactly_zero(value, m, n, dtype, kind, eps):
    rewards = torch.full((m, n), value, dtype=dtype)
    for found in (*hierarchical_advantages(rewards, std=kind, eps=eps), local_advantages(rewards, kind, eps)):
        assert torch.equal(found, torch.zeros_like(found))


@given(groups())
def test_advantages_of_a_group_add_up_to_zero(rewards):
    assert local_advantages(tensor(rewards)).sum(-1).abs().max() < 1e-9
    assert global_advantages(tensor(rewards)).sum().abs() < 1e-9


@given(groups(), st.permutations(range(5)))
def test_order_of_samples_does_not_matter(rewards, order):
    order = [i for i in order if i < len(rewards[0])]
    native, shared = hierarchical_advantages(tensor(rewards))
    again, again_shared = hierarchical_advantages(tensor(rewards)[:, order])
    torch.testing.assert_close(again, native[:, order], **CLOSE)
    torch.testing.assert_close(again_shared, shared[:, order], **CLOSE)


def test_a_group_of_one_is_refused():
    with pytest.raises(ValueError, match="at least two"):
        local_advantages(torch.ones(2, 1))
    with pytest.raises(ValueError, match="at least two"):
        hierarchical_advantages(torch.ones(1, 1))
    assert global_advantages(torch.tensor([[0.0], [1.0]])).shape == (2, 1)  # two variants of one sample are a group


def test_gradient_through_the_group_statistics():
    rewards = torch.rand(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda r: standardize(r, (-2, -1)), (rewards,))
    assert torch.autograd.gradcheck(lambda r: hierarchical_advantages(r)[0], (rewards,))


def test_unequal_beside_equal_slots_have_finite_gradients():
    rewards = torch.tensor([[0.1, 0.1, 0.1], [0.0, 1.0, 0.1]], dtype=torch.float64, requires_grad=True)
    local_advantages(rewards).square().sum().backward()
    assert bool(torch.isfinite(rewards.grad).all())
