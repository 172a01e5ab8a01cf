"""GRPO-D's KL weight (O3) against the equation typed out, and at its three fixed points."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharegrpo_rl.ops.schedules import kl_weight


def equation_3(s, t, low, high, w):
    """beta(s) as printed, with beta_mid = (beta_min + beta_max) / 2, in exact fractions."""
    middle = (low + high) / 2
    if s <= w:
        return middle - (middle - low) * Fraction(s) / w
    return low + (high - low) * (Fraction(s) - w) / (t - w)


@pytest.mark.parametrize(("low", "high"), [(Fraction(4, 100), Fraction(1, 10)), (Fraction(0), Fraction(2, 100))])
@pytest.mark.parametrize("t", [10, 30, 1000, 7])
def test_every_step_equals_the_equation(low, high, t):
    w = Fraction(3, 10) * t
    for s in range(t + 1):
        expected = equation_3(s, t, low, high, w)
        assert kl_weight(s, "v_shape", t, float(low), float(high), 0.3) == pytest.approx(float(expected), abs=1e-9)


def test_exact_at_the_start_the_turn_and_the_end():
    """Counting: 0.07 -> 0.04 -> 0.1; geometry: 0.01 -> 0 -> 0.02."""
    assert [kl_weight(s, "v_shape", 100, 0.04, 0.1) for s in (0, 30, 100)] == [0.07, 0.04, 0.1]
    assert [kl_weight(s, "v_shape", 100, 0.0, 0.02) for s in (0, 30, 100)] == [0.01, 0.0, 0.02]
    assert [kl_weight(s, "linear_increase", 100, 0.04, 0.1) for s in (0, 100)] == [0.04, 0.1]
    assert kl_weight(30, "linear_increase", 100, 0.0, 0.1) == pytest.approx(0.03, abs=1e-12)


@given(
    st.integers(1, 10_000),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 0.99),
    st.sampled_from(["v_shape", "linear_increase"]),
)
def test_never_leaves_its_range_and_ends_at_the_top(t, a, b, turn, schedule):
    low, high = sorted((a, b))
    values = [kl_weight(s, schedule, t, low, high, turn) for s in {0, 1, t // 3, t // 2, t - 1, t, t + 1, 2 * t}]
    assert all(low - 1e-12 <= v <= high + 1e-12 for v in values)
    assert kl_weight(t, schedule, t, low, high, turn) == pytest.approx(high, abs=1e-9)
    assert kl_weight(5 * t, schedule, t, low, high, turn) == kl_weight(t, schedule, t, low, high, turn)


def test_means_over_a_run():
    """0.0655 for the ranges of counting, 0.0085 for those of geometry: the areas of the two lines."""
    for low, high, mean in ((0.04, 0.1, 0.0655), (0.0, 0.02, 0.0085)):
        values = [kl_weight(s, "v_shape", 100_000, low, high) for s in range(0, 100_001, 10)]
        assert sum(values) / len(values) == pytest.approx(mean, abs=1e-4)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="planned number"):
        kl_weight(0, "v_shape", 0, 0.0, 0.1)
    with pytest.raises(ValueError, match="unknown KL schedule"):
        kl_weight(0, "constant", 10, 0.0, 0.1)
