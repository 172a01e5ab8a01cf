"""Wilson's interval: known values, and what must hold for every share."""

from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharegrpo_rl.statistics.questions import wilson_interval


def test_values_by_hand():
    z = 1.959963984540054
    low, high = wilson_interval(8, 10)
    middle, margin = (0.8 + z**2 / 20) / (1 + z**2 / 10), z * sqrt(0.016 + z**2 / 400) / (1 + z**2 / 10)
    assert low == pytest.approx(middle - margin, abs=1e-12)
    assert high == pytest.approx(middle + margin, abs=1e-12)


def test_ends():
    assert wilson_interval(0, 10) == (0.0, pytest.approx(0.2775327998628892, abs=1e-9))
    assert wilson_interval(10, 10) == (pytest.approx(1 - 0.2775327998628892, abs=1e-9), 1.0)
    assert wilson_interval(0, 0) == (0.0, 1.0)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_it_holds_the_share_and_mirrors(counts):
    right, number = counts
    low, high = wilson_interval(right, number)
    assert 0 <= low <= right / number <= high <= 1
    mirrored = wilson_interval(number - right, number)
    assert (1 - high, 1 - low) == pytest.approx(mirrored, abs=1e-12)
    assert wilson_interval(right, number, 0.99)[0] <= low


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="11 successes"):
        wilson_interval(11, 10)
