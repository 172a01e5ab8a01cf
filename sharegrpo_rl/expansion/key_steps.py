"""Key steps of a reference solution: short phrases, numbers and equations that occur in it, each with equivalent forms."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

from sharegrpo_rl.expansion import facts
from sharegrpo_rl.grader import grade_answer, make_key, normalized, parse_quantity, same_quantity

MAX_STEPS = 12
MAX_WORDS = 3
_MAX_ALTERNATIVES = 8
_MATHEMATICS = re.compile(r"[=<>≤≥+*/^×÷√\\]|\d")
_RELATION = re.compile(r"[=<>≤≥]")


@dataclass(frozen=True)
class Dropped:
    """A step or an alternative that was not taken, and why."""

    text: str
    reason: str


def sound_steps(
    groups: list[list[str]], solution: str, answer: str
) -> tuple[tuple[tuple[str, ...], ...], tuple[Dropped, ...]]:
    """The steps that the solution confirms, each with its sound alternatives, and what was dropped."""
    steps: list[tuple[str, ...]] = []
    dropped: list[Dropped] = []
    seen: set[str] = set()
    for group in groups:
        texts = list(dict.fromkeys(text.strip() for text in group if text.strip()))
        main = next((text for text in texts if stands_in(text, solution)), None)
        shown = texts[0] if texts else str(group)
        if main is None:
            dropped.append(Dropped(shown, "does not occur in the solution"))
        elif fault := _main_fault(main, answer, seen):
            dropped.append(Dropped(main, fault))
        elif len(steps) == MAX_STEPS:
            dropped.append(Dropped(main, f"more than {MAX_STEPS} steps"))
        else:
            kept = [main]
            for text in (text for text in texts if text != main):
                if fault := _alternative_fault(text, main, solution, kept):
                    dropped.append(Dropped(text, fault))
                else:
                    kept.append(text)
            seen.update(map(normalized, kept))
            steps.append(tuple(kept))
    return tuple(steps), tuple(dropped)


def stands_in(text: str, solution: str) -> bool:
    """Does the solution contain the text, spaces and case aside, not inside a longer number or word?"""
    # Words and numbers stay together, every other sign stands alone.
    pieces = re.findall(r"\d+(?:[.,]\d+)*|[^\W\d_]+|[^\w\s$*]|_", _folded(text))
    spaced = r"[\s$*]*".join(map(re.escape, pieces))
    pattern = rf"(?<![^\W_])(?<!\d\.){spaced}(?![^\W_])(?!\.\d)"
    return bool(pieces) and re.search(pattern, _folded(solution)) is not None


def _main_fault(main: str, answer: str, seen: set[str]) -> str | None:
    if normalized(main) in seen:
        return "occurs in an earlier step"
    if not normalized(main):
        return "holds nothing that could be matched"
    if fault := _too_long(main):
        return fault
    if grade_answer(main, make_key(answer)).score >= 0.5:
        return "the final answer"
    return None


def _alternative_fault(text: str, main: str, solution: str, kept: list[str]) -> str | None:
    if normalized(text) in map(normalized, kept):
        return "repeats another form"
    if len(kept) > _MAX_ALTERNATIVES:
        return f"more than {_MAX_ALTERNATIVES} other forms"
    if fault := _too_long(text):
        return fault
    expected, value = parse_quantity(main), parse_quantity(text)
    if expected is not None and value is not None:
        return None if same_quantity(value, expected) else f"is another number than {main}"
    if expected is not None:
        return None if _all_numbers(text) == _all_numbers(main) else f"is no number like {main}"
    if value is not None:
        return f"is a number, unlike {main}"
    if _RELATION.search(main) or _RELATION.search(text):
        return None if _parts(text) == _parts(main) else f"holds other numbers or names than {main}"
    new = facts.numbers(text) - facts.numbers(main) - facts.numbers(solution)
    return f"brings in {', '.join(map(str, new))}" if new else None


def _too_long(text: str) -> str | None:
    words = len(text.split())
    if _MATHEMATICS.search(text) is None and words > MAX_WORDS:
        return f"{words} words, at most {MAX_WORDS}"
    prose = [word for word in re.findall(r"[^\W\d_]{3,}", text) if word.islower()]
    return f"{len(prose)} words besides mathematics, at most {MAX_WORDS}" if len(prose) > MAX_WORDS else None


def _all_numbers(text: str) -> tuple[Counter[Fraction], int]:
    """All numbers, and how often 1."""
    return facts.numbers(text), sum(facts.ones(text))


def _parts(text: str) -> Counter[str]:
    """Numbers and names of an equation, whatever their order."""
    return Counter(re.findall(r"\d+(?:\.\d+)?|[^\W\d_]+", _folded(text)))


def _folded(text: str) -> str:
    return text.casefold().replace("−", "-").replace("·", "*").replace("×", "*")
