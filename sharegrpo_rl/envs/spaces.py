"""Two spaces that gymnasium lacks: any Unicode text, and a list of images of any size."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Space
from numpy.typing import NDArray

Images = tuple[NDArray[np.uint8], ...]
# What samples are made of: letters of several scripts, digits, mathematics, an emoji outside the basic plane.
SAMPLE_CHARACTERS = "abcXYZ 0123456789.,-+=<>/\\{}\n√π°≤αßéЖ字数あ한ע🙂"


class UnicodeText(Space[str]):
    """Every string of at most `max_length` code points (gymnasium's `Text` takes letters and digits only)."""

    def __init__(self, max_length: int = 1_000_000, seed: int | np.random.Generator | None = None) -> None:
        self.max_length = max_length
        super().__init__(dtype=str, seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        """Text has no fixed shape."""
        return False

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """A short random text; masks are not known here."""
        _refuse_masks(mask, probability)
        length = int(self.np_random.integers(0, min(self.max_length, 32) + 1))
        picks = self.np_random.integers(0, len(SAMPLE_CHARACTERS), length)
        return "".join(SAMPLE_CHARACTERS[pick] for pick in picks)

    def contains(self, x: Any) -> bool:
        """Is `x` a string that is not too long?"""
        return isinstance(x, str) and len(x) <= self.max_length

    def to_jsonable(self, sample_n: Sequence[str]) -> list[str]:
        """Strings are JSON already."""
        return list(sample_n)

    def from_jsonable(self, sample_n: list[str]) -> list[str]:
        """The strings again."""
        return list(sample_n)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnicodeText) and other.max_length == self.max_length

    __hash__ = None  # type: ignore[assignment] # like gymnasium's own spaces: equal by content

    def __repr__(self) -> str:
        return f"UnicodeText({self.max_length})"


class ImageList(Space[Images]):
    """Tuples of at most `max_images` RGB images, each a uint8 array [height, width, 3], sizes free up to `max_side`."""

    def __init__(
        self, max_images: int = 64, max_side: int = 65_536, seed: int | np.random.Generator | None = None
    ) -> None:
        self.max_images = max_images
        self.max_side = max_side
        super().__init__(dtype=np.uint8, seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        """Images have no fixed shape."""
        return False

    def sample(self, mask: Any = None, probability: Any = None) -> Images:
        """Zero to three small images of noise; masks are not known here."""
        _refuse_masks(mask, probability)
        number = int(self.np_random.integers(0, min(self.max_images, 3) + 1))
        sides = self.np_random.integers(1, min(self.max_side, 32) + 1, (number, 2))
        return tuple(self.np_random.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in sides)

    def contains(self, x: Any) -> bool:
        """Is `x` a tuple of such images?"""
        return isinstance(x, tuple) and len(x) <= self.max_images and all(self._is_image(image) for image in x)

    def _is_image(self, image: Any) -> bool:
        return (
            isinstance(image, np.ndarray)
            and image.dtype == np.uint8
            and image.ndim == 3
            and image.shape[2] == 3
            and min(image.shape[:2]) > 0
            and max(image.shape[:2]) <= self.max_side
        )

    def to_jsonable(self, sample_n: Sequence[Images]) -> list[list[dict[str, Any]]]:
        """Each image as {"size": [height, width], "rgb": base64 of its bytes}."""
        return [[_image_to_json(image) for image in images] for images in sample_n]

    def from_jsonable(self, sample_n: list[list[dict[str, Any]]]) -> list[Images]:
        """The arrays again."""
        return [tuple(_image_from_json(image) for image in images) for images in sample_n]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ImageList):
            return False
        return (other.max_images, other.max_side) == (self.max_images, self.max_side)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"ImageList({self.max_images}, {self.max_side})"


def _image_to_json(image: NDArray[np.uint8]) -> dict[str, Any]:
    return {"size": list(image.shape[:2]), "rgb": base64.b64encode(image.tobytes()).decode("ascii")}


def _image_from_json(image: dict[str, Any]) -> NDArray[np.uint8]:
    height, width = image["size"]
    return np.frombuffer(base64.b64decode(image["rgb"]), dtype=np.uint8).reshape(height, width, 3).copy()


def _refuse_masks(mask: Any, probability: Any) -> None:
    if mask is not None or probability is not None:
        raise ValueError("this space samples without mask or probability")
