"""Intervals and tests over seeds against scipy; effect sizes and Holm against statsmodels and plain loops."""

from math import gamma, isnan, nan, sqrt
from statistics import mean, stdev

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from sharegrpo_rl.statistics.seeds import (
    WIDEST,
    fewest_seeds,
    hedges_g,
    holm,
    paired_difference,
    t_interval,
    welch_difference,
)

shares = st.lists(st.integers(0, 500).map(lambda n: n / 500), min_size=2, max_size=10)


@given(shares, st.sampled_from([0.8, 0.95, 0.99]))
def test_the_interval_is_students(values, confidence):
    assume(len(set(values)) > 1)
    found = t_interval(values, confidence)
    low, high = stats.t.interval(confidence, len(values) - 1, mean(values), stats.sem(values))
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))


@given(shares, st.randoms())
def test_paired_and_welch_tests_are_scipys(values, random):
    other = [min(1.0, v + random.random() / 5) for v in values]
    assume(len(set(values)) > 1 and len({round(a - b, 9) for a, b in zip(values, other, strict=True)}) > 1)
    paired, welch = stats.ttest_rel(values, other), stats.ttest_ind(values, other, equal_var=False)
    for found, expected in ((paired_difference(values, other), paired), (welch_difference(values, other), welch)):
        assert found.p_value == pytest.approx(expected.pvalue, abs=1e-9)
        assert found.degrees == pytest.approx(expected.df, rel=1e-9)
        low, high = expected.confidence_interval(0.95)
        assert (found.low, found.high) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))


def test_without_spread_there_is_no_interval_and_a_difference_cannot_be_tested():
    same = t_interval([0.5, 0.5, 0.5])
    assert (same.value, isnan(same.low), isnan(same.p_value)) == (0.5, True, True)
    assert paired_difference([0.5, 0.6], [0.5, 0.6]).p_value == 1.0
    assert isnan(paired_difference([0.5, 0.6], [0.4, 0.5]).low) or paired_difference([0.5, 0.6], [0.4, 0.5]).high < 1


def test_one_seed_has_a_value_and_nothing_else():
    assert t_interval([0.7]).value == 0.7
    assert isnan(t_interval([0.7]).low)
    assert isnan(welch_difference([0.7], [0.1, 0.2]).p_value)


@pytest.mark.parametrize("wrong", [[], [0.5, nan]])
def test_values_must_be_finite(wrong):
    with pytest.raises(ValueError, match="finite"):
        t_interval(wrong)


def test_seeds_of_unequal_number_cannot_be_paired():
    with pytest.raises(ValueError, match="paired"):
        paired_difference([0.1, 0.2], [0.1, 0.2, 0.3])


@pytest.mark.parametrize(("confidence", "needed"), [(0.8, 2), (0.9, 3), (0.95, 3), (0.99, 4), (0.999, 7)])
def test_fewest_seeds(confidence, needed):
    assert fewest_seeds(confidence) == needed
    assert stats.t.ppf((1 + confidence) / 2, needed - 1) <= WIDEST


@given(shares, shares)
def test_hedges_g_is_the_textbook_formula(a, b):
    degrees = len(a) + len(b) - 2
    pooled = sqrt(((len(a) - 1) * stdev(a) ** 2 + (len(b) - 1) * stdev(b) ** 2) / degrees)
    assume(pooled > 1e-6 and degrees > 1)
    exact = gamma(degrees / 2) / (sqrt(degrees / 2) * gamma((degrees - 1) / 2))
    assert hedges_g(a, b) == pytest.approx((mean(a) - mean(b)) / pooled * exact, abs=1e-9)


def test_hedges_g_needs_spread():
    assert isnan(hedges_g([0.5, 0.5], [0.4, 0.4]))
    assert isnan(hedges_g([0.5], [0.4, 0.3]))


@settings(max_examples=20)  # statsmodels takes 0.07 s for each
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_statsmodels_holm(values):
    assert holm(values) == pytest.approx(multipletests(values, method="holm")[1].tolist(), abs=1e-12)


def test_holm_leaves_out_what_was_not_tested():
    found = holm([0.03, nan, 0.01])
    assert isnan(found[1])
    assert [found[0], found[2]] == pytest.approx([0.03, 0.02])


def test_curves_are_read_between_their_points_and_smoothed():
    from sharegrpo_rl.statistics.seeds import Curve, make_band, smoothed

    curves = [Curve(np.array([0.0, 10.0]), np.array([0.0, y])) for y in (0.2, 0.4, 0.6)]
    assert curves[0].at(5.0) == pytest.approx(0.1)
    assert np.isnan(curves[0].at(11.0))
    band = make_band(curves)
    expected = t_interval([0.2, 0.4, 0.6])
    assert (band.mean[-1], band.low[-1], band.high[-1]) == pytest.approx((0.4, expected.low, expected.high), abs=1e-9)
    longer = [*curves, Curve(np.array([0.0, 4.0, 20.0]), np.array([0.0, 0.4, 2.0]))]
    assert (make_band(longer).x[0], make_band(longer).x[-1]) == (0.0, 10.0)  # what all of them share
    assert smoothed([1.0, nan, 3.0, 5.0], 2).tolist() == [1.0, 1.0, 3.0, 4.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(1, 9))
def test_smoothing_is_a_mean_of_the_last_few(values, width):
    from sharegrpo_rl.statistics.seeds import smoothed

    expected = [mean(values[max(0, i + 1 - width) : i + 1]) for i in range(len(values))]
    assert smoothed(values, width).tolist() == pytest.approx(expected, abs=1e-9)
