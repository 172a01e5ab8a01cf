"""Selection rules, replay probabilities, overlong shaping and the importance correction against plain loops."""

from math import exp

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sharegrpo_rl.ops.advantages import dynamic_sampling, online_filter, replay_probabilities
from sharegrpo_rl.ops.policy_loss import correction_weights

ACCURACIES = st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=12)


@given(ACCURACIES)
def test_dynamic_sampling_drops_all_right_and_all_wrong(values):
    assert dynamic_sampling(np.array(values)) == (0 < sum(values) < len(values))


@given(ACCURACIES, st.floats(0, 0.5), st.floats(0.5, 1))
def test_online_filter_is_a_band(values, low, high):
    mean = float(np.mean(values))
    assert online_filter(np.array(values), low, high) == (low <= mean <= high)


def test_eight_samples_keep_one_to_seven_right():
    kept = [k for k in range(9) if online_filter(np.array([1.0] * k + [0.0] * (8 - k)), 0.1, 0.9)]
    assert kept == [1, 2, 3, 4, 5, 6, 7]


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=10), st.floats(0, 3))
def test_replay_probabilities_equal_the_loop(advantages, alpha):
    weights = [abs(a) ** alpha if a != 0 else 0.0 for a in advantages]
    if sum(weights) == 0:
        with pytest.raises(ValueError, match="none can be replayed"):
            replay_probabilities(np.array(advantages), alpha)
        return
    expected = [w / sum(weights) for w in weights]
    assert replay_probabilities(np.array(advantages), alpha) == pytest.approx(expected, abs=1e-9)


LOGPROBS = st.lists(
    st.lists(st.tuples(st.floats(-4, 0), st.floats(-4, 0)), min_size=1, max_size=5), min_size=1, max_size=4
)


@given(LOGPROBS, st.sampled_from(["truncate", "mask"]), st.sampled_from(["token", "sequence"]), st.floats(1, 5))
def test_correction_equals_the_loops(rows, mode, level, cap):
    width = max(map(len, rows))
    old, sampler = (torch.zeros(len(rows), width, dtype=torch.float64) for _ in range(2))
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        for t, (a, b) in enumerate(row):
            old[i, t], sampler[i, t], mask[i, t] = a, b, True
    found = correction_weights(old, sampler, mask, mode, level, cap)
    for i, row in enumerate(rows):
        whole = sum(a - b for a, b in row)
        for t, (a, b) in enumerate(row):
            ratio = exp(whole if level == "sequence" else a - b)
            if abs(ratio - cap) < 1e-9:
                continue
            expected = min(ratio, cap) if mode == "truncate" else (ratio if ratio <= cap else 0.0)
            assert found[i, t].item() == pytest.approx(expected, abs=1e-9)


def test_agreement_means_no_correction():
    logprobs = torch.randn(3, 4)
    for mode in ("truncate", "mask"):
        for level in ("token", "sequence"):
            weights = correction_weights(logprobs, logprobs, torch.ones(3, 4, dtype=torch.bool), mode, level, 2.0)
            assert (weights == 1).all()


def test_unknown_words_are_refused():
    x = torch.zeros(1, 1)
    with pytest.raises(ValueError, match="level"):
        correction_weights(x, x, x.bool(), "mask", "batch", 2.0)
    with pytest.raises(ValueError, match="correction"):
        correction_weights(x, x, x.bool(), "none", "token", 2.0)
