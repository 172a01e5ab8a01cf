"""Interquartile mean and probability of improvement against scipy and plain loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sharegrpo_rl.statistics.seeds import (
    improvement_interval,
    interquartile_mean,
    interquartile_mean_interval,
    probability_of_improvement,
)


def scores(runs, tasks, seed):
    return np.random.default_rng(seed).integers(0, 20, (runs, tasks)) / 20


@given(st.integers(1, 7), st.integers(1, 4), st.integers(0, 99))
def test_the_interquartile_mean_drops_a_quarter_at_either_end(runs, tasks, seed):
    x = scores(runs, tasks, seed)
    ordered = sorted(x.ravel().tolist())
    cut = len(ordered) // 4
    middle = ordered[cut : len(ordered) - cut]
    assert interquartile_mean(x) == pytest.approx(sum(middle) / len(middle), abs=1e-12)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 3), st.integers(0, 99))
def test_the_probability_of_improvement_is_mann_whitneys_u_averaged_over_tasks(n, m, tasks, seed):
    a, b = scores(n, tasks, seed), scores(m, tasks, seed + 1)
    u = [stats.mannwhitneyu(a[:, t], b[:, t]).statistic / (n * m) for t in range(tasks)]
    assert probability_of_improvement(a, b) == pytest.approx(sum(u) / tasks, abs=1e-12)
    loop = [(1.0 if x > y else 0.5 if x == y else 0.0) for t in range(tasks) for x in a[:, t] for y in b[:, t]]
    assert probability_of_improvement(a, b) == pytest.approx(sum(loop) / len(loop), abs=1e-12)


def test_the_bootstrap_draws_runs_within_tasks():
    """The interval agrees with scipy's percentile bootstrap; tasks without spread have none, however far apart."""
    x = np.random.default_rng(4).random((40, 1))
    found = interquartile_mean_interval(x, seed=1)
    other = stats.bootstrap(
        (x[:, 0],),
        lambda v, axis: stats.trim_mean(v, 0.25, axis=axis),
        n_resamples=20000,
        method="percentile",
        random_state=np.random.default_rng(0),
    ).confidence_interval
    assert (found.low, found.high) == (pytest.approx(other.low, abs=0.02), pytest.approx(other.high, abs=0.02))
    apart = np.stack([np.full(5, 0.2), np.full(5, 0.8)], axis=1)
    same = interquartile_mean_interval(apart, seed=1)
    assert (same.value, same.low, same.high) == pytest.approx((0.5, 0.5, 0.5))


def test_intervals_repeat_and_hold_the_value():
    a, b = scores(5, 2, 1), scores(5, 2, 2)
    found = improvement_interval(a, b, seed=3)
    assert found == improvement_interval(a, b, seed=3)
    assert found.low <= found.value <= found.high
    assert improvement_interval(a + 2, b, seed=3).value == 1.0
