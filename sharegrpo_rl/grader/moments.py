"""Times of day and dates in their usual spellings."""

from __future__ import annotations

import re
from math import gcd

from sharegrpo_rl.grader.text import canonical

Moment = tuple[str, tuple[int, ...]]
"""("time", (hour, minute)) or ("date", (year or 0, month, day))."""

_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?"
    r"|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"
)
_TH = r"(?:st|nd|rd|th)?"
_DATES = [
    rf"(?P<month>{_MONTH})\s+(?P<day>\d{{1,2}}){_TH}(?:\s*,?\s*(?P<year>\d{{4}}))?",
    rf"(?P<day>\d{{1,2}}){_TH}\s+(?:of\s+)?(?P<month>{_MONTH})(?:\s*,?\s*(?P<year>\d{{4}}))?",
]
_WHOLE_DATES = [re.compile(rf"^(?:on\s+)?(?:the\s+)?{date}$", re.IGNORECASE) for date in _DATES]
_ANY_DATE = "|".join(re.sub(r"\?P<\w+>", "?:", date) for date in _DATES)
_ISO = re.compile(r"^(\d{4})-(\d{1,2})-(\d{1,2})$")
_CLOCK = re.compile(
    r"^(?:at\s+)?(?P<hour>\d{1,2})(?::(?P<minute>[0-5]\d))?\s*(?P<half>[ap]\.?\s?m\b\.?)?(?:\s*(?:o'clock|hours|hrs))?$",
    re.IGNORECASE,
)
MOMENT = re.compile(
    rf"(?<![\dA-Za-z])(?:\d{{1,2}}:[0-5]\d(?:\s*[ap]\.?\s?m\b\.?)?|\d{{1,2}}\s*[ap]\.?m\b\.?|\d{{4}}-\d\d?-\d\d?"
    rf"|{_ANY_DATE})",
    re.IGNORECASE,
)
DAY_OF_MONTH = re.compile(rf"(?<![A-Za-z]){_MONTH}\s+$", re.IGNORECASE)  # before a number that counts nothing
_HALF = re.compile(r"[ap]\.?\s?m\b", re.IGNORECASE)
_ASKED = re.compile(r"\b(?:what\s+time|o'clock|clock|when)\b", re.IGNORECASE)


def parse_moment(text: str) -> Moment | None:
    """A date or a time of day; None for anything else, a bare number included."""
    plain = canonical(text)
    for pattern in _WHOLE_DATES:
        if match := pattern.match(plain):
            month = _MONTHS.index(match.group("month")[:3].lower()) + 1
            return "date", (int(match.group("year") or 0), month, int(match.group("day")))
    if iso := _ISO.match(plain):
        return "date", tuple(int(part) for part in iso.groups())
    clock = _CLOCK.match(plain)
    if clock is None or not (clock.group("minute") or clock.group("half")):
        return None
    hour, half = int(clock.group("hour")), (clock.group("half") or "").lower()
    if half and not 1 <= hour <= 12:
        return None
    hour = hour % 12 + (12 if half.startswith("p") else 0) if half else hour
    return ("time", (hour, int(clock.group("minute") or 0))) if hour < 25 else None


def gold_moment(gold: str, question: str) -> Moment | None:
    """The moment that a ground truth is; `3:10` is a ratio unless it names a half of the day or the question a clock."""
    moment = parse_moment(gold)
    if moment is None or moment[0] == "date" or _HALF.search(gold):
        return moment
    hour, minute = moment[1]
    return moment if _ASKED.search(question) or gcd(hour, minute) > 1 or gold.strip().startswith("0") else None


def same_moment(answer: str, gold: str, moment: Moment) -> bool:
    """Equal; a time without half of the day fits one with it by its digits only."""
    said = parse_moment(answer)
    if said is None or said[0] != moment[0]:
        return False
    if said == moment:
        return True
    if moment[0] == "date":
        return 0 in (said[1][0], moment[1][0]) and said[1][1:] == moment[1][1:]
    marked, unmarked = sorted((answer, gold), key=lambda text: _HALF.search(text) is None)
    if _HALF.search(marked) is None or _HALF.search(unmarked) is not None:
        return False
    hour = (said if unmarked == answer else moment)[1][0]
    return hour <= 12 and (said[1][0] % 12, said[1][1]) == (moment[1][0] % 12, moment[1][1])
