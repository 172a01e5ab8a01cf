"""The paired comparison: McNemar's exact test against scipy, shared images by enumeration, and its error rate."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sharegrpo_rl.statistics.questions import compare_paired, sign_flip_p


@given(st.integers(0, 12), st.integers(0, 12))
def test_without_shared_images_it_is_mcnemar_exactly(only_a, only_b):
    totals = np.array([1] * only_a + [-1] * only_b + [0, 0])
    wanted = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert sign_flip_p(totals) == pytest.approx(wanted, abs=1e-9)


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=8))
def test_shared_images_against_every_sign(totals):
    signs = np.array(list(product([-1, 1], repeat=len(totals))))
    wanted = np.mean(np.abs(signs @ totals) >= abs(sum(totals)))
    assert sign_flip_p(np.array(totals)) == pytest.approx(wanted, abs=1e-9)


def test_counts_difference_and_interval():
    a = [True, True, True, False, False, True]
    b = [True, False, False, True, False, True]
    found = compare_paired(a, b, np.arange(6))
    assert (found.both_right, found.only_a_right, found.only_b_right, found.both_wrong) == (2, 2, 1, 1)
    assert found.difference == pytest.approx(1 / 6, abs=1e-12)
    differences = np.array(a, float) - np.array(b, float)
    wanted = stats.t.interval(0.95, 5, differences.mean(), stats.sem(differences))
    assert found.confidence_interval == pytest.approx(wanted, abs=1e-9)
    assert found.test == "McNemar's exact test"
    swapped = compare_paired(b, a, np.arange(6))
    assert (swapped.difference, swapped.p_value) == (-found.difference, found.p_value)


def test_questions_on_one_image_count_together():
    a, b = [True] * 8, [False] * 8
    apart = compare_paired(a, b, np.arange(8))
    together = compare_paired(a, b, np.zeros(8, np.int64))
    assert apart.p_value == pytest.approx(2 / 256, abs=1e-12)
    assert (together.p_value, together.confidence_interval, together.clusters) == (1.0, (-1.0, 1.0), 1)
    assert "clusters" in together.test


def test_error_rate_with_shared_images():
    """Two equal models, five questions an image: the test rejects about one time in twenty, McNemar's far more often."""
    rng = np.random.default_rng(1)
    clusters, rejected, naive, rounds = np.repeat(np.arange(40), 5), 0, 0, 500
    for _ in range(rounds):
        easy_for_a, easy_for_b = rng.beta(0.5, 0.5, 40), rng.beta(0.5, 0.5, 40)
        a, b = (rng.random(200) < np.repeat(p, 5) for p in (easy_for_a, easy_for_b))
        rejected += compare_paired(a, b, clusters).p_value < 0.05
        naive += compare_paired(a, b, np.arange(200)).p_value < 0.05
    assert 0.02 <= rejected / rounds <= 0.07
    assert naive / rounds > 0.15


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="verdicts"):
        compare_paired([True], [], np.arange(1))
