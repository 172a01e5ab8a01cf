"""Mixtures: the ratio holds over an epoch and in its parts, every row occurs, and the order never changes."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharegrpo_rl.data.mixture import MixedSet, epoch_counts, interleave, mix_test, mix_train
from sharegrpo_rl.data.types import SeedQuestion
from sharegrpo_rl.data.variants import QuestionCursor
from sharegrpo_rl.errors import UserError


class Listed:
    """A bank of `size` rows."""

    split = "train"

    def __init__(self, name, size):
        self.name, self.size = name, size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        assert 0 <= index < self.size
        return SeedQuestion(str(index), f"{self.name} {index}?", "1", task=self.name)


def listed(*sizes):
    return [MixedSet(Listed(f"t{i}", size), f"data[{i}]", f"t{i}") for i, size in enumerate(sizes)]


def sources(bank):
    return [bank.source(index) for index in range(len(bank))]


SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=4)
WEIGHTED = SIZES.flatmap(
    lambda sizes: st.tuples(
        st.just(sizes), st.lists(st.floats(0.1, 5), min_size=len(sizes), max_size=len(sizes)) | st.none()
    )
)


@given(WEIGHTED, st.integers(0, 99))
def test_an_epoch_holds_the_ratio_and_every_row(mixed, seed):
    sizes, weights = mixed
    rows = sources(mix_train(listed(*sizes), weights, seed=seed))
    counts = Counter(number for number, _ in rows)
    shares = np.array(sizes if weights is None else weights, float)
    shares /= shares.sum()
    for number, size in enumerate(sizes):
        assert abs(counts[number] - shares[number] * len(rows)) <= (1 + len(sizes)) / 2  # each count is rounded
        times = Counter(row for own, row in rows if own == number)
        assert set(times) == set(range(size))
        assert max(times.values()) - min(times.values()) <= 1  # whole permutations, the last one cut
    assert any(counts[number] == size for number, size in enumerate(sizes))  # no longer than it must be


@given(WEIGHTED, st.integers(0, 99))
def test_every_part_of_an_epoch_is_nearly_in_the_ratio(mixed, seed):
    sizes, weights = mixed
    places = np.array([number for number, _ in sources(mix_train(listed(*sizes), weights, seed=seed))])
    for number in range(len(sizes)):
        own = np.cumsum(places == number)
        expected = np.arange(1, len(places) + 1) * own[-1] / len(places)
        assert np.abs(own - expected).max() <= 1 + len(sizes)


@given(WEIGHTED, st.integers(0, 99))
def test_a_row_comes_again_only_after_all_others(mixed, seed):
    sizes, weights = mixed
    rows = sources(mix_train(listed(*sizes), weights, seed=seed))
    for number, size in enumerate(sizes):
        walk = [row for own, row in rows if own == number]
        for start in range(0, len(walk), size):
            part = walk[start : start + size]
            assert len(set(part)) == len(part)


@given(WEIGHTED, st.integers(0, 99), st.data())
def test_what_is_skipped_occurs_nowhere_else(mixed, seed, data):
    sizes, weights = mixed
    whole = mix_train(listed(*sizes), weights, seed=seed)
    skip = data.draw(st.integers(0, len(whole) - 1))
    most = data.draw(st.integers(skip + 1, len(whole)))
    first = sources(whole)[:skip]
    gone = Counter(number for number, _ in first)
    if any(gone[number] >= size for number, size in enumerate(sizes)):
        with pytest.raises(UserError, match=r"data\[\d\]: all its .*skip_questions.*none remains"):
            mix_train(listed(*sizes), weights, seed=seed, skip=skip, limit=most)
        return
    rest = mix_train(listed(*sizes), weights, seed=seed, skip=skip, limit=most)
    assert len(rest) == most - skip
    assert not set(first) & set(sources(rest))
    assert [number for number, _ in sources(rest)] == [number for number, _ in sources(whole)[skip:most]]
    if most == len(whole):
        assert set(sources(rest)) == set(sources(whole)) - set(first)


@given(WEIGHTED, st.integers(0, 99))
def test_ids_are_unique_and_the_order_never_changes(mixed, seed):
    sizes, weights = mixed
    one, again = (mix_train(listed(*sizes), weights, seed=seed) for _ in range(2))
    ids = [one[index].id for index in range(len(one))]
    assert ids == [again[index].id for index in range(len(again))]
    assert len(set(ids)) == len(ids)
    for index, (number, row) in enumerate(sources(one)):
        assert one[index].id.split("~")[0] == f"t{number}/{row}"
        assert one[index].task == f"t{number}"


@given(SIZES)
def test_test_questions_come_once_in_their_order_and_in_proportion(sizes):
    rows = sources(mix_test(listed(*sizes)))
    for number, size in enumerate(sizes):
        assert [row for own, row in rows if own == number] == list(range(size))
    first = Counter(number for number, _ in rows[: len(rows) // 2])
    assert all(abs(first[number] - size / 2) <= 1 + len(sizes) for number, size in enumerate(sizes))


def test_equal_test_sets_are_asked_in_even_and_odd_places_alike():
    places = [number for number, _ in sources(mix_test(listed(500, 500)))]
    assert 180 < sum(number == 0 for number in places[::2]) < 320


def test_other_seeds_give_other_orders_of_train():
    assert sources(mix_train(listed(30, 20), None)) != sources(mix_train(listed(30, 20), None, seed=1))


def test_small_cases_by_hand():
    assert epoch_counts([10, 4], None) == [10, 4]
    assert epoch_counts([10, 4], [1.0, 1.0]) == [10, 10]
    assert epoch_counts([10, 4], [1.0, 3.0]) == [10, 30]
    assert epoch_counts([10, 4], [5.0, 1.0]) == [20, 4]
    assert sorted(interleave([2, 3], 0).tolist()) == [0, 0, 1, 1, 1]
    assert mix_train(listed(1), None)[0].id == "t0/0"
    with pytest.raises(IndexError):
        mix_train(listed(3), None)[3]


def test_absurd_weights_are_refused():
    with pytest.raises(UserError, match="more weight"):
        mix_train(listed(30, 20), [1e-9, 1.0])


def test_the_cursor_walks_a_mixture_like_any_bank():
    bank = mix_train(listed(12, 3), [2.0, 1.0])
    cursor = QuestionCursor(len(bank), seed=3)
    walked = [bank[index].id for _, index in cursor.next(len(bank))]
    assert sorted(walked) == sorted(bank[index].id for index in range(len(bank)))
    state = cursor.get_state()
    resumed = QuestionCursor(len(mix_train(listed(12, 3), [2.0, 1.0])), seed=3)
    resumed.set_state(state)
    assert resumed.next(20) == cursor.next(20)
