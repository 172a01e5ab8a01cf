import re

import numpy as np
import pytest
from PIL import Image

from sharegrpo_rl.data.images import EncodedImage
from sharegrpo_rl.data.transforms import (
    DEFAULT_TRANSFORMS,
    TRANSFORMS,
    allowed_transforms,
    dropped_transforms,
    transform_images,
)
from sharegrpo_rl.data.types import SeedQuestion
from sharegrpo_rl.errors import UserError

PICTURE = Image.fromarray(np.random.default_rng(0).integers(40, 216, (7, 5, 3), dtype=np.uint8))
MOVES = [name for name, transform in TRANSFORMS.items() if transform.moves]
NOISES = [name for name, transform in TRANSFORMS.items() if not transform.moves]
# One array operation for each thing a sentence can say: rot90 with k = 1 is counterclockwise.
SAID = {
    "turned 90 degrees clockwise": lambda a: np.rot90(a, -1),
    "turned 90 degrees counterclockwise": lambda a: np.rot90(a, 1),
    "turned 180 degrees": lambda a: np.rot90(a, 2),
    "turned another 180 degrees": lambda a: np.rot90(a, 2),
    "left and right are swapped": lambda a: a[:, ::-1],
    "top and bottom are swapped": lambda a: a[::-1],
}


def question(text: str = "How many dots are there?", **changes) -> SeedQuestion:
    return SeedQuestion("q", text, "2", images=(EncodedImage(b"", "x"),), **changes)


@pytest.mark.parametrize("name", MOVES)
def test_each_sentence_says_what_was_done(name: str) -> None:
    sentence = TRANSFORMS[name].sentence
    done = next(operation for words, operation in SAID.items() if re.search(rf"{words}\b", sentence.split(".")[0]))
    (changed,) = transform_images([PICTURE], name, seed=1)
    np.testing.assert_array_equal(np.asarray(changed), done(np.asarray(PICTURE)))


@pytest.mark.parametrize("name", [name for name in MOVES if name.startswith("rotate")])
def test_doing_what_the_sentence_asks_gives_the_picture_back(name: str) -> None:
    asked = re.search(r"Imagine it (turned .*?) before", TRANSFORMS[name].sentence)
    assert asked is not None
    (changed,) = transform_images([PICTURE], name, seed=1)
    np.testing.assert_array_equal(SAID[asked.group(1)](np.asarray(changed)), np.asarray(PICTURE))


@pytest.mark.parametrize("name", NOISES)
def test_noise_has_its_sigma_and_no_bias(name: str) -> None:
    grey = Image.new("RGB", (200, 200), (128, 128, 128))
    (noisy,) = transform_images([grey], name, seed=3)
    difference = np.asarray(noisy, dtype=float) - 128
    sigma = float(name.split("_")[1])
    assert abs(difference.mean()) < 1
    assert abs(difference.std() / sigma - 1) < 0.05
    assert "noise" in TRANSFORMS[name].sentence


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_seed_gives_one_picture(name: str) -> None:
    first, again, other = (np.asarray(transform_images([PICTURE], name, seed)[0]) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert TRANSFORMS[name].seeded != np.array_equal(first, other)


def test_all_images_of_a_question_get_the_same_transform() -> None:
    flipped = transform_images([PICTURE, PICTURE], "flip_vertical", seed=0)
    np.testing.assert_array_equal(np.asarray(flipped[0]), np.asarray(flipped[1]))


@pytest.mark.parametrize("side", [20, 300, 1000, 3000])
@pytest.mark.parametrize("name", NOISES)
def test_noise_reaches_the_model_as_strong_whatever_the_picture_s_size(name: str, side: int) -> None:
    """Drawn at the picture's own size, sigma 50 on 3,000 pixels would arrive as 14."""
    low, high = 56 * 56, 1003520
    grey = Image.new("RGB", (side, side), (128, 128, 128))
    (noisy,) = transform_images([grey], name, seed=3, pixels=(low, high))
    assert 0.98 * low < noisy.width * noisy.height < 1.02 * high
    size = max(28, round(noisy.width / 28) * 28)  # as Qwen's processor resizes it
    seen = np.asarray(noisy.resize((size, size), Image.Resampling.BICUBIC), dtype=float)
    sigma = float(name.split("_")[1])
    assert 0.7 < (seen - 128).std() / sigma < 1.05


def test_turns_keep_the_picture_s_size() -> None:
    (turned,) = transform_images([PICTURE], "rotate_180", seed=1, pixels=(10_000, 20_000))
    assert turned.size == PICTURE.size


def test_unknown_data_gets_noise_only() -> None:
    assert allowed_transforms(question()) == DEFAULT_TRANSFORMS == tuple(NOISES)
    assert dropped_transforms(question()) == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"text": "What is on the LEFT-hand side?"},
        {"variants": ("How many dots are above the line?",)},
        {"choices": ("up", "down")},
        {"text": "图中左边有几个点？"},
    ],
)
def test_the_word_rule_drops_turns_and_flips(changes: dict) -> None:
    requested = ("rotate_90_cw", "flip_horizontal", "noise_10")
    assert allowed_transforms(question(), requested) == requested
    assert allowed_transforms(question(**changes), requested) == ("noise_10",)
    assert set(dropped_transforms(question(**changes), requested)) == {"rotate_90_cw", "flip_horizontal"}


def test_a_task_list_is_the_last_word() -> None:
    mine = question("What is on the left?", transforms=("flip_vertical",))
    assert allowed_transforms(mine) == ("flip_vertical",)
    assert allowed_transforms(mine, ("flip_vertical", "noise_10")) == ("flip_vertical",)
    assert "noise_10" in dropped_transforms(mine, ("flip_vertical", "noise_10"))


def test_a_question_without_image_has_no_transform() -> None:
    assert allowed_transforms(SeedQuestion("q", "1 + 1?", "2")) == ()


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(UserError, match="spin"):
        allowed_transforms(question(), ("spin",))
