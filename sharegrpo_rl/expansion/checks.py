"""Whether a rewording still asks the same question. Rules only: what they cannot tell is left to `--verify`."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from sharegrpo_rl.data.gold import are_closed
from sharegrpo_rl.data.messages import IMAGE_MARK
from sharegrpo_rl.data.rows import reworded
from sharegrpo_rl.data.types import SeedQuestion
from sharegrpo_rl.expansion import facts
from sharegrpo_rl.expansion.prompts import solve_prompt
from sharegrpo_rl.expansion.session import Request, Session
from sharegrpo_rl.grader import content_words, grade, letters_named, named_options, parse_boolean, question_key

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_SHORTEST, _LONGEST, _SLACK = 0.2, 3.0, 60  # of the original's characters; the slack lets short questions grow
_FEWEST_CHARACTERS = 6
_META = re.compile(
    r"^\W*(?:here (?:is|are) )?(?:the |an? |another )?(?:variant|version|rewording|rewritten|rephrased|paraphrase)"
    r"[^?.:]{0,30}:",
    re.IGNORECASE,
)
_LABEL = re.compile(r"(?<![\w])\(?([A-J])[).:](?=\s)")
_NEGATION = re.compile(r"\b(?:not|no|never|none|without|neither|nor|cannot|nothing|nobody)\b|n['’]t\b", re.IGNORECASE)
_NEUTRAL = re.compile(r"\b(?:whether )?or not\b|\bno(?=\.\s*\d)", re.IGNORECASE)  # "No. 5" numbers, it does not deny
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
# Each line holds kinds of words that exclude each other. A rewording may paraphrase them, but not exchange them.
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


@dataclass(frozen=True)
class Original:
    """The question that is reworded: its text without choices that are only in their own column."""

    text: str
    answer: str
    choices: tuple[str, ...] = ()
    has_images: bool = False


@dataclass(frozen=True)
class Fault:
    """Which check a rewording fails, and how."""

    check: str
    reason: str


def find_fault(text: str, original: Original, siblings: Iterable[str]) -> Fault | None:
    """The first check that the rewording fails; None where it passes all. `siblings` are the other wordings."""
    wording = facts.plain(text)
    if wording == facts.plain(original.text):
        return Fault("identical", "the same as the original")
    if wording in map(facts.plain, siblings):
        return Fault("identical", "the same as another wording")
    for name, check in _CHECKS.items():
        if reason := check(text, original):
            return Fault(name, reason)
    return None


async def disagreement(session: Session, question: SeedQuestion, text: str, max_tokens: int) -> str | None:
    """`--verify`: the model answers the original and the rewording, and the package's grader compares the answers.

    Why they disagree; None where both are right, or equal to each other. Unanswered may be raised.
    """
    first = await _solve(session, question, question.question, max_tokens)
    again = await _solve(session, question, reworded(question, text), max_tokens)
    # The grader may wait for a child process; the other requests go on meanwhile.
    return await asyncio.to_thread(_compare, first, again, question)


async def _solve(session: Session, question: SeedQuestion, text: str, max_tokens: int) -> str:
    reply = await session.ask(Request(solve_prompt(text), 0.0, max_tokens, 0, question.images))
    return reply.text


def _compare(first: str, again: str, question: SeedQuestion) -> str | None:
    truth = question_key(question)
    of_rewording = grade(again, truth)
    if of_rewording.score >= 0.5 and of_rewording.error is None:
        return None
    of_original = grade(first, truth)
    if of_rewording.extracted is None:
        return "the model gave no answer to it"
    if of_original.extracted is None:
        return "the model gave no answer to the original"
    wrong = of_original.score < 0.5 and of_original.error is None
    if wrong and grade(again, question_key(question, of_original.extracted)).score >= 0.5:
        return None  # the same mistake twice: the two ask the same
    return f"the model answers {of_rewording.extracted[:40]!r} to it and {of_original.extracted[:40]!r} to the original"


def has_options(text: str) -> bool:
    """Whether the text lists options by letter."""
    return bool(_option_parts(text))


def _text(text: str, original: Original) -> str | None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return "half a Unicode character"
    if _CONTROLS.search(text):
        return "a control character"
    return "speaks about itself instead of asking" if _META.search(text) else None


def _length(text: str, original: Original) -> str | None:
    length, usual = len(text), len(original.text)
    if length < _FEWEST_CHARACTERS or length < _SHORTEST * usual:
        return f"{length} characters, too short for an original of {usual}"
    if length > _LONGEST * usual + _SLACK:
        return f"{length} characters, too long for an original of {usual}"
    return None


def _images(text: str, original: Original) -> str | None:
    marks, expected = text.count(IMAGE_MARK), original.text.count(IMAGE_MARK)
    if marks != expected:
        return f"{marks} {IMAGE_MARK} mark(s) instead of {expected}"
    had, has = facts.image_words(original.text), facts.image_words(text)
    if had and not has:
        return f"no word for the {'/'.join(sorted(had))}"
    if has and not had and not original.has_images:
        return f"speaks of a {'/'.join(sorted(has))} where there is none"
    return None


def _numbers(text: str, original: Original) -> str | None:
    had, has = facts.numbers(original.text), facts.numbers(text)
    if had != has:
        return _difference({str(n): c for n, c in had.items()}, {str(n): c for n, c in has.items()})
    (digits, words), (new_digits, new_words) = facts.ones(original.text), facts.ones(text)
    if new_digits + new_words < digits:
        return "lost 1"
    return "added 1" if digits + words < new_digits else None


def _units(text: str, original: Original) -> str | None:
    had, has = facts.units(original.text), facts.units(text)
    lost, added = had.keys() - has.keys(), has.keys() - had.keys()
    return _difference({had[unit] for unit in lost}, {has[unit] for unit in added}) or None


def _symbols(text: str, original: Original) -> str | None:
    squeezed = facts.squeezed_formula(text)
    if lost := [formula for formula in facts.formulas(original.text) if formula not in squeezed]:
        return f"lost {', '.join(sorted(lost))}"
    return _difference(facts.names(original.text), facts.names(text)) or None


def _choices(text: str, original: Original) -> str | None:
    parts, new_parts = _option_parts(original.text), _option_parts(text)
    squeezed = facts.plain(text).replace(" ", "")
    if lost := [part for part in parts if facts.plain(part).replace(" ", "") not in squeezed]:
        return f"lost the option {lost[0][:40]!r}"
    if len(parts) != len(new_parts):
        return f"{len(new_parts)} options instead of {len(parts)}"
    if are_closed(original.choices):
        return None
    choices = [choice for choice in original.choices if choice and _stands_in(choice, original.text)]
    lost = [choice for choice in choices if not _stands_in(choice, text)]
    return f"lost the choice {lost[0][:40]!r}" if lost else None


def _meaning(text: str, original: Original) -> str | None:
    was_negated, is_negated = _is_negated(original.text), _is_negated(text)
    if was_negated != is_negated:
        return f"{'added' if is_negated else 'lost'} a negation"
    for read in (_directions, _colours, _shapes):
        if difference := _difference(read(original.text), read(text)):
            return difference
    for kinds in _OPPOSITES:
        had, has = ([kind.search(t) for kind in kinds] for t in (original.text, text))
        new = next((b for a, b in zip(had, has, strict=True) if b and not a), None)
        gone = next((a for a, b in zip(had, has, strict=True) if a and not b), None)
        if new and gone:
            return f"{new.group()} instead of {gone.group()}"
    return None


def _answer(text: str, original: Original) -> str | None:
    gold = original.answer
    if original.choices and (named := named_options(gold, original.choices)):
        gold = original.choices[min(named)]
    if parse_boolean(gold) is not None or letters_named(gold) is not None or not content_words(gold):
        return None
    return "gives the answer away" if _stands_in(gold, text) and not _stands_in(gold, original.text) else None


# Each returns why a rewording fails it, or None.
_CHECKS: dict[str, Callable[[str, Original], str | None]] = {
    "text": _text,
    "length": _length,
    "images": _images,
    "numbers": _numbers,
    "units": _units,
    "choices": _choices,
    "symbols": _symbols,
    "meaning": _meaning,
    "answer": _answer,
}


def _is_negated(text: str) -> bool:
    return _NEGATION.search(_NEUTRAL.sub(" ", text)) is not None


def _directions(text: str) -> Counter[str]:
    """Left, right and the two ways to turn."""
    words = (word.casefold().replace("-", "") for word in _SIDES.findall(_REMAINING.sub(" ", text)))
    return Counter("counterclockwise" if word == "anticlockwise" else word for word in words)


def _colours(text: str) -> set[str]:
    return {word.casefold().replace("grey", "gray") for word in _COLOURS.findall(text)}


def _shapes(text: str) -> set[str]:
    words = (word.casefold() for word in _SHAPES.findall(text))
    return {_SAME_SHAPE.get(word, word) for word in words}


def _option_parts(text: str) -> list[str]:
    """The options that a text lists by letter from A on, each with its letter; [] for fewer than two."""
    labels: list[re.Match[str]] = []
    for match in _LABEL.finditer(text):
        if ord(match.group(1)) - ord("A") == len(labels):
            labels.append(match)
    if len(labels) < 2:
        return []
    line_end = text.find("\n", labels[-1].start())
    ends = [*(match.start() for match in labels[1:]), len(text) if line_end < 0 else line_end]
    return [text[match.start() : end].strip() for match, end in zip(labels, ends, strict=True)]


def _stands_in(phrase: str, text: str) -> bool:
    """Do the phrase's words occur in the text one after the other?"""
    searched, words = content_words(phrase), content_words(text)
    last = len(words) - len(searched)
    return bool(searched) and any(words[i : i + len(searched)] == searched for i in range(last + 1))


def _difference(had: Iterable[str] | Mapping[str, int], has: Iterable[str] | Mapping[str, int]) -> str:
    """What was lost and what was added, with how often it counts; an empty text where nothing was."""
    before, after = Counter(had), Counter(has)
    changes = (("lost", before - after), ("added", after - before))
    return " and ".join(f"{verb} {', '.join(sorted(words))}" for verb, words in changes if words)
