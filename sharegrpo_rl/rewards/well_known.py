"""Answers that have several names: the empty set, all real numbers, a limit that does not exist."""

from __future__ import annotations

from sharegrpo_rl.rewards.canonical import canonical

_NAMES = {
    "the empty set": {
        "\\emptyset",
        "\\varnothing",
        "∅",
        "{}",
        "\\{\\}",
        "empty set",
        "null set",
        "no solution",
        "no solutions",
    }
    | {"no real solution", "no real solutions"},
    "the real numbers": {
        "\\mathbb{R}",
        "\\mathbf{R}",
        "ℝ",
        "all real numbers",
        "all reals",
        "real numbers",
        "(-\\infty,\\infty)",
    },
    "no value": {"dne", "does not exist", "not exist"},
}
_BY_NAME = {name.replace(" ", "").casefold(): answer for answer, names in _NAMES.items() for name in names}


def well_known(text: str) -> str | None:
    """Which of these the whole text is; None for any other."""
    for spelling in (text.strip("$ ."), canonical(text).removeprefix("the ").removeprefix("The ")):
        if (answer := _BY_NAME.get("".join(spelling.split()).casefold())) is not None:
            return answer
    return None
