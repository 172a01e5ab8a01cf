"""KL estimators with their gradients, learning-rate courses, token log-probs, and the signal ratios of Figure 1b."""

from math import cos, exp, log, pi

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sharegrpo_rl.ops.advantages import reward_density, solved_ratio, valid_ratio, valid_slot_ratio
from sharegrpo_rl.ops.logprobs import mask_logits, token_logprobs
from sharegrpo_rl.ops.policy_loss import kl_estimate
from sharegrpo_rl.ops.schedules import lr_multiplier

NUMBER = st.floats(-3, 3)


@given(st.lists(st.tuples(NUMBER, NUMBER), min_size=1, max_size=6))
def test_estimators_equal_the_loops(pairs):
    new, ref = (torch.tensor(x, dtype=torch.float64) for x in zip(*pairs, strict=True))
    formulas = {
        "k1": lambda p, q: p - q,
        "k2": lambda p, q: (p - q) ** 2 / 2,
        "k3": lambda p, q: exp(q - p) - 1 - (q - p),
    }
    for name, formula in formulas.items():
        expected = [formula(p, q) for p, q in pairs]
        assert kl_estimate(new, ref, name).tolist() == pytest.approx(expected, abs=1e-9)


def test_gradients_of_the_estimators():
    new = torch.tensor([-0.5, -2.0, -1.0], dtype=torch.float64, requires_grad=True)
    ref = torch.tensor([-1.5, -0.3, -1.0], dtype=torch.float64)
    for name, gradient in {
        "k1": [1.0, 1.0, 1.0],
        "k2": [p - q for p, q in zip(new.tolist(), ref.tolist(), strict=True)],
        "k3": [1 - exp(q - p) for p, q in zip(new.tolist(), ref.tolist(), strict=True)],
    }.items():
        assert torch.autograd.gradcheck(lambda x, name=name: kl_estimate(x, ref, name), (new,))
        (found,) = torch.autograd.grad(kl_estimate(new, ref, name).sum(), new)
        assert found.tolist() == pytest.approx(gradient, abs=1e-9)


def test_expectations_over_a_small_vocabulary():
    """Under the policy: k1 and k3 average to the KL; k2's gradient is the KL's, k3's that of the reverse KL, k1's 0."""
    logits = torch.tensor([0.3, -1.0, 0.8, 0.0], dtype=torch.float64, requires_grad=True)
    ref = torch.tensor([0.0, 0.5, -0.4, 1.0], dtype=torch.float64).log_softmax(0)
    logprobs = logits.log_softmax(0)
    probs = logprobs.detach().exp()
    kl = (logprobs.exp() * (logprobs - ref)).sum()
    reverse = (ref.exp() * (ref - logprobs)).sum()
    for name in ("k1", "k3"):
        assert (probs * kl_estimate(logprobs, ref, name)).sum().item() == pytest.approx(kl.item(), abs=1e-9)

    def gradient(value):
        return torch.autograd.grad(value, logits, retain_graph=True)[0]

    def on_average(name):
        return gradient((probs * kl_estimate(logprobs, ref, name)).sum())

    torch.testing.assert_close(on_average("k2"), gradient(kl), rtol=0, atol=1e-9)
    torch.testing.assert_close(on_average("k3"), gradient(reverse), rtol=0, atol=1e-9)
    torch.testing.assert_close(on_average("k1"), torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-9)


@given(st.lists(NUMBER, min_size=1, max_size=5))
def test_k3_is_never_negative(values):
    new = torch.tensor(values, dtype=torch.float64)
    assert bool((kl_estimate(new, torch.zeros_like(new), "k3") >= 0).all())
    assert bool((kl_estimate(new, new, "k3") == 0).all())


def test_unknown_estimator_is_refused():
    with pytest.raises(ValueError, match="k9"):
        kl_estimate(torch.zeros(1), torch.zeros(1), "k9")


def test_courses_of_the_learning_rate():
    assert [lr_multiplier(s, "constant", 4, None) for s in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert [lr_multiplier(s, "linear", 2, 6) for s in range(8)] == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    cosine = [lr_multiplier(s, "cosine", 0, 4) for s in range(6)]
    assert cosine == pytest.approx([(1 + cos(pi * min(s, 4) / 4)) / 2 for s in range(6)], abs=1e-9)
    to_a_tenth = [lr_multiplier(s, "cosine", 0, 4, 0.1) for s in range(6)]
    assert to_a_tenth == pytest.approx([0.1 + 0.9 * value for value in cosine], abs=1e-9)
    assert [lr_multiplier(s, "linear", 0, 4, 0.5) for s in (0, 2, 4, 9)] == [1.0, 0.75, 0.5, 0.5]
    with pytest.raises(ValueError, match="planned number"):
        lr_multiplier(0, "cosine", 0, None)


@given(st.sampled_from(["linear", "cosine"]), st.integers(0, 10), st.integers(1, 30))
def test_courses_stay_in_range_and_fall(schedule, warmup, total):
    values = [lr_multiplier(s, schedule, warmup, total) for s in range(total + warmup + 3)]
    assert all(0 <= v <= 1 for v in values)
    assert all(a >= b for a, b in zip(values[warmup:], values[warmup + 1 :], strict=False))


def test_token_logprobs_equal_the_loops():
    logits = [[0.1, 2.0, -1.0, 0.5], [3.0, 0.0, 0.2, -4.0]]
    temperature, banned, ids = 0.7, {2}, [1, 3]
    masked = mask_logits(torch.tensor(logits, dtype=torch.float64), temperature, torch.tensor([2]))
    found, entropy = token_logprobs(masked, torch.tensor(ids))
    for row, token, value, uncertain in zip(logits, ids, found.tolist(), entropy.tolist(), strict=True):
        weights = {i: exp(x / temperature) for i, x in enumerate(row) if i not in banned}
        total = sum(weights.values())
        assert value == pytest.approx(log(weights[token] / total), abs=1e-9)
        assert uncertain == pytest.approx(-sum(w / total * log(w / total) for w in weights.values()), abs=1e-9)


def test_banned_ids_have_no_probability_and_no_gradient():
    logits = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    banned = torch.tensor([0, 4])
    logprobs, entropy = token_logprobs(mask_logits(logits, 1.0, banned), torch.tensor([1, 0, 2]))
    assert logprobs.isinf().tolist() == [False, True, False]
    assert bool(entropy.isfinite().all())
    logprobs[[0, 2]].sum().backward()
    assert bool((logits.grad[:, [0, 4]] == 0).all())
    assert torch.autograd.gradcheck(
        lambda x: token_logprobs(mask_logits(x, 0.5, banned), torch.tensor([1, 3, 2]))[0], (logits,)
    )


def test_half_precision_logits_are_widened():
    assert mask_logits(torch.ones(1, 3, dtype=torch.bfloat16), 1.0, None).dtype == torch.float32
    assert mask_logits(torch.ones(1, 3, dtype=torch.float64), 1.0, None).dtype == torch.float64


def test_signal_ratios_by_hand():
    groups = [np.array([[1.0, 1.0], [0.0, 0.0]]), np.array([[0.0, 1.0], [1.0, 1.0]]), np.array([[0.1, 0.1]])]
    assert valid_ratio(groups) == 2 / 3
    assert valid_slot_ratio(groups) == 1 / 5
    assert reward_density(groups) == 5 / 10
    assert solved_ratio(groups) == 2 / 3
