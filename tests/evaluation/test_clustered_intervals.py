"""Intervals of questions that share images: against the formula, against simulation, and where nothing varies."""

from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sharegrpo_rl.statistics.questions import (
    clustered_error,
    image_clusters,
    mean_interval,
    share_interval,
    student_quantile,
    wilson_interval,
)


def test_questions_that_share_an_image_directly_or_not_are_one_cluster():
    keys = [("a",), ("b", "c"), ("d",), ("c", "a"), (), ()]
    assert image_clusters(keys).tolist() == [0, 0, 1, 0, 2, 3]
    assert image_clusters([]).tolist() == []


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30))
def test_clusters_of_one_give_the_usual_error(values):
    values = np.array(values)
    usual = values.std(ddof=1) / sqrt(len(values))
    assert clustered_error(values, np.arange(len(values))) == pytest.approx(usual, abs=1e-9)


def test_the_error_by_hand():
    values, clusters = np.array([1.0, 1, 0, 0, 1]), np.array([0, 0, 1, 1, 2])
    totals = [2 * 0.4, 2 * -0.6, 0.4]
    assert clustered_error(values, clusters) == pytest.approx(sqrt(1.5 * sum(t * t for t in totals)) / 5, abs=1e-12)
    assert clustered_error(values, np.zeros(5, int)) == 0


def test_copies_of_every_question_do_not_narrow_the_interval():
    values = np.array([1.0, 0, 1, 1, 0, 1, 0, 1, 1, 1])
    alone, method = share_interval(values, np.arange(10))
    assert alone == wilson_interval(7, 10)
    assert method == "Wilson"
    copied, method = share_interval(np.repeat(values, 8), np.repeat(np.arange(10), 8))
    assert copied == pytest.approx(wilson_interval(0.7 * 9, 9), abs=1e-9)  # G - 1 in place of G
    assert "clustered by image (10 clusters" in method


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_alike_counts_as_many_as_there_are_clusters(share):
    values, clusters = np.full(30, share), np.repeat(np.arange(5), 6)
    assert share_interval(values, clusters)[0] == wilson_interval(share * 5, 5)
    assert mean_interval(values, np.arange(30)) == wilson_interval(share * 30, 30)


def test_means_of_fractions_by_students_t():
    values = np.array([0.0, 0.5, 1.0, 0.25, 0.75, 0.5])
    wanted = stats.t.interval(0.95, 5, values.mean(), stats.sem(values))
    assert mean_interval(values, np.arange(6)) == pytest.approx(wanted, abs=1e-9)
    assert student_quantile(0.975, 7) == pytest.approx(stats.t.ppf(0.975, 7), abs=1e-9)


def test_the_clustered_interval_covers_and_the_plain_one_does_not():
    rng = np.random.default_rng(0)
    clusters, covered, plain, rounds = np.repeat(np.arange(60), 5), 0, 0, 600
    for _ in range(rounds):
        of_image = rng.beta(1.5, 1.0, 60)  # images differ in difficulty; the true mean is 0.6
        values = (rng.random(300) < np.repeat(of_image, 5)).astype(float)
        low, high = share_interval(values, clusters)[0]
        covered += low <= 0.6 <= high
        low, high = wilson_interval(values.sum(), 300)
        plain += low <= 0.6 <= high
    assert 0.93 <= covered / rounds <= 0.97
    assert plain / rounds < 0.88
