import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharegrpo_rl.data.variants import QuestionCursor
from sharegrpo_rl.errors import UserError

STEPS = st.lists(st.integers(0, 30), max_size=8)


@given(st.integers(1, 20), st.integers(0, 2**62), STEPS)
def test_every_question_comes_once_an_epoch(size: int, seed: int, steps: list[int]) -> None:
    cursor = QuestionCursor(size, seed)
    walked = [pair for step in steps for pair in cursor.next(step)]
    assert [epoch for epoch, _ in walked] == [place // size for place in range(len(walked))]
    for start in range(0, len(walked), size):
        indices = [index for _, index in walked[start : start + size]]
        assert len(set(indices)) == len(indices)
        assert set(indices) <= set(range(size))


@given(st.integers(1, 20), st.integers(0, 2**62), STEPS, st.integers(0, 50))
def test_a_saved_place_is_found_again(size: int, seed: int, steps: list[int], more: int) -> None:
    cursor = QuestionCursor(size, seed)
    for step in steps:
        cursor.next(step)
    state = json.loads(json.dumps(cursor.get_state()))
    resumed = QuestionCursor(size, seed)
    resumed.set_state(state)
    assert resumed.next(more) == cursor.next(more)
    assert resumed.get_state() == cursor.get_state()


@given(st.integers(1, 20), st.integers(0, 2**62), STEPS)
def test_the_walk_does_not_depend_on_its_steps(size: int, seed: int, steps: list[int]) -> None:
    by_steps = QuestionCursor(size, seed)
    walked = [pair for step in steps for pair in by_steps.next(step)]
    assert walked == QuestionCursor(size, seed).next(sum(steps))


def test_epochs_and_seeds_differ() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return [index for _, index in QuestionCursor(50, seed).next(100)][50 * epoch : 50 * (epoch + 1)]

    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_another_data_set_is_refused() -> None:
    with pytest.raises(UserError, match="num_questions 5, this run has 6"):
        QuestionCursor(6, 0).set_state(QuestionCursor(5, 0).get_state())
    with pytest.raises(UserError, match="empty"):
        QuestionCursor(0, 0)
