"""A scene of flat figures and its drawing.

Places are whole numbers on a board of 84 x 84 units, whatever the size of the picture: a scene is the same question
at every size, and two different scenes never draw the same picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from hashlib import blake2b

from PIL import Image, ImageDraw

BOARD = 84  # units on a side
COLORS = {
    "red": (220, 30, 30),
    "green": (20, 150, 40),
    "blue": (40, 60, 230),
    "yellow": (240, 210, 0),
    "purple": (150, 40, 190),
    "orange": (250, 130, 0),
    "black": (0, 0, 0),
}
CORNERS = {"triangle": 3, "square": 4, "pentagon": 5, "hexagon": 6}
Point = tuple[float, float]


@dataclass(frozen=True, order=True)
class Figure:
    """One figure: `circle`, a regular polygon, `line` (around its middle) or `ray` (from x, y).

    Units of the board; `size` is the radius (half the length of a line, the whole length of a ray);
    `turn` in degrees, counter-clockwise.
    """

    form: str
    color: str
    x: int
    y: int
    size: int
    turn: int = 0


@dataclass(frozen=True)
class DrawnImage:
    """A scene as an image source: drawn when opened, known by its content. Figures never overlap, so order is free."""

    figures: tuple[Figure, ...]
    image_size: int
    name: str = "drawn scene"

    def open(self) -> Image.Image:
        """The picture, RGB, image_size x image_size pixels, anti-aliased on white."""
        oversampling = 4 if self.image_size <= 128 else 2
        side = self.image_size * oversampling
        image = Image.new("RGB", (side, side), "white")
        canvas = ImageDraw.Draw(image)
        for figure in self.figures:
            _draw(canvas, figure, side / BOARD)
        return image.reduce(oversampling)

    def fingerprint(self) -> str:
        """Digest of scene and size."""
        return f"{scene_digest(self.figures):032x}-{self.image_size}"


def scene_digest(figures: tuple[Figure, ...]) -> int:
    """128 bits that name a scene, at any size of picture."""
    fields = [(f.form, f.color, f.x, f.y, f.size, f.turn) for f in sorted(figures)]
    return int.from_bytes(blake2b(repr(fields).encode(), digest_size=16).digest(), "big")


def _draw(canvas: ImageDraw.ImageDraw, figure: Figure, scale: float) -> None:
    color = COLORS[figure.color]
    x, y, size = figure.x * scale, figure.y * scale, figure.size * scale
    if figure.form == "circle":
        canvas.ellipse((x - size, y - size, x + size, y + size), fill=color)
    elif figure.form in ("line", "ray"):
        ahead = _around(x, y, size, figure.turn)
        start = (x, y) if figure.form == "ray" else (2 * x - ahead[0], 2 * y - ahead[1])
        points = [(round(px), round(py)) for px, py in (start, ahead)]  # fractions would slant a level line
        canvas.line(points, fill=color, width=round(4 * scale))
    else:
        canvas.polygon(_corners(figure, x, y, size), fill=color)


def _corners(figure: Figure, x: float, y: float, size: float) -> list[Point]:
    """Corners of a regular polygon; an unturned one stands on a side. Square and triangle fill the circle's box."""
    number = CORNERS[figure.form]
    if figure.turn == 0 and number <= 4:
        top = [(x, y - size)] if number == 3 else [(x - size, y - size), (x + size, y - size)]
        return [*top, (x + size, y + size), (x - size, y + size)]
    return [_around(x, y, size, figure.turn + 90 + 180 / number + 360 * k / number) for k in range(number)]


def _around(x: float, y: float, radius: float, degrees: float) -> Point:
    angle = math.radians(degrees)
    return x + radius * math.cos(angle), y - radius * math.sin(angle)
