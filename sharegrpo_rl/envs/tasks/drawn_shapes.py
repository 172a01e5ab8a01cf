"""`DrawnShapes-v0`: questions about figures drawn with Pillow, generated without end and without any file."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import permutations
from random import Random
from typing import Any

from PIL import Image, ImageDraw
from pydantic import field_validator

from sharegrpo_rl.config.option import option
from sharegrpo_rl.data.types import KeySteps, QuestionBank, SeedQuestion
from sharegrpo_rl.envs.generated import GeneratedBank
from sharegrpo_rl.envs.multimodal_qa import EnvOptions, MultimodalQAEnv
from sharegrpo_rl.errors import UserError, did_you_mean

# Positions are whole numbers on a board of 84 x 84 units, whatever the size of the picture: a scene is the same question
# at every size, and two different scenes never draw the same picture.
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
        end = _around(x, y, size, figure.turn)
        start = (x, y) if figure.form == "ray" else (2 * x - end[0], 2 * y - end[1])
        points = [(round(px), round(py)) for px, py in (start, end)]  # fractions would slant a level line
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


PAINTS = ("red", "green", "blue", "yellow", "purple", "orange")
FORMS = ("circle", "square", "triangle")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
NOISE = ("noise_10", "noise_25")  # more would hide the colors
TURNS_AND_NOISE = ("rotate_90_cw", "rotate_90_ccw", "rotate_180", "flip_horizontal", "flip_vertical", *NOISE)


@dataclass(frozen=True)
class Drawing:
    """A scene made for one answer, the words that fill the wordings' blanks, and the steps that lead to the answer."""

    figures: tuple[Figure, ...]
    words: dict[str, str] = field(default_factory=dict)
    steps: KeySteps = ()


@dataclass(frozen=True)
class Kind:
    """A kind of question. `draw(random, answer)` makes a scene to which `answer` is the answer.

    All answers are asked equally often. The wordings share some of their words, though not their order: wording 0 is
    the one that a warm start teaches, the others are left to reinforcement learning and the test.
    """

    answers: tuple[str, ...]
    wordings: tuple[str, ...]
    draw: Callable[[Random, str], Drawing]
    answer_type: str = "word"
    transforms: tuple[str, ...] = TURNS_AND_NOISE


def _figure_in(random: Random, cell: int, form: str, color: str) -> Figure:
    """A figure jittered inside one of the 3 x 3 cells (28 units wide): neighbours keep 2 units apart."""
    size = random.randint(8, 11)
    jitter = 13 - size
    row, column = divmod(cell, 3)
    x = 14 + 28 * column + random.randint(-jitter, jitter)
    y = 14 + 28 * row + random.randint(-jitter, jitter)
    return Figure(form, color, x, y, size)


def _scatter(random: Random, looks: list[tuple[str, str]]) -> tuple[Figure, ...]:
    """Figures of the given (form, color) in different cells."""
    cells = random.sample(range(9), len(looks))
    return tuple(_figure_in(random, cell, form, color) for cell, (form, color) in zip(cells, looks, strict=True))


def _counted(number: int, noun: str) -> tuple[str, str]:
    """'2 red shapes' and 'two red shapes'."""
    plural = noun if number == 1 else noun + "s"
    return f"{number} {plural}", f"{NUMBERS[number]} {plural}"


def _draw_counting(random: Random, answer: str) -> Drawing:
    looks = [(random.choice(FORMS), random.choice(PAINTS)) for _ in range(int(answer))]
    forms = Counter(form for form, _ in looks)
    steps: list[tuple[str, ...]] = [_counted(number, form) for form, number in sorted(forms.items())]
    if len(forms) > 1:
        addends = permutations(str(number) for _, number in sorted(forms.items()))
        sums = dict.fromkeys(f"{' + '.join(order)} = {answer}" for order in addends)
        steps.append((*sums, f"{answer} in total", f"{answer} altogether"))
    return Drawing(_scatter(random, looks), steps=tuple(steps))


def _draw_color(random: Random, answer: str) -> Drawing:
    form = random.choice(FORMS)
    steps = ((f"one {form}", f"1 {form}", f"a {form}", f"the {form}"), (f"{answer} {form}", f"{form} is {answer}"))
    return Drawing(_scatter(random, [(form, answer)]), steps=steps)


def _draw_form(random: Random, answer: str) -> Drawing:
    paint = random.choice(PAINTS)
    outline = {
        "circle": ("no corners", "no straight sides", "round"),
        "square": ("four equal sides", "four corners", "4 corners"),
        "triangle": ("three sides", "three corners", "3 corners"),
    }[answer]
    return Drawing(_scatter(random, [(answer, paint)]), steps=(outline, (f"a {answer}", f"{paint} {answer}")))


def _draw_comparing(random: Random, answer: str) -> Drawing:
    first, second = random.sample(PAINTS, 2)
    fewer, more = sorted(random.sample(range(1, 5), 2))
    counts = {first: more, second: fewer} if answer == "yes" else {first: fewer, second: more}
    looks = [(random.choice(FORMS), paint) for paint, number in counts.items() for _ in range(number)]
    sign, word, reverse = (">", "more", "<") if answer == "yes" else ("<", "less", ">")
    steps = (
        (*_counted(counts[first], f"{first} shape"), f"{counts[first]} {first}", f"{first}: {counts[first]}"),
        (*_counted(counts[second], f"{second} shape"), f"{counts[second]} {second}", f"{second}: {counts[second]}"),
        (
            f"{counts[first]} {sign} {counts[second]}",
            f"{counts[second]} {reverse} {counts[first]}",
            f"{counts[first]} is {word} than {counts[second]}",
        ),
    )
    return Drawing(_scatter(random, looks), {"first": first, "second": second}, steps)


DIRECTIONS = {
    "left": ("further to the left", "left", "to the left of"),
    "right": ("further to the right", "right", "to the right of"),
    "top": ("higher up", "upper", "above"),
    "bottom": ("lower down", "lower", "below"),
}
OPPOSITES = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}


def _draw_spatial(random: Random, answer: str) -> Drawing:
    other = random.choice([form for form in FORMS if form != answer])
    direction = random.choice(list(DIRECTIONS))
    near, far = sorted(random.sample(range(3), 2))  # rows or columns: a whole cell apart, never in doubt
    across = random.choices(range(3), k=2)
    ahead, behind = (near, far) if direction in ("left", "top") else (far, near)
    sideways = direction in ("left", "right")
    cells = [3 * a + line if sideways else 3 * line + a for line, a in zip((ahead, behind), across, strict=True)]
    paints = random.sample(PAINTS, 2)
    figures = (_figure_in(random, cells[0], answer, paints[0]), _figure_in(random, cells[1], other, paints[1]))
    a, b = random.sample([answer, other], 2)  # the order of mention says nothing
    comparative, edge, relation = DIRECTIONS[direction]
    words = {"a": a, "b": b, "comparative": comparative, "edge": edge, "relation": relation}
    converse = f"{other} is {DIRECTIONS[OPPOSITES[direction]][2]} the {answer}"
    steps = ((f"{paints[0]} {answer}",), (f"{paints[1]} {other}",), (f"{answer} is {relation} the {other}", converse))
    return Drawing(figures, words, steps)


def _draw_sides(random: Random, answer: str) -> Drawing:
    form = next(name for name, corners in CORNERS.items() if corners == int(answer))
    size = random.randint(26, 34)
    x, y = (42 + random.randint(-6, 6) for _ in range(2))
    turn = random.randint(1, 360 // int(answer) - 1)  # beyond that a regular polygon repeats itself
    figure = Figure(form, random.choice(PAINTS), x, y, size, turn)
    return Drawing(
        (figure,), steps=((form,), (f"{answer} sides", f"{answer} corners", f"{NUMBERS[int(answer)]} sides"))
    )


def _draw_length(random: Random, answer: str) -> Drawing:
    other = random.choice([paint for paint in PAINTS if paint != answer])
    short = random.randint(10, 18)
    long = random.randint(short + 12, short + 20)
    slant = random.choice((0, 90))
    positions = random.sample((22 + random.randint(-5, 5), 62 + random.randint(-5, 5)), 2)

    def line(paint: str, half: int, position: int) -> Figure:
        middle = 42 + random.randint(half - 40, 40 - half)
        x, y = (middle, position) if slant == 0 else (position, middle)
        return Figure("line", paint, x, y, half, turn=slant)

    a, b = random.sample([answer, other], 2)
    longer = (f"{answer} is longer", f"{answer} line is longer", f"{other} is shorter", f"{other} line is shorter")
    steps = ((f"{answer} line", f"{answer} segment"), longer)
    return Drawing((line(answer, long, positions[0]), line(other, short, positions[1])), {"a": a, "b": b}, steps)


def _draw_angle(random: Random, answer: str) -> Drawing:
    opening = {"acute": random.randint(25, 60), "right": 90, "obtuse": random.randint(120, 155)}[answer]
    turn, paint = random.randrange(360), random.choice((*PAINTS, "black"))
    x, y = (42 + random.randint(-4, 4) for _ in range(2))
    arms = [Figure("ray", paint, x, y, random.randint(28, 36), turn=(turn + side) % 360) for side in (0, opening)]
    size = {"acute": "less than 90", "right": "exactly 90", "obtuse": "more than 90"}[answer]
    return Drawing(tuple(arms), steps=((f"{size} degrees", size), (f"{answer} angle", f"angle is {answer}")))


KINDS: dict[str, Kind] = {
    "counting": Kind(
        ("1", "2", "3", "4", "5", "6"),
        (
            "How many objects are there?",
            "Count the objects that are there.",
            "Give the number of objects drawn here.",
            "Tell me the quantity of figures you see.",
        ),
        _draw_counting,
        "numeric",
    ),
    "color": Kind(
        PAINTS,
        (
            "What color is the shape?",
            "Which color do you see?",
            "Name the color of the shape.",
            "In what hue has the figure been drawn?",
        ),
        _draw_color,
    ),
    "form": Kind(
        FORMS,
        (
            "What form does the object have?",
            "Name the form of the object.",
            "The thing drawn here has what form?",
            "Say which kind of outline you see.",
        ),
        _draw_form,
    ),
    "comparing": Kind(
        ("yes", "no"),
        (
            "Are there more {first} shapes than {second} ones?",
            "Does {first} occur more often than {second}?",
            "Compare two colors: do {first} figures outnumber {second}?",
            "Would you find {second} rarer than {first} here?",
        ),
        _draw_comparing,
        "yes_no",
    ),
    "spatial": Kind(
        FORMS,
        (
            "Which shape is {comparative}: the {a} or the {b}?",
            "Of the {a} and the {b}, name the one closer to the {edge} edge.",
            "Take the {a} and the {b}. Say which lies {relation} the other.",
            "The {a} or the {b}: one is nearer the {edge} border. Tell me its form.",
        ),
        _draw_spatial,
        transforms=NOISE,
    ),
    "sides": Kind(
        ("3", "4", "5", "6"),
        (
            "How many sides does the polygon have?",
            "Count the corners of this figure.",
            "Give the number of edges along the outline.",
            "What is the total of vertices here?",
        ),
        _draw_sides,
        "numeric",
    ),
    "length": Kind(
        PAINTS,
        (
            "Which line is longer, the {a} one or the {b} one?",
            "Compare the {a} and {b} segments and name the color of the greater.",
            "Of both strokes, {a} and {b}, tell me what extends further.",
            "The {a} bar or the {b} bar: say whose length is larger.",
        ),
        _draw_length,
    ),
    "angle": Kind(
        ("acute", "right", "obtuse"),
        (
            "Is the angle acute, right or obtuse?",
            "What type of corner do these two lines form?",
            "Classify the opening between both arms.",
            "Compare with 90 degrees and name what is drawn: obtuse, acute or right.",
        ),
        _draw_angle,
    ),
}
# Names that stand for several kinds.
KIND_GROUPS: dict[str, tuple[str, ...]] = {
    "attributes": ("color", "form"),
    "geometry": ("sides", "length", "angle"),
}


TEST_SHARE = 4  # one scene in so many belongs to the test split


class DrawnShapesBank(GeneratedBank):
    """Kinds and answers come in shuffled blocks: of len(kinds) questions in a row each kind is asked once, and of
    len(answers) questions of a kind each answer once.

    Every scene belongs to one split by its digest, so that train and test never share a picture. The kind of question
    does not follow from `index % num_wordings`. `transforms` narrows what a kind allows.
    """

    name = "DrawnShapes-v0"
    task = "drawn_shapes"

    def __init__(
        self,
        split: str,
        kinds: Sequence[str] = ("counting", "color", "form"),
        image_size: int = 42,
        num_wordings: int | None = None,
        *,
        subset_seed: int = 0,
        transforms: Sequence[str] | None = None,
    ) -> None:
        super().__init__(split, subset_seed=subset_seed, transforms=transforms)
        self.kinds = expand_kinds(kinds)
        self.image_size = image_size
        self.num_wordings = num_wordings

    def make(self, number: int) -> SeedQuestion:
        """Question `number` of the split."""
        name = self.deal(self.kinds, number, "kinds")
        kind = KINDS[name]
        answer = self.deal(kind.answers, number // len(self.kinds), name)
        drawing = self._draw(kind, answer, self.random(name, number))
        identity = self.question_id(number)
        wordings = [text.format(**drawing.words) for text in kind.wordings[: self.num_wordings]]
        return SeedQuestion(
            id=identity,
            question=wordings[0],
            answer=answer,
            images=(DrawnImage(drawing.figures, self.image_size, name=f"drawn shapes {identity}"),),
            variants=tuple(wordings[1:]),
            answer_type=kind.answer_type,
            key_steps=drawing.steps,
            task=self.task,
            subtask=name,
            transforms=kind.transforms,
        )

    def _draw(self, kind: Kind, answer: str, random: Random) -> Drawing:
        """The first scene that belongs to this split."""
        while True:
            drawing = kind.draw(random, answer)
            if (scene_digest(drawing.figures) % TEST_SHARE == 0) == (self.split == "test"):
                return drawing


def expand_kinds(names: Sequence[str]) -> tuple[str, ...]:
    """Kinds of question, groups of them spelled out, each once; UserError where a name is unknown or none is given."""
    known = [*KINDS, *KIND_GROUPS]
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known, f"known kinds: {', '.join(known)}")
            raise UserError(f"env_config.kinds: unknown kind of question {name!r}; {hint}")
    if not names:
        raise UserError(f"env_config.kinds: name at least one kind of question: {', '.join(known)}")
    return tuple(dict.fromkeys(kind for name in names for kind in KIND_GROUPS.get(name, (name,))))


class DrawnShapesOptions(EnvOptions):
    """What `env_config` may hold."""

    kinds: list[str] = option(
        ["counting", "color", "form"],
        f"kinds of question: {', '.join(KINDS)}; or groups of them: {', '.join(KIND_GROUPS)}",
    )
    image_size: int = option(42, "width and height of the pictures", unit="pixels", ge=14, le=1024)
    num_wordings: int | None = option(3, "wordings of each question; null = all of them", ge=1)

    @field_validator("kinds")
    @classmethod
    def _known_kinds(cls, kinds: list[str]) -> list[str]:
        expand_kinds(kinds)
        return kinds


class DrawnShapesEnv(MultimodalQAEnv):
    """How many figures, which color, which form, more or fewer, left or above, sides, lengths and angles."""

    id = "DrawnShapes-v0"
    options_type = DrawnShapesOptions

    @classmethod
    def questions(cls, options: Any, split: str) -> QuestionBank:
        """The generated bank."""
        return DrawnShapesBank(
            split,
            options.kinds,
            options.image_size,
            options.num_wordings,
            subset_seed=options.subset_seed,
            transforms=options.transforms,
        )
