"""Other wordings of common questions by rule: only where a whole question fits a pattern, and meaning exactly the same.

Used with `template_wordings: true` only. Each rule is a family of equal questions: one that fits gives the others.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_THING = r"(?P<a>an?) (?P<x>(?:\w+ ){0,2}?\w+)"
_NO_THING = r"(?P<x>(?:\w+ ){0,2}?\w+)"
_PLACE = r"(?: in the (?:image|picture))?"
_SHAPE = r"(?:\w+ shape|circle|square|triangle|rectangle)"
_LOOK = "red|blue|green|yellow|gr[ae]y|black|white|brown|teal|orange|purple|pink|cyan|largest|smallest|missing"
_STEP = r"(?:left of|right of|above|below)"
# Nouns that are not looked for in a picture: "Is there a way?" is not "Does the image contain a way?"
_ABSTRACT = re.compile(
    r"\b(?:chance|difference|need|not|no|number|only|pattern|possibility|problem|reason|relation|relationship"
    r"|solution|value|way|most|least|more|fewer|less|times|ways)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class _Family:
    patterns: tuple[re.Pattern[str], ...]
    wordings: tuple[str, ...]


def _family(patterns: tuple[str, ...], wordings: tuple[str, ...]) -> _Family:
    return _Family(tuple(re.compile(pattern, re.IGNORECASE | re.DOTALL) for pattern in patterns), wordings)


_FAMILIES = (
    _family(
        (rf"Is there {_THING}{_PLACE}\?", rf"Is {_THING} present\?", rf"Does the (?:image|picture) contain {_THING}\?"),
        (
            "Is there {a} {x} in the image?",
            "Does the image contain {a} {x}?",
            "Is {a} {x} present?",
            "Can {a} {x} be seen in the image?",
            "Search the picture for {a} {x}: does one turn up?",
            "Would somebody who looks for {a} {x} here find it?",
        ),
    ),
    _family(
        (
            rf"Is there not {_THING}{_PLACE}\?",
            rf"Is no {_NO_THING} present\?",
            rf"Is there no {_NO_THING}{_PLACE}\?",
            rf"Does the (?:image|picture) not contain {_THING}\?",
        ),
        (
            "Is it true that there is no {x} in the image?",
            "Does the image contain no {x}?",
            "Is no {x} present?",
            "Is the image without any {x}?",
            "Search the picture for any {x}: is it true that no such thing turns up?",
            "Would somebody be right who says that no {x} was drawn here?",
        ),
    ),
    _family(
        (r"What colou?r is the (?P<x>[\w -]+)\?", r"What is the colou?r of the (?P<x>[\w -]+)\?"),
        (
            "What color is the {x}?",
            "What is the color of the {x}?",
            "Which color does the {x} have?",
            "Name the color of the {x}.",
            "In which hue has somebody painted the {x}?",
            "Say how the {x} was dyed.",
        ),
    ),
    _family(
        (
            rf"What shape (?:is|can be seen){_PLACE}\?",
            r"What shape is present\?",
            r"What shape does the image contain\?",
        ),
        (
            "What shape is in the image?",
            "What shape does the image contain?",
            "Which shape can be seen?",
            "Name the shape in the image.",
            "Which kind of figure has somebody drawn here?",
            "Say what outline the object before you has.",
        ),
    ),
    _family(
        (rf"What is the (?P<x>{_LOOK}) shape\?",),
        (
            "Which shape is {x}?",
            "What form does the {x} shape have?",
            "What kind of shape is the {x} one?",
            "Say which outline somebody drew in {x}.",
        ),
    ),
    _family(
        (
            r"How many (?P<x>[\w -]+) are there(?P<p> in the [\w ]+)?\?",
            r"How many (?P<x>[\w -]+) are(?P<p> in the [\w ]+)\?",
        ),
        (
            "How many {x} are there{p}?",
            "What is the number of {x}{p}?",
            "Count the {x}{p}.",
            "Give the number of {x}{p}.",
        ),
    ),
    _family(
        (rf"Is (?P<x>an? {_SHAPE} {_STEP}(?: {_STEP})* an? {_SHAPE})\?",),
        ("Is there {x}?", "Does the image show {x}?", "Can {x} be found in the image?"),
    ),
    _family(
        (rf"Is (?P<x>an? {_SHAPE}) (?P<y>\w+|an? \w+)\?",),
        ("Is there {x} that is {y}?", "Does the image show {x} that is {y}?", "Is at least one {x1} {y}?"),
    ),
    _family(
        (r'Is the following statement about the image true or false\? (?P<s>"[^"]*")',),
        (
            "True or false, judging by the image: {s}",
            "Here is a statement about the image: {s} Is it true or false?",
            "Does the image agree with the statement {s}? Answer true or false.",
        ),
    ),
    _family(
        (r"As shown in the diagram, (?P<b>[^?]+)\. Find the (?P<t>[^.?]+)\.",),
        (
            "In the diagram, {b}. What is the {t}?",
            "Look at the diagram, where {b}. Determine the {t}.",
            "The diagram shows this: {b}. Work out the {t}.",
        ),
    ),
    _family(
        (r"What is the missing (?P<x>number|color|shape) of the part denoted (?:with|by) a question mark\?",),
        (
            "Which {x} is missing from the part marked with a question mark?",
            "A question mark stands for the missing {x} of a part. What is the {x}?",
        ),
    ),
    _family(
        (r"What is the (?P<x>color|size) of the missing (?P<y>part|shape) denoted (?:with|by) a question mark\?",),
        (
            "Which {x} does the missing {y} have that is marked with a question mark?",
            "A question mark stands for the missing {y}. What is its {x}?",
        ),
    ),
)


def template_wordings(question: str) -> tuple[str, ...]:
    """Rewordings of the first family that the whole question fits, the question itself left out; () where none fits."""
    for family in _FAMILIES:
        for pattern in family.patterns:
            if match := pattern.fullmatch(question.strip()):
                return _fill(family.wordings, match.groupdict(), question)
    return ()


def _fill(wordings: tuple[str, ...], parts: dict[str, str | None], question: str) -> tuple[str, ...]:
    texts = {name: text or "" for name, text in parts.items()}
    if _ABSTRACT.search(texts.get("x", "")):
        return ()
    texts["x1"] = re.sub(r"^an? ", "", texts.get("x", ""))
    filled = (wording.format(**texts) for wording in wordings)
    return tuple(text for text in filled if text.lower() != question.strip().lower())
