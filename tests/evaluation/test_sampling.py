"""pass@k against counting all subsets, majorities by hand, and the figures of a table of samples."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharegrpo_rl.statistics.questions import majority_at_k, mean_at_k, pass_at_k, powers_of_two, sampling_figures


@given(st.lists(st.booleans(), min_size=1, max_size=9), st.data())
def test_pass_at_k_counts_the_subsets_with_a_right_one(verdicts, data):
    k = data.draw(st.integers(1, len(verdicts)))
    subsets = list(combinations(verdicts, k))
    wanted = sum(any(subset) for subset in subsets) / len(subsets)
    assert pass_at_k(len(verdicts), sum(verdicts), k) == pytest.approx(wanted, abs=1e-12)


def test_pass_at_k_of_many_samples_stays_finite():
    assert pass_at_k(4096, 1, 2048) == pytest.approx(0.5, abs=1e-12)
    with pytest.raises(ValueError, match="k 3"):
        pass_at_k(2, 1, 3)


@pytest.mark.parametrize(
    ("votes", "accuracies", "k", "wanted"),
    [
        ("aab", [0, 0, 1], 3, 0.0),
        ("abb", [0, 1, 1], 3, 1.0),
        ("ab", [0, 1], 2, 0.5),  # a tie is shared
        ("abbb", [0, 1, 1, 1], 2, 0.75),  # two runs: a tie, and a right one
        ([None, "b", None], [0, 1, 0], 3, 1.0),  # without an answer there is no vote
        ([None, None], [0, 0], 2, 0.0),
        ("abc", [0, 1, 1], 2, 0.5),  # the third sample fills no run of two
    ],
)
def test_majorities_by_hand(votes, accuracies, k, wanted):
    assert majority_at_k(list(votes), accuracies, k) == wanted


def test_the_figures_of_a_table():
    votes = [["a", "b", "a", "a"], ["x", "x", "y", None]]
    accuracies = [[1, 0, 1, 1], [0, 0, 1, 0]]
    figures = sampling_figures(votes, accuracies, np.arange(2))
    values = {name: {k: cell["value"] for k, cell in table.items()} for name, table in figures.items()}
    assert values["pass@k"] == {"1": 0.5, "2": pytest.approx(0.75), "4": 1.0}
    assert values["mean@k"] == {"1": 0.5, "2": 0.25, "4": 0.5}
    assert values["majority@k"] == {"1": 0.5, "2": pytest.approx((0.75 + 0.5) / 2), "4": 0.5}
    low, high = figures["mean@k"]["4"]["confidence_interval"]
    assert 0 <= low < 0.5 < high <= 1
    assert mean_at_k([1, 0, 0], 2) == 0.5
    assert [powers_of_two(n) for n in (1, 5, 8)] == [[1], [1, 2, 4], [1, 2, 4, 8]]


def test_a_question_with_fewer_samples_is_our_bug():
    with pytest.raises(ValueError, match="same number"):
        sampling_figures([["a"], ["a", "b"]], [[1], [1, 0]], np.arange(2))
