"""The generated bank: pure, balanced, drawn as it says, and with test pictures that no training question shows."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sharegrpo_rl.data.transforms import TRANSFORMS
from sharegrpo_rl.envs.tasks.drawn_shapes import BOARD, CORNERS, KIND_GROUPS, KINDS, DrawnShapesBank, expand_kinds
from sharegrpo_rl.errors import UserError

ALL = tuple(KINDS)


def questions(kind, number=60, split="train", **options):
    bank = DrawnShapesBank(split, [kind], **options)
    return [bank[index] for index in range(number)]


def pixels(question):
    return np.asarray(question.images[0].open())


@given(st.sampled_from(["train", "test"]), st.integers(0, 1999))
@settings(max_examples=50, deadline=None)
def test_a_question_is_a_function_of_split_and_index(split, index):
    first, again = (DrawnShapesBank(split, ALL)[index] for _ in range(2))
    assert first == again
    assert np.array_equal(pixels(first), pixels(again))


def test_the_test_split_ignores_every_seed_and_the_train_split_follows_it():
    banks = [
        [DrawnShapesBank(split, subset_seed=seed)[i] for i in range(20)]
        for split in ("train", "test")
        for seed in (0, 7)
    ]
    assert banks[0] != banks[1]
    assert banks[2] == banks[3]


def test_skipped_questions_are_the_first_ones():
    whole = DrawnShapesBank("train", ALL)
    rest = whole.part(100)
    assert len(rest) == len(whole)
    assert [rest[i] for i in range(10)] == [whole[100 + i] for i in range(10)]


@pytest.mark.parametrize("size", [42, 84])
def test_train_and_test_never_share_a_picture(size):
    shown = {
        split: {pixels(question).tobytes() for kind in ALL for question in questions(kind, 250, split, image_size=size)}
        for split in ("train", "test")
    }
    assert not shown["train"] & shown["test"]


def test_equal_fingerprints_mean_equal_pictures_and_the_other_way_round():
    bank = DrawnShapesBank("train", ("color", "form"))
    pictures = {}
    for index in range(3000):
        image = bank[index].images[0]
        pictures.setdefault(image.fingerprint(), set()).add(np.asarray(image.open()).tobytes())
    assert all(len(seen) == 1 for seen in pictures.values())
    assert len({next(iter(seen)) for seen in pictures.values()}) == len(pictures)


@pytest.mark.parametrize("kind", ALL)
def test_answers_are_asked_equally_often(kind):
    answers = KINDS[kind].answers
    counts = Counter(question.answer for question in questions(kind, 20 * len(answers), "test"))
    assert counts == {answer: 20 for answer in answers}


def test_kinds_are_asked_equally_often_and_in_every_wording():
    bank = DrawnShapesBank("test", num_wordings=3)
    pairs = Counter((bank[index].subtask, index % 3) for index in range(900))
    assert len(pairs) == 9
    assert min(pairs.values()) > 70


@pytest.mark.parametrize("kind", ALL)
def test_wordings_are_different_sentences(kind):
    for question in questions(kind, 5, num_wordings=None):
        assert len(question.wordings) >= 3
        words = [set(text.lower().rstrip("?.").split()) for text in question.wordings]
        asked = {word for text in KINDS[kind].wordings for word in text.split() if "{" in word}
        for one in range(len(words)):
            for other in range(one):
                shared = len(words[one] & words[other])
                assert shared <= 0.6 * min(len(words[one]), len(words[other])) + len(asked), question.wordings


@pytest.mark.parametrize("kind", ALL)
def test_transforms_are_known_and_places_are_never_moved(kind):
    names = KINDS[kind].transforms
    assert set(names) <= set(TRANSFORMS)
    if kind == "spatial":
        assert not any(TRANSFORMS[name].moves for name in names)


def test_a_run_may_narrow_the_transforms_but_not_widen_them():
    wanted = ["flip_vertical", "noise_50"]
    assert questions("counting", 1, transforms=wanted)[0].transforms == ("flip_vertical",)
    assert questions("spatial", 1, transforms=wanted)[0].transforms == ()


@pytest.mark.parametrize("kind", ALL)
def test_every_question_has_key_steps_that_lead_to_the_answer(kind):
    for question in questions(kind, 30):
        assert question.key_steps
        assert all(step and all(phrase for phrase in step) for step in question.key_steps)


def test_counting_draws_as_many_separate_figures_as_it_says():
    for question in questions("counting"):
        figures = question.images[0].figures
        assert len(figures) == int(question.answer)
        for one in range(len(figures)):
            for two in figures[:one]:
                gap = max(abs(figures[one].x - two.x), abs(figures[one].y - two.y))
                assert gap > figures[one].size + two.size


def test_figures_stay_on_the_board():
    for kind in ALL:
        for figure in (figure for question in questions(kind, 60) for figure in question.images[0].figures):
            across = 2 if figure.form == "line" and figure.turn == 90 else figure.size
            down = 2 if figure.form == "line" and figure.turn == 0 else figure.size
            assert across < figure.x < BOARD - across, figure
            assert down < figure.y < BOARD - down, figure


def test_color_and_form_are_what_is_drawn():
    assert all(q.images[0].figures[0].color == q.answer for q in questions("color"))
    assert all(q.images[0].figures[0].form == q.answer for q in questions("form"))


def test_comparing_counts_both_colors():
    for question in questions("comparing"):
        first, second = (word for word in question.question.split() if word in KINDS["color"].answers)
        counts = Counter(figure.color for figure in question.images[0].figures)
        assert question.answer == ("yes" if counts[first] > counts[second] else "no")
        assert counts[first] != counts[second]


def test_spatial_answers_hold_in_the_scene():
    sign = {"left": (1, 0), "right": (-1, 0), "higher": (0, 1), "lower": (0, -1)}
    for question in questions("spatial", 120):
        answer, other = sorted(question.images[0].figures, key=lambda figure: figure.form != question.answer)
        (across, down), *_ = [signs for word, signs in sign.items() if word in question.question]
        assert across * (other.x - answer.x) + down * (other.y - answer.y) > answer.size
        assert question.answer in question.question
        assert other.form in question.question


def test_the_order_of_mention_says_nothing():
    for kind, first in (("spatial", 4), ("length", 4)):
        asked = questions(kind, 300)
        early = sum(q.question.index(q.answer) < 0.7 * len(q.question) - first for q in asked)
        assert 90 < early < 210


def test_sides_lengths_and_angles_hold_in_the_scene():
    for question in questions("sides"):
        assert CORNERS[question.images[0].figures[0].form] == int(question.answer)
    for question in questions("length"):
        long, short = sorted(question.images[0].figures, key=lambda figure: -figure.size)
        assert (long.color, short.size + 10 < long.size) == (question.answer, True)
    for question in questions("angle"):
        one, two = (figure.turn for figure in question.images[0].figures)
        opening = min((one - two) % 360, (two - one) % 360)
        assert question.answer == ("right" if opening == 90 else "acute" if opening < 65 else "obtuse")


def test_wordings_can_be_limited():
    counts = [len(DrawnShapesBank("train", num_wordings=number)[0].wordings) for number in (1, 2, 3, None)]
    assert counts[:3] == [1, 2, 3]
    assert all(a <= b for a, b in pairwise(counts))


def test_groups_of_kinds_and_unknown_kinds():
    assert expand_kinds(["attributes", "color"]) == ("color", "form")
    assert expand_kinds(["geometry"]) == KIND_GROUPS["geometry"]
    with pytest.raises(UserError, match=r"countin.*counting"):
        expand_kinds(["countin"])
    with pytest.raises(UserError, match="at least one"):
        expand_kinds([])
    with pytest.raises(UserError, match="validation"):
        DrawnShapesBank("validation")


def test_an_index_outside_the_bank_ends_iteration():
    bank = DrawnShapesBank("test").part(0, 3)
    assert [question.id for question in bank] == ["test-0", "test-1", "test-2"]
    with pytest.raises(IndexError):
        bank[-1]
