"""Seeded image transforms, each with the sentence that tells the model what was done, and which may be used where.

A transform acts on the whole question: one draw for all its images. They are for training; evaluation never draws one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from sharegrpo_rl.data.images import within
from sharegrpo_rl.data.types import SeedQuestion
from sharegrpo_rl.errors import UserError


@dataclass(frozen=True)
class Transform:
    """`apply(image, rng)` gives the changed RGB image; `sentence` says what was done; `moves` = pixels are moved."""

    name: str
    label: str
    sentence: str
    apply: Callable[[Image.Image, np.random.Generator], Image.Image]
    moves: bool
    seeded: bool = False  # another seed gives another picture


def _turn(operation: Image.Transpose) -> Callable[[Image.Image, np.random.Generator], Image.Image]:
    return lambda image, rng: image.transpose(operation)


def _noise(sigma: float) -> Callable[[Image.Image, np.random.Generator], Image.Image]:
    def apply(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        pixels = np.asarray(image, dtype=np.float32)
        noisy = pixels + rng.normal(0.0, sigma, pixels.shape).astype(np.float32)
        return Image.fromarray(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))

    return apply


_TURNED = "What you see has been turned {} Imagine it turned {} before you answer."
_NOISY = "What you see has {} random noise added to its pixels. Answer for the clean picture beneath it."

# Pillow's ROTATE_90 is counterclockwise.
_ALL = (
    Transform(
        "rotate_90_cw",
        "turned 90 degrees clockwise",
        _TURNED.format("90 degrees clockwise.", "90 degrees counterclockwise"),
        _turn(Image.Transpose.ROTATE_270),
        moves=True,
    ),
    Transform(
        "rotate_90_ccw",
        "turned 90 degrees counterclockwise",
        _TURNED.format("90 degrees counterclockwise.", "90 degrees clockwise"),
        _turn(Image.Transpose.ROTATE_90),
        moves=True,
    ),
    Transform(
        "rotate_180",
        "turned 180 degrees",
        _TURNED.format("180 degrees.", "another 180 degrees"),
        _turn(Image.Transpose.ROTATE_180),
        moves=True,
    ),
    Transform(
        "flip_horizontal",
        "mirrored left to right",
        "What you see has been mirrored: left and right are swapped. Imagine them swapped back before you answer.",
        _turn(Image.Transpose.FLIP_LEFT_RIGHT),
        moves=True,
    ),
    Transform(
        "flip_vertical",
        "mirrored top to bottom",
        "What you see has been mirrored: top and bottom are swapped. Imagine them swapped back before you answer.",
        _turn(Image.Transpose.FLIP_TOP_BOTTOM),
        moves=True,
    ),
    Transform("noise_10", "noise, sigma 10", _NOISY.format("a little"), _noise(10.0), moves=False, seeded=True),
    Transform("noise_25", "noise, sigma 25", _NOISY.format("some"), _noise(25.0), moves=False, seeded=True),
    Transform("noise_50", "noise, sigma 50", _NOISY.format("strong"), _noise(50.0), moves=False, seeded=True),
)
TransformName = Literal[
    "rotate_90_cw",
    "rotate_90_ccw",
    "rotate_180",
    "flip_horizontal",
    "flip_vertical",
    "noise_10",
    "noise_25",
    "noise_50",
]
TRANSFORMS: dict[str, Transform] = {transform.name: transform for transform in _ALL}
DEFAULT_TRANSFORMS = tuple(t.name for t in _ALL if not t.moves)  # safe on data that nobody has looked at

_DIRECTION = re.compile(
    r"\b(?:"
    r"left|leftmost|leftward|right|rightmost|rightward|top|topmost|bottom|bottommost|up|"
    r"upper|uppermost|upward|upwards|upside|down|downward|downwards|lower|lowermost|lowest|"
    r"higher|highest|above|below|under|underneath|beneath|over|clockwise|counterclockwise|"
    r"anticlockwise|row|rows|column|columns|horizontal|horizontally|vertical|vertically|"
    r"diagonal|diagonally|north|south|east|west|northeast|northwest|southeast|southwest|"
    r"front|behind|forward|backward|first|last|next|previous|mirror|mirrored|mirroring|"
    r"reflect|reflected|reflection|flip|flipped|rotate|rotated|rotation|turned|orientation|"
    r"oriented|direction|directions|face|faces|facing|axis|slope|tilt|tilted|corner|"
    r"corners|position|positions|letter|letters|text|word|words|digit|digits|written|read|"
    r"sign|clock"
    r")\b",
    re.IGNORECASE,
)
_NOT_LATIN = re.compile(r"[\u0400-\u1fff\u2e80-\ud7ff\uf900-\ufaff]")


def transform_images(
    images: Sequence[Image.Image], name: str, seed: int, pixels: tuple[int, int] | None = None
) -> tuple[Image.Image, ...]:
    """All images of a question after the transform `name`, drawn from `seed` alone; UserError for an unknown name.

    pixels: the fewest and the most that the model is shown. Noise is drawn at that size: drawn on a larger picture, most of
    it would be averaged away when the picture is shrunk.
    """
    check_names((name,))
    rng, transform = np.random.default_rng(seed), TRANSFORMS[name]
    sized = [within(image, *pixels) for image in images] if pixels and transform.seeded else images
    return tuple(transform.apply(image.convert("RGB"), rng) for image in sized)


def check_names(names: Sequence[str]) -> None:
    """UserError naming the first unknown transform and the known ones."""
    for name in names:
        if name not in TRANSFORMS:
            raise UserError(f"unknown image transform {name!r}; choose from {', '.join(TRANSFORMS)}")


def allowed_transforms(question: SeedQuestion, requested: Sequence[str] | None = None) -> tuple[str, ...]:
    """The transforms that keep this question's answer, in order.

    `requested` (the run's list) overrides the question's own list as a choice, never as a permission: a question
    with a list of its own allows only these; any other question always allows noise, and allows turns and flips only
    where they are requested and pass the word rule.
    """
    dropped = dropped_transforms(question, requested)
    return tuple(name for name in _candidates(question, requested) if name not in dropped)


def dropped_transforms(question: SeedQuestion, requested: Sequence[str] | None = None) -> dict[str, str]:
    """Each requested transform that is not used on this question, with the reason."""
    candidates = _candidates(question, requested)
    if not question.images:
        return {name: "the question has no image" for name in candidates}
    if question.transforms is not None:
        return {name: "the task does not list it" for name in candidates if name not in question.transforms}
    reason = _wording_reason(question)
    return {name: reason for name in candidates if reason and TRANSFORMS[name].moves}


def _candidates(question: SeedQuestion, requested: Sequence[str] | None) -> tuple[str, ...]:
    if requested is not None:
        names = tuple(requested)
    elif question.transforms is not None:
        names = question.transforms
    else:
        names = DEFAULT_TRANSFORMS
    check_names(names)
    return names


def _wording_reason(question: SeedQuestion) -> str:
    """Why flips and turns may change the answer, judged by the words of all wordings and choices; empty = no reason."""
    for text in (*question.wordings, *question.choices):
        if match := _DIRECTION.search(text):
            return f"the text speaks of {match.group(0).lower()!r}"
        if _NOT_LATIN.search(text):
            return "the word rule reads English only"
    return ""
