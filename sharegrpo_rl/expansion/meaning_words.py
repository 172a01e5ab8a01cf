"""Words that a rewording must neither lose nor exchange: negations, directions, colours, shapes, opposites."""

from __future__ import annotations

import re
from collections import Counter

_NEGATION = re.compile(r"\b(?:not|no|never|none|without|neither|nor|cannot|nothing|nobody)\b|n['’]t\b", re.IGNORECASE)
_NEUTRAL = re.compile(r"\b(?:whether )?or not\b|\bno(?=\.\s*\d)", re.IGNORECASE)  # "No. 5" counts, it denies nothing
_REMAINING = re.compile(r"(?<!the )(?<!your )\bleft(?=\s*(?:over\b|[?.!,]|$))", re.IGNORECASE)  # how many are left?
_SIDES = re.compile(r"\b(left|right|anti-?clockwise|counter-?clockwise|clockwise)(?:most)?\b", re.IGNORECASE)
_COLOURS = re.compile(
    r"\b(red|green|blue|yellow|orange|purple|violet|pink|brown|black|white|gr[ae]y|cyan|teal|magenta|beige|gold)\b",
    re.IGNORECASE,
)

_UNIT_SQUARE = r"(?!d|-?\s*(?:root|unit|(?:centi|milli|kilo)?met(?:er|re)|inch|feet|foot|yard|mile|(?:cm|mm|km|m)\b))"
_SHAPES = re.compile(
    rf"\b(circle|disc|disk|triangle|square{_UNIT_SQUARE}|rectangle|pentagon|hexagon|octagon|star|sphere|ball|cube|cylinder"
    r"|cone|pyramid|ellipse|rhombus|trapezoid|parallelogram)",
    re.IGNORECASE,
)
_SAME_SHAPE = {"disc": "circle", "disk": "circle", "ball": "sphere"}
# Each line holds kinds of words that exclude each other. A rewording may say them otherwise, but not exchange them.
_OPPOSITES = tuple(
    tuple(re.compile(rf"\b(?:{words})\b", re.IGNORECASE) for words in line.split(" / "))
    for line in (
        "above|over|atop|on top / below|under|underneath|beneath",
        "top|topmost|upper|uppermost|highest / bottom|bottommost|lower|lowermost|lowest",
        "inside|within / outside",
        "before|earlier / after|later",
        "first / last|final",
        "horizontal|horizontally / vertical|vertically",
        "large|larger|largest|big|bigger|biggest|great|greatest|maximum / small|smaller|smallest|little|tiny|minimum",
        "more|most|greater / fewer|fewest|less|least",
        "longer|longest / shorter|shortest",
        "sum|total|add|plus|altogether / difference|subtract|minus / product|multiply|multiplied|times / quotient|divided|divide",
        "perimeter / area / volume",
        "radius / diameter / circumference",
        "row|rows / column|columns",
        "color|colour|colors|colours / shape|shapes / size|sizes / material|materials",
        "metal|metallic / rubber",
    )
)


def is_negated(text: str) -> bool:
    """Whether a negation stands there, "or not" left out."""
    return _NEGATION.search(_NEUTRAL.sub(" ", text)) is not None


def sides(text: str) -> Counter[str]:
    """Left, right and the two ways to turn."""
    folded = (word.casefold().replace("-", "") for word in _SIDES.findall(_REMAINING.sub(" ", text)))
    return Counter("counterclockwise" if word == "anticlockwise" else word for word in folded)


def colours(text: str) -> set[str]:
    """Named colours."""
    return {word.casefold().replace("grey", "gray") for word in _COLOURS.findall(text)}


def shapes(text: str) -> set[str]:
    """Named shapes; a disc is a circle and a ball a sphere."""
    folded = (word.casefold() for word in _SHAPES.findall(text))
    return {_SAME_SHAPE.get(word, word) for word in folded}


def exchanged(text: str, other: str) -> tuple[str, str] | None:
    """A word of `text` and the one of `other` that stands for its opposite; None where nothing was exchanged."""
    for kinds in _OPPOSITES:
        had, has = ([kind.search(t) for kind in kinds] for t in (text, other))
        new = next((b for a, b in zip(had, has, strict=True) if b and not a), None)
        gone = next((a for a, b in zip(had, has, strict=True) if a and not b), None)
        if new and gone:
            return gone.group(), new.group()
    return None
