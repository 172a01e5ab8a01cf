"""The two spaces: samples belong to them, survive JSON, repeat by seed; foreign values do not belong."""

import json

import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from hypothesis import given
from hypothesis import strategies as st

from sharegrpo_rl.envs.spaces import ImageList, UnicodeText


@pytest.fixture(params=[UnicodeText, ImageList])
def space(request):
    return request.param(seed=0)


def test_samples_belong_and_survive_json(space):
    samples = [space.sample() for _ in range(50)]
    assert all(space.contains(sample) for sample in samples)
    again = space.from_jsonable(json.loads(json.dumps(space.to_jsonable(samples))))
    assert all(space.contains(sample) for sample in again)
    assert data_equivalence(samples, again)


def test_samples_repeat_by_seed(space):
    first = [space.sample() for _ in range(20)]
    space.seed(0)
    assert data_equivalence(first, [space.sample() for _ in range(20)])


def test_masks_are_refused(space):
    with pytest.raises(ValueError, match="mask"):
        space.sample(mask=np.ones(3, dtype=np.int8))


@given(st.text())
def test_every_text_belongs_and_survives_json(text):
    space = UnicodeText()
    assert space.contains(text)
    assert space.from_jsonable(json.loads(json.dumps(space.to_jsonable([text])))) == [text]


@pytest.mark.parametrize("value", [b"bytes", 3, None, "four"])
def test_what_is_no_short_text(value):
    assert not UnicodeText(max_length=3).contains(value)


IMAGE = np.zeros((2, 3, 3), np.uint8)


@pytest.mark.parametrize(
    "value",
    [
        IMAGE,
        [IMAGE],
        (IMAGE, IMAGE, IMAGE),
        (IMAGE.astype(np.float32),),
        (IMAGE[..., 0],),
        (IMAGE[..., :2],),
        (IMAGE[:0],),
        (np.zeros((9, 1, 3), np.uint8),),
        ("image",),
    ],
)
def test_what_is_no_list_of_images(value):
    assert not ImageList(max_images=2, max_side=8).contains(value)


def test_no_image_and_images_of_different_sizes_belong():
    space = ImageList(max_images=2)
    assert space.contains(())
    assert space.contains((IMAGE, np.zeros((5, 1, 3), np.uint8)))


def test_equality_is_by_content():
    assert UnicodeText(5) == UnicodeText(5) != UnicodeText(6)
    assert ImageList(2) == ImageList(2) != ImageList(3)
    assert "5" in repr(UnicodeText(5))
    assert not UnicodeText().is_np_flattenable
