"""Yes and no, true and false."""

from __future__ import annotations

import re

from sharegrpo_rl.rewards.canonical import canonical

_WORDS = {
    "yes": True,
    "true": True,
    "correct": True,
    "是": True,
    "no": False,
    "false": False,
    "incorrect": False,
    "否": False,
}
_FIRST = re.compile(
    r"^(yes|no|true|false)\b(?!\s+(?:one|more|other|matter|change|effect)|\s*,?\s*\(?(?:or|and|maybe|vs)\b|\s*[/&|~=])",
    re.IGNORECASE,
)
_ANY = re.compile(r"\b(yes|no|true|false)\b", re.IGNORECASE)


def parse_boolean(text: str, *, verbose: bool = False) -> bool | None:
    """True for yes/true, False for no/false, else None; `verbose` also reads `No, it is not` and `the answer is no`."""
    plain = canonical(text).strip(" .!\"'()*").casefold()
    if plain in _WORDS:
        return _WORDS[plain]
    if not verbose:
        return None
    said = {word.casefold() for word in _ANY.findall(plain)}
    if len({_WORDS[word] for word in said}) > 1:
        return None
    if first := _FIRST.match(plain):
        return _WORDS[first.group(1).casefold()]
    if answer := re.search(r"\b(?:answer|it|this|statement)\s+is:?\s+[\"'(*]*(yes|no|true|false)\b", plain):
        return _WORDS[answer.group(1)]
    return None
