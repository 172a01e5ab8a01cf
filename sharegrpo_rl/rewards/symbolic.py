"""Mathematics that only a computer algebra system can compare: math-verify, behind guards on what is sent to it."""

from __future__ import annotations

import math
import re

from sharegrpo_rl.rewards.canonical import canonical
from sharegrpo_rl.rewards.key import AnswerKey, Match
from sharegrpo_rl.rewards.pool import shared_pool

_MAX_CHARACTERS = 600
_MAX_BRACE_DEPTH = 16
_MATH = re.compile(r"[\\^_=<>+*/|]|\d")
_HUGE = re.compile(
    r"\^\s*\{?[^{}\s^]{1,12}\s*\^\s*\{?[^{}\s^]{1,12}\s*\^|\^\s*\{?\s*\(?\d{5,}|\d{60,}|!\s*!|\d{4,}\s*\)?\s*!|\\binom\s*\{\d{4,}"
    r"|[)\]]\s*\}?\s*\^\s*[{(]?\s*(?:[4-9]\d|\d{3,})|\^\s*\{?\d+\}?\s*!"
)
_MAX_RATIOS = 8
_POWER_IN_EXPONENT = re.compile(r"\^\s*[{(]?\s*\(?(\d{1,12})\s*\^\s*[{(]?\s*(\d{1,12})")
_LARGEST_EXPONENT = 10_000


def compare_symbolic(answer: str, key: AnswerKey, gold: str) -> Match:
    """math-verify in a child process; raises GraderError where it gives no verdict."""
    plain = canonical(answer)
    if not _MATH.search(plain) and len(plain) > 1:
        return Match(False, "words where mathematics is expected")
    if len(answer) > _MAX_CHARACTERS or plain.count(":") > _MAX_RATIOS or is_huge(plain):
        return Match(False, "too large to be an answer")
    decimals = 6 if key.precision is None else max(0, min(12, int(key.precision)))
    equal = shared_pool().equal(_mathematics(gold), _mathematics(answer), decimals)
    return Match(equal, "math-verify: equal" if equal else "math-verify: not equal")


def is_huge(plain: str) -> bool:
    """Whether a canonical text holds a value that no answer has and no computer should work out, such as `9^{9^9}`."""
    if _HUGE.search(plain):
        return True
    powers = ((int(base), int(power)) for base, power in _POWER_IN_EXPONENT.findall(plain))
    return any(base > 1 and power * math.log(base) > math.log(_LARGEST_EXPONENT) for base, power in powers)


def nested_too_deeply(text: str) -> bool:
    """Whether brackets stand in one another more often than in any answer."""
    depth = deepest = 0
    for character in text:
        depth += (character in "{([") - (character in "})]")
        deepest = max(deepest, depth)
    return deepest > _MAX_BRACE_DEPTH


def _mathematics(text: str) -> str:
    """The span as math-verify takes it: canonical signs, one pair of dollars."""
    spans = re.findall(r"\$([^$]+)\$", text) if re.search(r"[A-Za-z]{3}.*\$.+\$", text) else []
    body = canonical(spans[0] if len(spans) == 1 else text).replace("°", "^\\circ ").replace("%", "\\%")
    body = body.replace("<=", "\\le ").replace(">=", "\\ge ").replace("!=", "\\neq ")
    return f"${body}$"
