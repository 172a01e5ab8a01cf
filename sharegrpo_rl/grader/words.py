"""Answers that are no mathematics: option letters, yes and no, values with a name, times and dates, plain words."""

from __future__ import annotations

import re
from math import gcd

from sharegrpo_rl.grader.text import canonical, content_words

HEDGED = re.compile(
    r"\b(?:not|n't|less|more|fewer|greater|least|most|between|cannot|isn't|never|or|either|maybe|perhaps|possibly"
    r"|(?<!add )(?<!adds )(?<!sum )(?<!sums )up\s+to|but|except|unless|if|wrong|incorrect|previously|vs|versus|rather|instead)\b",
    re.IGNORECASE,
)
"""Words that take an answer back or leave it open."""
REASON = re.compile(r"\s*(?:,\s*as\b|,?\s*\b(?:because|since)\b).*$", re.IGNORECASE | re.DOTALL)
"""A reason at the end of an answer."""

_KIND_NOUNS = {
    *("color", "colour", "shape", "object", "one", "answer", "side", "direction", "name", "word", "day", "month"),
}
_VERB = re.compile(r"\b(?:is|are|was|were)\b(?:\s+\w+\s+(?=on\b|in\b|at\b))?|:")


def same_words(answer: str, gold: str) -> bool:
    """The same words, plural or not, alone or at the end of `the ball is red`; `the color red` and `a red one` too."""
    wanted, words = _without_plurals(gold), _without_plurals(answer)
    predicate = _without_plurals(_VERB.split(canonical(answer))[-1])
    if not wanted:
        return False
    return wanted in (words, _without_kind(words)) or (
        wanted in (predicate, _without_kind(predicate)) and not HEDGED.search(answer)
    )


def _without_plurals(text: str) -> list[str]:
    return [word.rstrip("s") for word in content_words(text)]


def _without_kind(words: list[str]) -> list[str]:
    return [word for word in words if word not in _KIND_NOUNS]


def is_plain_words(gold: str) -> bool:
    """Whether the gold is a word or phrase, without digits or mathematics."""
    plain = canonical(gold)
    return not re.search(r"[\\\d^_=<>+*/|()\[\]]", plain) and bool(re.search(r"[^\W\d_]{2}", plain))


# ---- Option letters.

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_NOUN = r"(?:option|choice|letter|answer|picture|figure|image|diagram|graph|选项|答案|图)"
_LEAD = (
    r"(?:[解答]\s*[:：]?\s*)?(?:(?:so|thus|therefore|hence),?\s*)?(?:(?:the|my|our)\s+)?(?:(?:final|correct|right|best|most\s+likely)\s+)*"
    rf"{_NOUN}?\s*(?:letter\s+)?(?:is|would\s+be|should\s+be|:|为|是|故?选|故?应?选择?)?\s*{_NOUN}?\s*:?\s*"
)
_ALONE = re.compile(
    rf"^{_LEAD}[\(\[（{{<\"']*\s*([A-Za-z])\s*[\)\]）}}>\"']*\s*(?:选项|项|option|choice)?\s*[.:,;。]?$", re.IGNORECASE
)
_WITH_REST = (
    re.compile(
        rf"^{_LEAD}[\(\[（{{]+\s*([A-Za-z])\s*[\)\]）}}]+\s*[-.:,=]?\s*(\S.*)$", re.IGNORECASE | re.DOTALL
    ),  # (C) 36
    re.compile(rf"^{_LEAD}([A-Z])\s*(?:[.:)、]\s*|\s[-–—]\s|\s*(?=\())(\S.*)$", re.DOTALL),  # C. 36, C (36)
    re.compile(
        rf"^{_LEAD}(?:option|choice)\s+(?:[\(\[]([A-Z])[\)\]]|([A-Z])\s*(?:[.:,]|$))\s*(.*)$", re.DOTALL | re.IGNORECASE
    ),  # option C, 36
)
_BETWEEN_LETTERS = re.compile(r"(?:[\s,;/&]|(?<=\))(?=\()|\b(?:or|and|OR|AND)\b)+")
_OR_ELSE = re.compile(r"\W*(?:or|and|maybe|perhaps|possibly|not)\b", re.IGNORECASE)


def letters_named(text: str) -> frozenset[str] | None:
    """The bare letters that a text consists of: {A} for `(A).`, {A, C} for `A and C`; None where it holds more."""
    plain = canonical(text)
    if match := _ALONE.match(plain):
        return frozenset(match.group(1).upper())
    parts = [part.strip("()[].\"'") for part in _BETWEEN_LETTERS.split(plain) if part]
    if parts and len(parts) <= len(LETTERS) and all(len(part) == 1 and part in LETTERS for part in parts):
        return frozenset(parts)
    return None


def joined_letters(text: str, *, any_order: bool = False) -> frozenset[str] | None:
    """The letters of `ACD`, several choices written together (in their order); None for any other text."""
    plain = canonical(text).strip(" .()")
    letters = sorted(plain) if any_order else list(plain)
    several = len(plain) > 1 and sorted(set(plain)) == letters and set(plain) <= set(LETTERS[:8])
    return frozenset(plain) if several else None


def letter_and_rest(plain: str) -> tuple[str, str] | None:
    """(letter, the text next to it) of `(C) 36`, `C. 36`, `C (36)`, `option C, 36`; the text is canonical."""
    for pattern in _WITH_REST:
        if match := pattern.match(plain):
            *letters, rest = match.groups()
            return next(letter for letter in letters if letter).upper(), rest
    return None


def letters_before_text(text: str) -> frozenset[str] | None:
    """The letter of `(A) 36` or `A. 36`, where the options themselves are unknown."""
    pair = letter_and_rest(canonical(text))
    return frozenset(pair[0]) if pair is not None and not _OR_ELSE.match(pair[1]) else None


# ---- Yes and no, true and false.

_BOOLEANS = dict.fromkeys(("yes", "true", "correct", "是"), True) | dict.fromkeys(
    ("no", "false", "incorrect", "否"), False
)
_FIRST_BOOLEAN = re.compile(
    r"^(yes|no|true|false)\b(?!\s+(?:one|more|other|matter|change|effect)|\s*,?\s*\(?(?:or|and|maybe|vs)\b|\s*[/&|~=])",
    re.IGNORECASE,
)
_ANY_BOOLEAN = re.compile(r"\b(yes|no|true|false)\b", re.IGNORECASE)
_BOOLEAN_ANSWER = re.compile(r"\b(?:answer|it|this|statement)\s+is:?\s+[\"'(*]*(yes|no|true|false)\b")


def parse_boolean(text: str, *, verbose: bool = False) -> bool | None:
    """True for yes/true, False for no/false, else None; `verbose` also reads `No, it is not` and `the answer is no`."""
    plain = canonical(text).strip(" .!\"'()*").casefold()
    if plain in _BOOLEANS:
        return _BOOLEANS[plain]
    if not verbose or len({_BOOLEANS[word.casefold()] for word in _ANY_BOOLEAN.findall(plain)}) > 1:
        return None
    stated = _FIRST_BOOLEAN.match(plain) or _BOOLEAN_ANSWER.search(plain)
    return _BOOLEANS[stated.group(1).casefold()] if stated else None


# ---- Values that have several names: the empty set, all real numbers, a limit that does not exist.

_NAMES = {
    "the empty set": (
        *("\\emptyset", "\\varnothing", "∅", "{}", "\\{\\}", "empty set", "null set"),
        *("no solution", "no solutions", "no real solution", "no real solutions"),
    ),
    "the real numbers": (
        *("\\mathbb{R}", "\\mathbf{R}", "ℝ", "all real numbers", "all reals", "real numbers", "(-\\infty,\\infty)"),
    ),
    "no value": ("dne", "does not exist", "not exist"),
}
_BY_NAME = {name.replace(" ", "").casefold(): value for value, names in _NAMES.items() for name in names}


def named_value(text: str) -> str | None:
    """Which of these values the whole text names; None for any other text."""
    for spelling in (text.strip("$ ."), canonical(text).removeprefix("the ").removeprefix("The ")):
        if (value := _BY_NAME.get("".join(spelling.split()).casefold())) is not None:
            return value
    return None


# ---- Times of day and dates.

Moment = tuple[str, tuple[int, ...]]
"""("time", (hour, minute)) or ("date", (year or 0, month, day))."""

_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?"
    r"|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)(?![a-z])\.?"
)
_TH = r"(?:st|nd|rd|th)?"
_DATES = [
    rf"(?P<month>{_MONTH})\s+(?P<day>\d{{1,2}}){_TH}(?:\s*,?\s*(?P<year>\d{{4}}))?",
    rf"(?P<day>\d{{1,2}}){_TH}\s+(?:of\s+)?(?P<month>{_MONTH})(?:\s*,?\s*(?P<year>\d{{4}}))?",
]
_ONLY_DATE = [re.compile(rf"^(?:on\s+)?(?:the\s+)?{date}$", re.IGNORECASE) for date in _DATES]
_ISO_DATE = re.compile(r"^(\d{4})-(\d{1,2})-(\d{1,2})$")
_CLOCK = re.compile(
    r"^(?:at\s+)?(?P<hour>\d{1,2})(?::(?P<minute>[0-5]\d))?\s*(?P<half>[ap]\.?\s?m\b\.?)?(?:\s*(?:o'clock|hours|hrs))?$",
    re.IGNORECASE,
)
MOMENT = re.compile(
    r"(?<![\dA-Za-z])(?:\d{1,2}:[0-5]\d(?:\s*[ap]\.?\s?m\b\.?)?|\d{1,2}\s*[ap]\.?m\b\.?|\d{4}-\d\d?-\d\d?"
    rf"|{'|'.join(re.sub(r'[?]P<[a-z]+>', '?:', date) for date in _DATES)})",
    re.IGNORECASE,
)
DAY_OF_MONTH = re.compile(rf"(?<![A-Za-z]){_MONTH}\s+$", re.IGNORECASE)  # before a number that counts nothing
_AM_OR_PM = re.compile(r"[ap]\.?\s?m\b", re.IGNORECASE)
_ASKS_FOR_TIME = re.compile(r"\b(?:what\s+time|o'clock|clock|when)\b", re.IGNORECASE)


def parse_moment(text: str) -> Moment | None:
    """A date or a time of day; None for anything else, a bare number included."""
    plain = canonical(text)
    for pattern in _ONLY_DATE:
        if date := pattern.match(plain):
            month = _MONTHS.index(date["month"][:3].lower()) + 1
            return "date", (int(date["year"] or 0), month, int(date["day"]))
    if iso := _ISO_DATE.match(plain):
        return "date", tuple(int(part) for part in iso.groups())
    clock = _CLOCK.match(plain)
    if clock is None or not (clock["minute"] or clock["half"]):
        return None
    hour, half = int(clock["hour"]), (clock["half"] or "").lower()
    if half:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if half.startswith("p") else 0)
    return ("time", (hour, int(clock["minute"] or 0))) if hour < 25 else None


def gold_moment(gold: str, question: str) -> Moment | None:
    """The moment that a ground truth is; `3:10` is a ratio unless it says a.m. or p.m. or the question asks for a time."""
    moment = parse_moment(gold)
    if moment is None or moment[0] == "date" or _AM_OR_PM.search(gold):
        return moment
    hour, minute = moment[1]
    return moment if _ASKS_FOR_TIME.search(question) or gcd(hour, minute) > 1 or gold.strip().startswith("0") else None


def same_moment(answer: str, gold: str, gold_moment: Moment) -> bool:
    """Equal; a date without a year fits any year, and a time without a.m. or p.m. either half of the day."""
    moment = parse_moment(answer)
    if moment is None or moment[0] != gold_moment[0]:
        return False
    if moment == gold_moment:
        return True
    if moment[0] == "date":
        return 0 in (moment[1][0], gold_moment[1][0]) and moment[1][1:] == gold_moment[1][1:]
    answer_has_half, gold_has_half = (_AM_OR_PM.search(text) is not None for text in (answer, gold))
    if answer_has_half == gold_has_half:
        return False
    (hour, minute), (gold_hour, gold_minute) = moment[1], gold_moment[1]
    hour_without_half = gold_hour if answer_has_half else hour
    return hour_without_half <= 12 and (hour % 12, minute) == (gold_hour % 12, gold_minute)
