"""The stages of a reward after the rubric: length penalty, KL, and the shuffled control."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharegrpo_rl.config import GRPOOptions
from sharegrpo_rl.data.types import Completion, Group, Prompt, Slot
from sharegrpo_rl.rewards.rubric import Score
from sharegrpo_rl.rewards.stages import group_stages, overlong_penalty, penalize_kl, penalize_length


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 500))
def test_overlong_penalty_equals_its_three_pieces(limit, buffer, length):
    if buffer > limit:
        with pytest.raises(ValueError, match="buffer"):
            overlong_penalty(length, limit, buffer)
        return
    safe = limit - buffer
    expected = 0.0 if length <= safe else (safe - length) / buffer
    assert overlong_penalty(length, limit, buffer) == pytest.approx(expected, abs=1e-12)
    assert overlong_penalty(limit, limit, buffer) == -1


def completion(tokens):
    return Completion(np.arange(tokens), np.zeros(tokens, np.float32), "text")


def group(number, accuracies):
    values = np.array([accuracies], float)
    answers = tuple(completion(2) for _ in accuracies)
    prompt = Prompt(np.array([number]))
    return Group(number, f"q{number}", number, (Slot(0, 0),), (prompt,), (answers,), values, {"accuracy": values})


def test_the_length_penalty_is_weighed_and_logged_as_a_part():
    options = GRPOOptions(overlong_buffer=4, overlong_weight=0.5, max_completion_tokens=10)
    score = Score(1.0, {"accuracy": 1.0})
    penalized = penalize_length(score, completion(8), options)
    assert (penalized.total, penalized.parts) == (0.75, {"accuracy": 1.0, "overlong": -0.5})
    assert penalize_length(score, completion(8), GRPOOptions()) is score


def test_the_kl_is_taken_off_the_reward_of_each_completion():
    groups = [group(0, (1, 0)), group(1, (1, 1))]
    seen = []

    def reference_kl(groups):
        seen.extend(g.group for g in groups)
        return 0.5, [np.array([0.2, 0.4]), np.array([1.0, 0.0])]

    one, two = penalize_kl(groups, reference_kl)
    assert seen == [0, 1]
    assert one.rewards.tolist() == [[0.9, -0.2]]
    assert two.rewards.tolist() == [[0.5, 1.0]]
    assert two.reward_parts["kl"].tolist() == [[1.0, 0.0]]
    assert two.accuracies.tolist() == [[1.0, 1.0]]


def test_stages_run_in_the_order_of_the_list():
    options = GRPOOptions(kl_in_reward=True, shuffle_rewards=True)
    groups = [group(0, (1, 0))]
    for stage in group_stages(options, 3, lambda groups: (1.0, [np.array([0.25, 0.5])])):
        groups = stage(groups)
    assert sorted(groups[0].rewards.ravel()) == [-0.5, 0.75]
    assert len(group_stages(options, 3, None)) == 1  # no reference, no KL
    assert group_stages(GRPOOptions(kl_in_reward=True), 3, None) == []
