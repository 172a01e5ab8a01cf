"""The clipped objective against plain-Python loops typed from S2 and S8, its gradients, and every aggregation."""

from math import exp

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sharegrpo_rl.ops.policy_loss import (
    Denominator,
    clipped_surrogate,
    importance_ratio,
    kl_estimate,
    token_weights,
)

LEVELS = ("token", "sequence_product", "sequence")
AGGREGATIONS = ("token_mean", "sequence_mean", "question_mean", "max_length")
NUMBER = st.floats(-1.5, 1.5).map(lambda x: round(x, 6))


@st.composite
def rows(draw):
    """(log-probs, old log-probs, advantages): 1..4 completions of 1..5 tokens, ragged, as nested lists."""
    lengths = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    new = [[draw(NUMBER) for _ in range(n)] for n in lengths]
    old = [[draw(NUMBER) for _ in range(n)] for n in lengths]
    return new, old, [draw(NUMBER) for _ in lengths]


def padded(values):
    width = max(len(v) for v in values)
    return torch.tensor([[*v, *[7.7] * (width - len(v))] for v in values], dtype=torch.float64)


def mask_of(values):
    width = max(len(v) for v in values)
    return torch.tensor([[i < len(v) for i in range(width)] for v in values])


def clip(value, low, high):
    return min(max(value, low), high)


def term(ratio, advantage, low, high, dual):
    """min(r A, clip(r, 1 - low, 1 + high) A), and not below dual A where A < 0."""
    value = min(ratio * advantage, clip(ratio, 1 - low, 1 + high) * advantage)
    return max(value, dual * advantage) if dual is not None and advantage < 0 else value


def ratios(new, old, level):
    differences = [a - b for a, b in zip(new, old, strict=True)]
    if level == "token":
        return [exp(d) for d in differences]
    total = sum(differences)
    return [exp(total / (len(differences) if level == "sequence" else 1))] * len(differences)


def loop_loss(new, old, advantages, level, aggregation, low, high, dual, max_tokens):
    """The minibatch loss as a sum over sequences and tokens; a sequence-level ratio makes a sequence one term."""
    terms = [
        [term(r, a, low, high, dual) for r in ratios(n, o, level)] for n, o, a in zip(new, old, advantages, strict=True)
    ]
    if aggregation == "token_mean":
        return -sum(map(sum, terms)) / sum(map(len, terms))
    if aggregation == "max_length":
        return -sum(map(sum, terms)) / (len(terms) * max_tokens)
    if aggregation == "sequence_mean" or level != "token":
        return -sum(sum(t) / len(t) for t in terms) / len(terms)
    return -sum(map(sum, terms)) / len(terms)


def our_loss(new, old, advantages, level, aggregation, low, high, dual, max_tokens, mask=None):
    mask = mask_of(new) if mask is None else mask
    denominator = Denominator(len(new), int(mask.sum()), max_tokens)
    ratio = importance_ratio(padded(new), padded(old), mask, level)
    objective, _ = clipped_surrogate(ratio, torch.tensor(advantages, dtype=torch.float64), low, high, dual)
    return -(objective * token_weights(mask, aggregation, denominator, level, torch.float64)).sum()


@given(rows(), st.sampled_from(LEVELS), st.sampled_from(AGGREGATIONS), st.sampled_from([None, 3.0, 1.2]))
def test_loss_equals_the_loops(data, level, aggregation, dual):
    ours = our_loss(*data, level, aggregation, 0.2, 0.3, dual, 8)
    assert ours.dtype == torch.float64
    assert ours.item() == pytest.approx(loop_loss(*data, level, aggregation, 0.2, 0.3, dual, 8), abs=1e-9)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("advantage", [1.5, 0.0, -1.5])
@pytest.mark.parametrize("log_ratio", [0.0, 0.1, 1.0, 5.0, 19.0, 88.0, 89.0, 700.0, 1000.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_large_log_ratios_leave_loss_and_gradient_finite(level, advantage, log_ratio, sign):
    """In float32 as in float64 by hand: a clipped or worthless completion has no gradient, however large its ratio."""
    parts = (
        torch.tensor([[0.75, 0.25]]) * sign * log_ratio
        if level == "sequence_product"
        else torch.full((1, 2), sign * log_ratio)
    )
    new = parts.clone().requires_grad_()
    mask = torch.ones(1, 2, dtype=torch.bool)
    ratio = importance_ratio(new, torch.zeros(1, 2), mask, level)
    objective, _ = clipped_surrogate(ratio, torch.tensor([advantage]), 0.2, 0.3, 3.0)
    (gradient,) = torch.autograd.grad(objective.sum(), new)
    true = exp(min(sign * log_ratio, 20.0))  # no bound of the clip is near 20
    by_hand = min(true * advantage, clip(true, 0.8, 1.3) * advantage)
    by_hand = max(by_hand, 3.0 * advantage) if advantage < 0 else by_hand
    assert objective.detach().tolist() == [[pytest.approx(by_hand, rel=1e-5)] * 2]
    moves = by_hand == true * advantage and advantage != 0 and sign * log_ratio < 20
    by_token = true * advantage * {"token": 1, "sequence": 1, "sequence_product": 2}[level]
    assert gradient.tolist() == [[pytest.approx(by_token if moves else 0.0, rel=1e-5, abs=1e-30)] * 2]


@pytest.mark.parametrize("difference", [0.0, -5.0, -89.0, -1000.0, 89.0, 1000.0])
def test_large_differences_leave_the_kl_finite(difference):
    logprobs = torch.tensor([difference], requires_grad=True)
    value = kl_estimate(logprobs, torch.zeros(1), "k3")
    assert value.item() == pytest.approx(exp(min(-difference, 20.0)) - 1 + difference, rel=1e-5)
    assert torch.isfinite(torch.autograd.grad(value.sum(), logprobs)[0]).all()


def test_s8_is_a_mean_over_questions_of_all_sizes():
    """Two questions, of three variants and of one: each counts half, whatever the number of its pairs."""
    draw = torch.Generator().manual_seed(5)
    sizes = {4: 9, 7: 1}  # pairs by group
    groups = [group for group, size in sizes.items() for _ in range(size)]
    new, old = (torch.randn(10, 4, generator=draw, dtype=torch.float64) for _ in range(2))
    credit = torch.randn(10, generator=draw, dtype=torch.float64)
    mask = torch.ones(10, 4, dtype=torch.bool)
    expected = 0.0
    for group, size in sizes.items():
        for i in (i for i, g in enumerate(groups) if g == group):
            ratio = exp(sum(new[i].tolist()) - sum(old[i].tolist()))
            expected += min(ratio * credit[i].item(), clip(ratio, 0.8, 1.2) * credit[i].item()) / size / len(sizes)
    objective, _ = clipped_surrogate(importance_ratio(new, old, mask, "sequence_product"), credit, 0.2, 0.2)
    counted = Denominator(10, 40, 8, sizes)
    weights = token_weights(mask, "question_mean", counted, "sequence_product", torch.float64, groups)
    assert (objective * weights).sum().item() == pytest.approx(expected, abs=1e-9)


def test_s2_without_kl():
    """GRPO: (1/n) sum over completions of min(ratio A, clip(ratio) A), the ratio that of the whole completion."""
    new, old, advantages = [[-0.3, -0.9], [-2.0]], [[-0.5, -0.4], [-1.4]], [1.3, -0.7]
    total = 0.0
    for i in range(2):
        ratio = exp(sum(new[i])) / exp(sum(old[i]))
        total += min(ratio * advantages[i], clip(ratio, 0.8, 1.2) * advantages[i])
    ours = our_loss(new, old, advantages, "sequence_product", "question_mean", 0.2, 0.2, None, 8)
    assert ours.item() == pytest.approx(-total / 2, abs=1e-9)


def test_s8_over_all_pairs():
    """Share-GRPO: 1/n sum_i 1/m^2 sum_jk, every completion o_i^Qj under every variant Q_k."""
    m, n, generator = 3, 2, torch.Generator().manual_seed(3)
    pairs = [(i, j, k) for k in range(m) for j in range(m) for i in range(n)]
    lengths = {(i, j): 1 + (i + 2 * j) % 4 for i in range(n) for j in range(m)}
    draw = lambda size: torch.randn(size, generator=generator, dtype=torch.float64).tolist()  # noqa: E731
    new = {p: draw(lengths[p[:2]]) for p in pairs}
    old = {p: draw(lengths[p[:2]]) for p in pairs}
    credit = dict(zip(pairs, draw(len(pairs)), strict=True))
    total = 0.0
    for i in range(n):
        inner = 0.0
        for j in range(m):
            for k in range(m):
                ratio = exp(sum(new[i, j, k]) - sum(old[i, j, k]))
                inner += min(ratio * credit[i, j, k], clip(ratio, 0.8, 1.2) * credit[i, j, k])
        total += inner / m**2
    ours = our_loss(
        [new[p] for p in pairs], [old[p] for p in pairs], [credit[p] for p in pairs], "sequence_product", "question_mean",
        0.2, 0.2, None, 8,
    )  # fmt: skip
    assert ours.item() == pytest.approx(-total / n, abs=1e-9)


def away_from_corners(new, old, level, mask, bounds=(0.8, 1.3, 3.0)):
    ratio = importance_ratio(new, old, mask, level)
    return all(bool(((ratio - b).abs() > 0.02).all()) for b in bounds)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("dual", [None, 3.0])
def test_gradients_by_finite_differences(level, aggregation, dual):
    mask = torch.tensor([[True, True, True], [True, True, False], [True, False, False], [True, True, True]])
    advantages = torch.tensor([1.2, -0.8, -1.5, 0.0], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    while True:
        new = torch.randn(4, 3, dtype=torch.float64, generator=generator)
        old = torch.randn(4, 3, dtype=torch.float64, generator=generator)
        if away_from_corners(new, old, level, mask):
            break

    def loss(logprobs):
        objective, _ = clipped_surrogate(importance_ratio(logprobs, old, mask, level), advantages, 0.2, 0.3, dual)
        weights = token_weights(mask, aggregation, Denominator(4, 9, 5), level, torch.float64)
        return (objective * weights).sum()

    assert torch.autograd.gradcheck(loss, (new.requires_grad_(),))
    loss(new).backward()
    assert bool((new.grad[~mask] == 0).all())
    assert bool((new.grad[3] == 0).all())


def test_gradient_stops_where_the_clip_decides():
    ratio = torch.tensor([[1.5], [0.5], [0.5], [1.5], [4.0]], dtype=torch.float64, requires_grad=True)
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0, -1.0], dtype=torch.float64)
    objective, stats = clipped_surrogate(ratio, advantages, 0.2, 0.3, 3.0)
    objective.sum().backward()
    assert objective[:, 0].tolist() == pytest.approx([1.3, 0.5, -0.8, -1.5, -3.0], abs=1e-9)
    assert ratio.grad[:, 0].tolist() == [0.0, 1.0, 0.0, -1.0, 0.0]
    assert stats.clipped_high[:, 0].tolist() == [True, False, False, False, False]
    assert stats.clipped_low[:, 0].tolist() == [False, False, True, False, False]
    assert stats.clipped_dual[:, 0].tolist() == [False, False, False, False, True]


@given(rows(), st.sampled_from(LEVELS))
def test_first_pass_has_ratio_one_and_the_policy_gradient(data, level):
    new, _, advantages = data
    mask, logprobs = mask_of(new), padded(new).requires_grad_()
    ratio = importance_ratio(logprobs, logprobs.detach(), mask, level)
    assert bool((ratio == 1).all())
    objective, stats = clipped_surrogate(ratio, torch.tensor(advantages, dtype=torch.float64), 0.2, 0.2, 3.0)
    assert not bool((stats.clipped_low | stats.clipped_high | stats.clipped_dual).any())
    weights = token_weights(mask, "sequence_mean", Denominator(len(new), int(mask.sum()), 8), level, torch.float64)
    (objective * weights).sum().backward()
    for row, values, advantage in zip(logprobs.grad, new, advantages, strict=True):
        expected = advantage / len(new) / (1 if level == "sequence_product" else len(values))
        assert row[: len(values)].tolist() == pytest.approx([expected] * len(values), abs=1e-9)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_weights_hand_written(level, aggregation):
    mask = torch.tensor([[True, True, True, True], [True, False, False, False], [False, False, False, False]])
    weights = token_weights(mask, aggregation, Denominator(2, 5, 10), level, torch.float64)
    each = {
        "token_mean": (1 / 5, 1 / 5),
        "max_length": (1 / 20, 1 / 20),
        "sequence_mean": (1 / 8, 1 / 2),
        "question_mean": (1 / 2, 1 / 2) if level == "token" else (1 / 8, 1 / 2),
    }[aggregation]
    expected = torch.tensor([[each[0]] * 4, [each[1], 0, 0, 0], [0] * 4], dtype=torch.float64)
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-12)


def test_unknown_aggregation_is_refused():
    with pytest.raises(ValueError, match="median"):
        token_weights(torch.ones(1, 1, dtype=torch.bool), "median", Denominator(1, 1, 1))
