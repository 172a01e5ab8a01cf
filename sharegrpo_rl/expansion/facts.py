"""What a question states, read by rules: numbers, units, formulas, names, and words for its picture."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from fractions import Fraction

from sharegrpo_rl.data.messages import IMAGE_MARK
from sharegrpo_rl.grader import Unit, canonical, plain_unicode, replace_number_words, split_unit

_NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d)|\d+(?:\.\d+)?")
_ORDINALS = ("second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_AS_DIGITS = {word: str(value) for value, word in enumerate(_ORDINALS, 2)}
_AS_DIGITS |= {f"{word}s": str(value) for value, word in enumerate(_ORDINALS[1:], 3)}
_AS_DIGITS |= {"half": "1/2", "halves": "1/2", "quarter": "1/4", "quarters": "1/4"}
_AS_DIGITS |= {"twice": "2", "double": "2", "thrice": "3", "triple": "3"}
_WORDED = re.compile(rf"\b(?:{'|'.join(_AS_DIGITS)})\b", re.IGNORECASE)
_ONE = re.compile(r"(?<!\d)(?<!\d[.,])1(?!\d|[.,]\d)")

_POWER = r"(?:\s*(?:²|³|\^\s*\{?[23]\}?|squared|cubed)(?![\w]))?"
_PER = r"(?:\s*(?:/|per)\s*[A-Za-z]+(?:²|³|\^\{?-?\d\}?)?)?"
_AREA = r"(?:(?:square|sq\.?|cubic)\s+)?"
_MEASURED = re.compile(rf"(?<=\d)\s*-?\s*(?!in\s+[a-z])(?P<unit>{_AREA}[A-Za-zµΩ°%]{{1,14}}{_POWER}{_PER})")
_SIGN = re.compile(
    r"(?P<unit>%|°C|°F|\^\s*\{?\\circ\}?|°|[€£¥₹])|(?P<money>(?<![\w$])\\?\$(?=\d[\d,.]*(?:[\s?!;:)]|$)))"
)
# Names long enough to be nothing but a unit anywhere in the text; the shorter ones count only after a number.
_SPELLED = re.compile(
    rf"\b(?P<unit>{_AREA}(?:(?:milli|centi|deci|kilo)?(?:met(?:er|re)|gram)|(?:milli)?lit(?:er|re)|degree|percent|dollar"
    rf"|inche|inch|cm|mm|km|kg|ml)s?{_POWER})(?![^\W_])",
    re.IGNORECASE,
)
_AREAS = re.compile(r"(?<![A-Za-z\d])(?P<unit>(?:m|ft|in|yd)\s*(?:²|³|\^\s*\{?[23]\}?))")

_TIGHT = re.compile(r"\s*([=+*/^<>≤≥×÷·])\s*")
_TIGHT_MINUS = re.compile(r"(?<=[\w)])\s+-\s+(?=\d|[A-Z]+\b|[a-z]\b|\()")
_RELATION = re.compile(r"[=^<>≤≥√\\]")
_CALCULATED = re.compile(r"[+*/×÷·]")
_MINUS = re.compile(r"(?:[A-Z]+|[a-z]|[\d.]+|[()])(?:-(?:[A-Z]+|[a-z]|[\d.]+|[()]))+")
_NAME = re.compile(r"(?<![A-Za-z\\'’])(?:[A-Z]{1,6}|[a-z])(?![A-Za-z'’])|\\[a-zA-Z]+|[α-ωΑ-Ω]")
_NO_NAMES = {"a", "A", "I", "Q"}

_PICTURE_WORDS = (
    *("image", "picture", "figure", "diagram", "photo", "photograph", "drawing", "illustration", "scene", "sketch"),
    *("chart", "graph", "plot", "table", "map", "screenshot"),
)
_PICTURE = re.compile(rf"\b(?:{'|'.join(_PICTURE_WORDS)})s?\b", re.IGNORECASE)


def plain(text: str) -> str:
    """Lower case, one kind of each sign, without punctuation: where these are equal, so are the questions."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.sub(r"[\s.,;:!?\"'“”‘’`*_]+", " ", folded).split())


def units(text: str) -> dict[Unit, str]:
    """Units after numbers, signs such as % and °, spelled-out units anywhere, each as it is written; cm is centimetres."""
    body = replace_number_words(text)
    return {unit: body[start:end].strip() for unit, (start, end) in _unit_spans(body)}


def numbers(text: str) -> Counter[Fraction]:
    """Every number but 1, in digits or words, powers of units left out. "Half" is 1/2 and "second" is 2."""
    values = (Fraction(number.replace(",", "")) for number in _NUMBER.findall(_digits(text)))
    return Counter(value for value in values if value != 1)


def ones(text: str) -> tuple[int, int]:
    """How often 1 occurs in digits, and how often in words, where it may be a mere pronoun."""
    written = len(_ONE.findall(_without_unit_powers(text)))
    return written, max(0, len(_ONE.findall(_digits(text))) - written)


def formulas(text: str) -> set[str]:
    """Equations and calculations, without spaces, dollars and multiplication signs."""
    formulas = set()
    text = re.sub(rf"{IMAGE_MARK}|\$|\\[()]", " ", text.replace("−", "-"))
    for chunk in _TIGHT_MINUS.sub("-", _TIGHT.sub(r"\1", text)).split():
        chunk = chunk.strip(".,;:?!\"'“”")
        calculated = _CALCULATED.search(chunk) and re.search(r"\d", chunk)
        if re.search(r"\w", chunk) and (_RELATION.search(chunk) or calculated or _MINUS.fullmatch(chunk)):
            formulas.add(squeezed_formula(chunk))
    return formulas


def squeezed_formula(text: str) -> str:
    """The text as `formulas` writes it."""
    return re.sub(r"\\(?:cdot|times)(?![a-zA-Z])|[\s$*·×.,;:?!\"'“”]|\\[()]", "", text.replace("−", "-"))


def names(text: str) -> set[str]:
    """Points, angles, variables: capitals in a run, single letters, Greek letters, LaTeX commands. Units left out."""
    letters = [c for c in text if c.isalpha()]
    if sum(c.isupper() for c in letters) > 0.6 * len(letters):
        return set()  # all in capitals: these are words
    return {name for name in _NAME.findall(_without_units(text)) if name not in _NO_NAMES}


def image_words(text: str) -> set[str]:
    """Words that speak of a picture, in the singular."""
    return {word.casefold().removesuffix("s") for word in _PICTURE.findall(text)}


def _unit_spans(text: str) -> list[tuple[Unit, tuple[int, int]]]:
    spans: list[tuple[Unit, tuple[int, int]]] = []
    for pattern in (_MEASURED, _SIGN, _SPELLED, _AREAS):
        for match in pattern.finditer(text):
            group = "unit" if match.groupdict().get("unit") else "money"
            unit = _unit(match.group(group))
            if unit is not None and not any(start <= match.start(group) < end for _, (start, end) in spans):
                spans.append((unit, match.span(group)))
    return spans


def _unit(written: str) -> Unit | None:
    """The unit that a text is; of "cm wide" or "m long" the first word."""
    if written.endswith("$"):
        return split_unit("$1")[1]
    number, unit = split_unit(canonical(f"1 {written}"))
    return unit if number == "1" else None


def _without_units(text: str) -> str:
    """The text with a space in place of each unit."""
    for _, (start, end) in sorted(_unit_spans(text), key=lambda unit: -unit[1][0]):
        text = text[:start] + " " + text[end:]
    return text


def _without_unit_powers(text: str) -> str:
    """cm^2 without its 2, which counts nothing."""
    for _, (start, end) in sorted(_unit_spans(text), key=lambda unit: -unit[1][0]):
        text = text[:start] + re.sub(r"[\d²³]", " ", text[start:end]) + text[end:]
    return text


def _digits(text: str) -> str:
    body = plain_unicode(_without_unit_powers(text))
    return replace_number_words(_WORDED.sub(lambda word: f" {_AS_DIGITS[word.group().casefold()]} ", body))
