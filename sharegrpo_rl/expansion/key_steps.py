"""Key steps of a reference solution: short phrases, numbers and equations that stand in it, each with equivalent forms."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

from sharegrpo_rl.expansion import facts
from sharegrpo_rl.grader import grade_answer, make_key, normalized, parse_quantity, same_quantity

MOST_STEPS = 12
MOST_WORDS = 3
_MOST_ALTERNATIVES = 8
_MATHEMATICS = re.compile(r"[=<>≤≥+*/^×÷√\\]|\d")


@dataclass(frozen=True)
class Dropped:
    """A step or an alternative that was not taken, and why."""

    text: str
    reason: str


def sound_steps(
    groups: list[list[str]], solution: str, answer: str
) -> tuple[tuple[tuple[str, ...], ...], tuple[Dropped, ...]]:
    """The steps that the solution bears out, each with its sound alternatives, and what was dropped."""
    steps: list[tuple[str, ...]] = []
    dropped: list[Dropped] = []
    seen: set[str] = set()
    for group in groups:
        texts = list(dict.fromkeys(text.strip() for text in group if text.strip()))
        main = next((text for text in texts if stands_in(text, solution)), None)
        shown = texts[0] if texts else str(group)
        if main is None:
            dropped.append(Dropped(shown, "does not stand in the solution"))
        elif fault := _main_fault(main, answer, seen):
            dropped.append(Dropped(main, fault))
        elif len(steps) == MOST_STEPS:
            dropped.append(Dropped(main, f"more than {MOST_STEPS} steps"))
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
    """Does the solution hold the text, spaces and case aside, not inside a longer number or word?"""
    wanted = [re.escape(piece) for piece in _pieces(text)]
    if not wanted:
        return False
    spaced = r"[\s$*]*".join(wanted)
    return re.search(rf"(?<![^\W_])(?<!\d\.){spaced}(?![^\W_])(?!\.\d)", _folded(solution)) is not None


def _pieces(text: str) -> list[str]:
    """Words and numbers whole, every other sign by itself."""
    return re.findall(r"\d+(?:[.,]\d+)*|[^\W\d_]+|[^\w\s$*]|_", _folded(text))


def _folded(text: str) -> str:
    return text.casefold().replace("−", "-").replace("·", "*").replace("×", "*")


def _main_fault(main: str, answer: str, seen: set[str]) -> str | None:
    if normalized(main) in seen:
        return "stands in an earlier step"
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
    if len(kept) > _MOST_ALTERNATIVES:
        return f"more than {_MOST_ALTERNATIVES} other forms"
    if fault := _too_long(text):
        return fault
    right, said = parse_quantity(main), parse_quantity(text)
    if right is not None and said is not None:
        return None if same_quantity(said, right) else f"is another number than {main}"
    if right is not None or said is not None:
        same = right is not None and _numbers(text) == _numbers(main)
        return None if same else f"{'is no number like' if right else 'is a number, unlike'} {main}"
    if _is_relation(main) or _is_relation(text):
        return None if _parts(text) == _parts(main) else f"holds other numbers or names than {main}"
    strange = facts.numbers(text) - facts.numbers(main) - facts.numbers(solution)
    return f"brings in {', '.join(map(str, strange))}" if strange else None


def _numbers(text: str) -> tuple[Counter[Fraction], int]:
    """All numbers, and how often 1."""
    return facts.numbers(text), sum(facts.ones(text))


def _too_long(text: str) -> str | None:
    words = len(text.split())
    if _MATHEMATICS.search(text) is None and words > MOST_WORDS:
        return f"{words} words, at most {MOST_WORDS}"
    prose = [word for word in re.findall(r"[^\W\d_]{3,}", text) if word.islower()]
    return f"{len(prose)} words beside mathematics, at most {MOST_WORDS}" if len(prose) > MOST_WORDS else None


def _is_relation(text: str) -> bool:
    return re.search(r"[=<>≤≥]", text) is not None and parse_quantity(text) is None


def _parts(text: str) -> Counter[str]:
    """Numbers and names of an equation, whatever their order."""
    return Counter(re.findall(r"\d+(?:\.\d+)?|[^\W\d_]+", _folded(text)))
