"""The kinds of question about drawn shapes: what is drawn for an answer, and how it is asked.

Each kind has a fixed set of answers, asked equally often, and several wordings that share some of their words, though
not their order: wording 0 is the one a warm start teaches, the others are left to reinforcement learning and the test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import permutations
from random import Random

from sharegrpo_rl.envs.shapes.scene import CORNERS, Figure

Steps = tuple[tuple[str, ...], ...]
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
    steps: Steps = ()


@dataclass(frozen=True)
class Kind:
    """A kind of question. `draw(random, answer)` makes a scene to which `answer` is the answer."""

    answers: tuple[str, ...]
    wordings: tuple[str, ...]
    draw: Callable[[Random, str], Drawing]
    answer_type: str = "word"
    transforms: tuple[str, ...] = TURNS_AND_NOISE


def _place(random: Random, cell: int, form: str, color: str) -> Figure:
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
    return tuple(_place(random, cell, form, color) for cell, (form, color) in zip(cells, looks, strict=True))


def _some(number: int, noun: str) -> tuple[str, str]:
    """'2 red shapes' and 'two red shapes'."""
    plural = noun if number == 1 else noun + "s"
    return f"{number} {plural}", f"{NUMBERS[number]} {plural}"


def _draw_counting(random: Random, answer: str) -> Drawing:
    looks = [(random.choice(FORMS), random.choice(PAINTS)) for _ in range(int(answer))]
    forms = Counter(form for form, _ in looks)
    steps: list[tuple[str, ...]] = [_some(number, form) for form, number in sorted(forms.items())]
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
        (*_some(counts[first], f"{first} shape"), f"{counts[first]} {first}", f"{first}: {counts[first]}"),
        (*_some(counts[second], f"{second} shape"), f"{counts[second]} {second}", f"{second}: {counts[second]}"),
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
    figures = (_place(random, cells[0], answer, paints[0]), _place(random, cells[1], other, paints[1]))
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
    places = random.sample((22 + random.randint(-5, 5), 62 + random.randint(-5, 5)), 2)

    def line(paint: str, half: int, place: int) -> Figure:
        middle = 42 + random.randint(half - 40, 40 - half)
        x, y = (middle, place) if slant == 0 else (place, middle)
        return Figure("line", paint, x, y, half, turn=slant)

    a, b = random.sample([answer, other], 2)
    longer = (f"{answer} is longer", f"{answer} line is longer", f"{other} is shorter", f"{other} line is shorter")
    steps = ((f"{answer} line", f"{answer} segment"), longer)
    return Drawing((line(answer, long, places[0]), line(other, short, places[1])), {"a": a, "b": b}, steps)


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
