"""Answers that are no mathematics: option letters, yes and no, values with a name, times and dates, words."""

from __future__ import annotations

import re
from math import gcd
from typing import NamedTuple

from sharegrpo_rl.grader.expressions import replace_number_words
from sharegrpo_rl.grader.text import LABEL_A, canonical, lower_case

HEDGED = re.compile(
    r"\b(?:not|n't|less|more|fewer|greater|least|most|between|cannot|isn't|never|or|either|maybe|perhaps|possibly"
    r"|(?<!add )(?<!adds )(?<!sum )(?<!sums )up\s+to|but|except|unless|if|wrong|incorrect|previously|vs|versus|rather|instead)\b",
    re.IGNORECASE,
)
"""Words that take an answer back or leave it open."""
REASON = re.compile(r"\s*(?:,\s*as\b|,?\s*\b(?:because|since)\b).*$", re.IGNORECASE | re.DOTALL)
"""A reason at the end of an answer."""
DECLINED = re.compile(
    r"(?:\b(?:can(?:no|')t|cannot|can not|could not|couldn't|unable to|not able to|impossible to|(?:not|isn't) possible to"
    r"|hard to|difficult to|do not|don't|did not|didn't|will not|won't)"
    r"\s+(?:\w+\s+){0,2}?(?:determined?|tell|say|answer(?:ed)?|know|decided?|select|choose|pick|identify)"
    r"|\bI\s+(?:can(?:no|')t|cannot|am\s+unable\s+to|don't|do\s+not)\s+(?:\w+\s+){0,2}?(?:see|view|help|assist|have)"
    r"|\bno\s+(?:idea|clue|(?:way|means)\s+(?:to|of)|(?:image|picture|figure|diagram|table|graph|context|information|data)"
    r"\s+(?:is|was|were|given|provided))"
    r"|\bnot\s+(?:sure|certain|known)|\bnot\s+enough\s+(?:information|data|context)|\b(?:unknown|unclear|uncertain|unsure)"
    r"|\b(?:sorry|apologi[sz]e|insufficient)"
    r"|\bwithout\s+(?:\w+\s+){0,2}(?:image|picture|figure|diagram|table|graph|context|information|data))\b"
    r"|无法|不确定|不知道|わかりません|모르",
    re.IGNORECASE,
)
"""An answer that says that there is none."""

# ---- Words and phrases.

_KIND_NOUNS = {"color", "shape", "object", "one", "answer", "side", "direction", "name", "word", "day", "month"}
_VERB = re.compile(r"\b(?:is|are|was|were|ist|est|es|это)\b(?:\s+\w+\s+(?=on\b|in\b|at\b))?|(?<!\w)é(?!\w)|:")
_NOT_SO = re.compile(
    r"\b(?:no|not|neither|nor|never|none|nothing|nobody|nowhere|hardly|barely|doubt|den(?:y|ies)|false|wrong|untrue"
    r"|incorrect|unlikely|whether|if|unless|until|without|except|seems?|might|may|could|that|which|who|what|how|why|wish|hope|opposite|kein\w*|nicht|pas"
    r"|ne|não|нет|не)\b|不|没|非",
    re.IGNORECASE,
)
_CONTRACTIONS = (
    (re.compile(r"\bcannot\b", re.IGNORECASE), "can not"),
    (re.compile(r"\b(it|that|there|he|she|here|what|who)'s\b", re.IGNORECASE), r"\1 is"),
    (re.compile(r"\b(they|we|you)'re\b", re.IGNORECASE), r"\1 are"),
    (re.compile(r"(?<=[a-z])n't\b", re.IGNORECASE), " not"),
    (re.compile(r"\b([A-Za-z])\.([A-Za-z])\b(?:\.([A-Za-z])\b)?(?:\.([A-Za-z])\b)?\.?"), r"\1\2\3\4"),  # U.S.A.
    (re.compile(r"(?<=[^\W\d_])-(?=[^\W\d_])"), " "),
    (re.compile(r"(?<=[\d)\]])!(?!=)"), " factorial"),
    (re.compile(r"!="), "≠"),
    (re.compile(r"^(?:[它这那]\s*)?[是为](?=[^\W\d_]{2})|(?<=[\u4e00-\u9fff])的$"), ""),
)
_TOKEN = re.compile(r"[^\W_]+(?:'[a-z]+)?|[^\w\s]")
_SILENT = set("\"'`.,;:!?()[]{}$*")  # punctuation that says nothing in a phrase
_DROPPED = {"a", "an", "the", "is", "are", "was", "were", "be", "it", "its"}
_PREPOSITIONS = {"in", "on", "at", "to"}
_SPELLINGS = (
    "more=greater larger=greater bigger=greater fewer=less smaller=less colour=color grey=gray centre=center "
    "metre=meter litre=liter favour=favor labour=labor neighbour=neighbor behaviour=behavior harbour=harbor "
    "aluminium=aluminum sulphur=sulfur tyre=tire theatre=theater fibre=fiber men=man women=woman children=child "
    "feet=foot teeth=tooth mice=mouse geese=goose people=person leaves=leaf knives=knife wolves=wolf"
)
_SAME_WORD = dict(pair.split("=") for pair in _SPELLINGS.split())


def same_words(answer: str, gold: str) -> bool:
    """The same words, plural or not, alone or at the end of `the ball is red`; `the color red` and `a red one` too."""
    wanted, words = phrase(gold), phrase(answer)
    if same_tokens(words, wanted) or same_tokens(_without_kind(words), wanted):
        return True
    plain = _contracted(canonical(answer))
    verbs = [match.end() for match in _VERB.finditer(plain)]
    if not verbs or HEDGED.search(answer) or _NOT_SO.search(plain[: verbs[-1]]):
        return False
    predicate = phrase(plain[verbs[-1] :])
    return same_tokens(predicate, wanted) or same_tokens(_without_kind(predicate), wanted)


def same_phrase(first: str, second: str) -> bool:
    """The same words and signs in the same order: articles say nothing, a preposition that only one has leads to it."""
    return same_tokens(phrase(first), phrase(second))


def phrase(text: str) -> tuple[str, ...]:
    """Lower-case words, numbers and signs in order, without articles, small verbs and punctuation."""
    plain = _contracted(canonical(text))
    labels = {match.start() for match in LABEL_A.finditer(plain)}
    tokens = [(match.start(), _folded(match.group())) for match in _TOKEN.finditer(plain)]
    kept = [t for start, t in tokens if (t not in _DROPPED or start in labels) and t not in _SILENT]
    return tuple(_SAME_WORD.get(token, token) for token in kept)


def _folded(token: str) -> str:
    """In lower case, unless it may be a symbol, where case tells `Co` from `CO`."""
    return lower_case(token) if len(token) > 1 and token.isalpha() else token.casefold()


def _contracted(plain: str) -> str:
    """`it's` as `it is`, `isn't` as `is not`, `U.S.` as `US`, `ice-cream` as `ice cream`."""
    for pattern, replacement in _CONTRACTIONS:
        plain = pattern.sub(replacement, plain)
    return plain.strip()


def same_tokens(first: tuple[str, ...], second: tuple[str, ...]) -> bool:
    """Equal words in order, plural or not; `on the left` is `left`, but not `in the left`."""
    if first and second and (first[0] in _PREPOSITIONS) != (second[0] in _PREPOSITIONS):
        first, second = (t[1:] if t[0] in _PREPOSITIONS and len(t) > 1 else t for t in (first, second))
    return bool(first) and len(first) == len(second) and all(map(_same_word, first, second))


def _same_word(first: str, second: str) -> bool:
    return first == second or first in _plurals(second) or second in _plurals(first)


def _plurals(word: str) -> tuple[str, ...]:
    if len(word) < 3 or not word.isalpha():
        return ()
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return (word + "es",)
    if word.endswith("y") and word[-2] not in "aeiou":
        return (word[:-1] + "ies",)
    return (word + "s", word + "es") if word.endswith("o") else (word + "s",)


def _without_kind(words: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(word for word in words if word.removesuffix("s") not in _KIND_NOUNS)


def is_plain_words(gold: str) -> bool:
    """Whether the gold is a word or phrase, without digits or mathematics."""
    plain = _contracted(canonical(gold))
    return not re.search(r"[\\\d^_=<>+*/|()\[\]]", plain) and bool(re.search(r"[^\W\d_]{2}", plain))


# ---- Chemical formulas.

_ELEMENT = (
    "A[cglmrstu]|B[aehikr]?|C[adeflmnorsu]?|D[bsy]|E[rsu]|F[elmr]?|G[ade]|H[efgos]?|I[nr]?|Kr?|L[airuv]|M[cdgnot]"
    "|N[abdehiop]?|O[gs]?|P[abdmortu]?|R[abefghnu]|S[bcegimnr]?|T[abehilms]|U|V|W|Xe|Yb?|Z[nr]"
)
_FORMULA = re.compile(rf"(?:(?:{_ELEMENT})\d{{0,3}}|[()]\d{{0,3}}){{1,40}}")


def formula(text: str) -> str | None:
    """A chemical formula in one spelling (`CO_{2}` and `CO2` as CO2); None for anything else, single elements too."""
    plain = re.sub(r"[\s_{}]", "", canonical(text))
    num_parts = sum(character.isupper() or character.isdigit() for character in plain)
    return plain if num_parts >= 2 and len(plain) <= 40 and _FORMULA.fullmatch(plain) else None


# ---- Option letters.

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_NOUN = r"(?:option|choice|letter|answer|picture|figure|image|diagram|graph|选项|答案|图)"
_LEAD = (
    r"(?:[解答]\s*[:：]?\s*)?(?:本题)?(?:(?:so|thus|therefore|hence),?\s*)?(?:(?:the|my|our)\s+)?(?:(?:final|correct|right|best|most\s+likely)\s+)*"
    rf"{_NOUN}?\s*(?:letter\s+)?(?:is|would\s+be|should\s+be|:|为|是|故?选|故?应?选择?)?\s*{_NOUN}?\s*:?\s*"
)
_ALONE = re.compile(
    rf"^{_LEAD}[\(\[（{{<\"'「『]*\s*([A-Za-z])\s*[\)\]）}}>\"'」』]*\s*(?:选项|项|option|choice)?\s*[.:,;。!]?$",
    re.IGNORECASE,
)
_WITH_REST = (
    re.compile(
        rf"^{_LEAD}[\(\[（{{]+\s*([A-Za-z])\s*[\)\]）}}]+\s*(?:[.:,=]|-(?=\s))?\s*(\S.*)$", re.IGNORECASE | re.DOTALL
    ),  # (C) 36
    re.compile(rf"^{_LEAD}([A-Z])\s*(?:[.:)、]\s*|\s[-–—]\s|\s*(?=\())(\S.*)$", re.DOTALL),  # C. 36, C (36)
    re.compile(
        rf"^{_LEAD}(?:option|choice)\s+(?:[\(\[]([A-Z])[\)\]]|([A-Z])\s*(?:[.:,]|$))\s*(.*)$", re.DOTALL | re.IGNORECASE
    ),  # option C, 36
)
_BETWEEN_LETTERS = re.compile(r"(?:[\s,;/&]|(?<=\))(?=\()|\b(?:or|and|OR|AND|und|et|y|e|и)\b|[和与及或])+")
_OR_ELSE = re.compile(r"\W*(?:or|and|maybe|perhaps|possibly|not)\b", re.IGNORECASE)
_CHOSEN = re.compile(r"^(?:本题)?(?:故|应该?)?选择?\s*:?\s*")


def letters_named(text: str) -> frozenset[str] | None:
    """The bare letters that a text consists of: {A} for `(A).`, {A, C} for `A and C`; None where it holds more."""
    plain = canonical(text)
    if match := _ALONE.match(plain):
        letter = match.group(1)
        return frozenset(letter.upper()) if letter.isascii() else None  # `İ` matches [a-z] where case is ignored
    parts = [part.strip("()[].\"'") for part in _BETWEEN_LETTERS.split(_CHOSEN.sub("", plain)) if part]
    if parts and len(parts) <= len(LETTERS) and all(len(part) == 1 and part in LETTERS for part in parts):
        return frozenset(parts)
    return None


def joined_letters(text: str, *, any_order: bool = False) -> frozenset[str] | None:
    """The letters of `ACD`, several choices written together (in their order); None for any other text."""
    plain = _CHOSEN.sub("", canonical(text)).strip(" .()")
    letters = sorted(plain) if any_order else list(plain)
    several = len(plain) > 1 and sorted(set(plain)) == letters and set(plain) <= set(LETTERS[:8])
    return frozenset(plain) if several else None


def letter_and_rest(plain: str) -> tuple[str, str] | None:
    """(letter, the text next to it) of `(C) 36`, `C. 36`, `C (36)`, `option C, 36`; the text is canonical."""
    for pattern in _WITH_REST:
        if match := pattern.match(plain):
            *letters, rest = match.groups()
            letter = next(letter for letter in letters if letter)
            return (letter.upper(), rest) if letter.isascii() else None
    return None


def letters_before_text(text: str) -> frozenset[str] | None:
    """The letter of `(A) 36` or `A. 36`, where the options themselves are unknown."""
    pair = letter_and_rest(canonical(text))
    return frozenset(pair[0]) if pair is not None and not _OR_ELSE.match(pair[1]) else None


_LABELLED = re.compile(r"^\(?([A-H])[.)]\s+(\S.*)$", re.DOTALL)
_SECOND_OPTION = re.compile(r"(?:^|[\s(（])B\s*[.):、．]")


def labelled_text(text: str) -> tuple[str, str] | None:
    """(letter, text) of a ground truth such as `B. 4/3` or `(B) 4/3`, an option written out."""
    match = _LABELLED.match(text.strip())
    return (match.group(1), match.group(2)) if match else None


def lists_options(question: str) -> bool:
    """Whether the question itself lists options with letters."""
    return _SECOND_OPTION.search(question) is not None


# ---- Yes and no, true and false.

# language: the words of a yes, the words of a no; `?` marks those that mean other things too and make no gold a verdict
_VERDICTS: dict[str, tuple[str, str]] = {
    "English": (
        "yes true correct ?y ?yeah ?yep ?yup ?t ?right ?affirmative ?sure ?certainly ?definitely",
        "no false incorrect ?n ?nope ?nah ?f ?wrong ?untrue ?negative",
    ),
    "Chinese": ("是 是的 对 对的 正确 ?有 ?会 ?能 ?可以", "否 不是 不对 错 错误 错的 不正确 ?不 ?没有 ?不会 ?不能"),
    "Japanese": ("はい 正しい ?ええ", "いいえ 正しくない ?違う ?誤り"),
    "Korean": ("네 예 맞다 맞습니다 참 그렇습니다", "아니요 아니오 아니다 틀리다 거짓"),
    "Vietnamese": ("đúng ?có ?phải", "sai không ?không_phải ?không_đúng"),
    "German": ("ja richtig wahr ?korrekt ?stimmt", "nein falsch unwahr"),
    "French": ("oui vrai ?exact", "non faux"),
    "Spanish": ("sí verdadero cierto ?si ?correcto", "falso ?incorrecto"),
    "Portuguese": ("sim verdadeiro ?certo ?correto", "não ?nao ?errado"),
    "Italian": ("vero ?sì", "?sbagliato"),
    "Russian": ("да верно правда истина ?правильно", "нет неверно ложь ?неправда ?неправильно"),
    "Arabic": ("نعم صحيح ?أجل", "لا خطأ ?غير_صحيح ?كلا"),
    "Hindi": ("हाँ हां सही सत्य", "नहीं गलत असत्य"),
    "signs": ("√ ✓ ✔ ☑ ✅", "× ✗ ✘ ✕ ❌ ☒"),
}
_MARKED_BOOLEANS = {
    word.replace("_", " "): verdict
    for words in _VERDICTS.values()
    for verdict, line in zip((True, False), words, strict=True)
    for word in line.split()
}
_BOOLEANS = {word.lstrip("?"): verdict for word, verdict in _MARKED_BOOLEANS.items()}
_CERTAIN = {word: verdict for word, verdict in _MARKED_BOOLEANS.items() if not word.startswith("?")}
_BOOLEAN_WORD = "|".join(
    re.escape(word) for word in sorted(_BOOLEANS, key=len, reverse=True) if word not in ("y", "n", "t", "f")
)
# A clause may follow at once only where it begins like one: `no it is not`, but not `no idea` or `no more`.
_FIRST_BOOLEAN = re.compile(
    rf"^(?P<word>{_BOOLEAN_WORD})(?:\s*(?:$|[,.;!—。，、！)]|[-:(](?=\s|\w))"
    r"|\s+(?:it|there|they|he|she|this|that|the|these|those|we|you|because|since|as|its|both|not)\b)"
)
_OR_ANOTHER = re.compile(r"^\w+\s*,?\s*\(?(?:or|and|maybe|vs|oder|ou|или)\b|^\w+\s*[/&|~=]")
_ONE_OF_BOTH = re.compile(r"\b(?:yes|no|true|false|ja|nein|oui|non|да|нет|是|否)\b")
_NOT_TRUE = ((re.compile(r"\bnot\s+(?:true|correct)\b"), "false"), (re.compile(r"\bnot\s+false\b"), "true"))
_BOOLEAN_ANSWER = re.compile(
    r"\b(?:answer|it|this|statement|claim|that)\s+is:?\s+[\"'(*]*(?P<word>yes|no|true|false|correct|incorrect)\b"
)


def parse_boolean(text: str, *, verbose: bool = False) -> bool | None:
    """True for yes/true, False for no/false, else None.

    `verbose` also reads short and ambiguous forms (`y`, `right`), `No, it is not` and `the answer is no`; `no idea` and
    refusals are no verdict.
    """
    words = _BOOLEANS if verbose else _CERTAIN
    if (sign := text.strip(" $.")) in words:
        return words[sign]
    plain = _contracted(canonical(text)).strip(" .!\"'()*。！「」『』").casefold()
    if plain in words:
        return words[plain]
    if not verbose or _OR_ANOTHER.match(plain) or DECLINED.search(plain):
        return None
    for pattern, word in _NOT_TRUE:
        plain = pattern.sub(word, plain)
    if len({_BOOLEANS[word] for word in _ONE_OF_BOTH.findall(plain)}) > 1:
        return None
    stated = _FIRST_BOOLEAN.match(plain) or _BOOLEAN_ANSWER.search(plain)
    return _BOOLEANS[stated["word"]] if stated else None


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


# ---- Times of day, dates, months and days of the week.


class Moment(NamedTuple):
    """`parts` are (hour, minute, second), (year or 0, month, day), (year or 0, month), or (weekday,).

    `half` tells whether a time says which half of the day it is in.
    """

    kind: str
    parts: tuple[int, ...]
    half: bool = False


_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?"
    r"|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)(?![a-z])\.?"
)
_WEEKDAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
_WEEKDAY = r"(?:mon(?:day)?|tue(?:s|sday)?|wed(?:nesday)?|thu(?:rs?|rsday)?|fri(?:day)?|sat(?:urday)?|sun(?:day)?)\.?"
_TH = r"(?:st|nd|rd|th)?"
_DATES = [
    rf"(?P<month>{_MONTH})\s+(?:the\s+)?(?P<day>\d{{1,2}}){_TH}(?:\s*,?\s*(?P<year>\d{{4}}))?",
    rf"(?P<day>\d{{1,2}}){_TH}\s+(?:of\s+)?(?P<month>{_MONTH})(?:\s*,?\s*(?P<year>\d{{4}}))?",
    r"(?:(?P<year>\d{4})\s*[年년]\s*)?(?P<month>\d{1,2})\s*[月월]\s*(?P<day>\d{1,2})\s*[日号일]",
    r"(?P<year>\d{4})[-/.](?P<month>\d{1,2})[-/.](?P<day>\d{1,2})",
    r"(?P<month>\d{1,2})/(?P<day>\d{1,2})/(?P<year>\d{4})",
    r"(?P<day>\d{1,2})[/.](?P<month>\d{1,2})[/.](?P<year>\d{4})",  # between dots, or where the first is no month
]
_ONLY_DATE = [re.compile(rf"^(?:on\s+)?(?:{_WEEKDAY},?\s+)?(?:the\s+)?{date}$", re.IGNORECASE) for date in _DATES]
_ONLY_MONTH = re.compile(rf"^(?:in\s+)?(?P<month>{_MONTH})(?:,?\s+(?P<year>\d{{4}}))?$", re.IGNORECASE)
_ONLY_WEEKDAY = re.compile(rf"^(?:on\s+)?(?P<day>{_WEEKDAY})$", re.IGNORECASE)
_CHINESE_WEEKDAY = re.compile(r"^(?:星期|周|礼拜)([一二三四五六日天])$")
_HALF = r"[ap]\.?\s?m\b\.?"
_CLOCK = re.compile(
    rf"^(?:at\s+)?(?P<hour>\d{{1,2}})(?:(?P<mark>[:.])(?P<minute>[0-5]\d)(?::(?P<second>[0-5]\d))?)?\s*(?P<oclock>o'clock)?"
    rf"\s*(?P<half>{_HALF}|in\s+the\s+(?:morning|afternoon|evening)|at\s+night)?(?P<hours>\s*(?:hours|hrs|uhr))?$",
    re.IGNORECASE,
)
_CHINESE_CLOCK = re.compile(
    r"^(?P<half>凌晨|早上|上午|午前|오전|午後|下午|晚上|傍晚|오후)?\s*(?P<hour>\d{1,2})\s*[点點時时시]钟?\s*"
    r"(?:(?P<minute>\d{1,2})\s*[分분]?|(?P<thirty>半))?整?$"
)
_PAST_OR_TO = re.compile(
    rf"^(?:at\s+)?(?:a\s+)?(?P<minutes>half|quarter|\d{{1,2}})\s*(?:minutes?\s+)?(?P<side>past|after|to|before|till)\s+"
    rf"(?P<hour>\d{{1,2}})(?:\s*o'clock)?\s*(?P<half>{_HALF})?$",
    re.IGNORECASE,
)
_NAMED_HOURS = {"noon": 12, "midday": 12, "midnight": 0, "中午": 12, "正午": 12, "午夜": 0}
MOMENT = re.compile(
    r"(?<![\dA-Za-z])(?:\d{1,2}:[0-5]\d(?::[0-5]\d)?(?:\s*[ap]\.?\s?m\b\.?)?|\d{1,2}\s*(?:[ap]\.?m\b\.?|o'clock)"
    r"|(?:noon|midnight)\b|(?:[上下]午)?\d{1,2}[点點時时](?:\d{1,2}分?|半)?"
    rf"|{'|'.join(re.sub(r'[?]P<[a-z]+>', '?:', date) for date in _DATES)})",
    re.IGNORECASE,
)
DAY_OF_MONTH = re.compile(rf"(?<![A-Za-z]){_MONTH}\s+$", re.IGNORECASE)  # before a number that counts nothing
_ASKS_FOR_TIME = re.compile(r"\b(?:what\s+time|o'clock|clock|when)\b", re.IGNORECASE)


def parse_moment(text: str) -> Moment | None:
    """A date, a time of day, a month or a day of the week; None for anything else, a bare number included."""
    plain = canonical(text)
    for pattern in _ONLY_DATE:
        if date := pattern.match(plain):
            month, day = _month(date["month"]), int(date["day"])
            if 1 <= month <= 12 and 1 <= day <= 31:
                return Moment("date", (int(date["year"] or 0), month, day))
    if named := _ONLY_MONTH.match(plain):
        return Moment("month", (int(named["year"] or 0), _month(named["month"])))
    if named := _ONLY_WEEKDAY.match(plain):
        return Moment("weekday", (_WEEKDAYS.index(named["day"][:3].lower()),))
    if named := _CHINESE_WEEKDAY.match(plain):
        return Moment("weekday", ("一二三四五六日".index(named.group(1).replace("天", "日")),))
    name = re.sub(r"^(?:at\s+)?(?:12\s+)?(?=[a-z]+$)", "", plain.casefold())
    return Moment("time", (_NAMED_HOURS[name], 0, 0), half=True) if name in _NAMED_HOURS else _clock(plain)


def _month(name: str) -> int:
    return int(name) if name.isdecimal() else _MONTHS.index(name[:3].lower()) + 1


def _clock(plain: str) -> Moment | None:
    """`8:30 pm`, `9 o'clock`, `half past three`, `下午3点`."""
    if chinese := _CHINESE_CLOCK.match(plain):
        late = None if chinese["half"] is None else chinese["half"] in ("午後", "下午", "晚上", "傍晚", "오후")
        return _time(int(chinese["hour"]), 30 if chinese["thirty"] else int(chinese["minute"] or 0), 0, late)
    plain = replace_number_words(plain)
    if spoken := _PAST_OR_TO.match(plain):
        minutes = {"half": 30, "quarter": 15}.get(spoken["minutes"].lower()) or int(spoken["minutes"])
        hour, late = int(spoken["hour"]), _is_late(spoken["half"])
        if spoken["side"].lower() in ("past", "after"):
            return _time(hour, minutes, 0, late)
        return _time(hour - 1 or 12, 60 - minutes, 0, late)
    clock = _CLOCK.match(plain)
    if clock is None or not (clock["minute"] or clock["half"] or clock["oclock"]):
        return None
    if clock["mark"] == "." and not (clock["half"] or (clock["hours"] or "").strip().lower() == "uhr"):
        return None  # a number: `3.25 hours` is a length of time
    return _time(int(clock["hour"]), int(clock["minute"] or 0), int(clock["second"] or 0), _is_late(clock["half"]))


def _is_late(half: str | None) -> bool | None:
    """Whether `p.m.` or `in the evening` means the second half of the day; None where nothing is said."""
    return None if half is None else half.lower().startswith(("p", "at")) or half.lower().endswith(("noon", "evening"))


def _time(hour: int, minute: int, second: int, late: bool | None) -> Moment | None:
    if not (0 <= hour <= 24 and 0 <= minute <= 59):
        return None
    if late is not None:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + 12 * late
    return Moment("time", (hour, minute, second), late is not None)


def gold_moment(gold: str, question: str) -> Moment | None:
    """The moment that a ground truth is; `3:10` is a ratio unless it says a.m. or p.m. or the question asks for a time."""
    moment = parse_moment(gold)
    if moment is None or moment.kind != "time" or moment.half or not re.fullmatch(r"\d+:\d+(?::\d+)?", canonical(gold)):
        return moment
    hour, minute, _ = moment.parts
    return moment if _ASKS_FOR_TIME.search(question) or gcd(hour, minute) > 1 or gold.strip().startswith("0") else None


def same_moment(answer: str, moment: Moment) -> bool:
    """Equal; a date or month without a year fits any year, and a time without a.m. or p.m. either half of the day."""
    other = parse_moment(answer)
    if other is None or other.kind != moment.kind:
        return False
    if other.parts == moment.parts:
        return True
    if moment.kind in ("date", "month"):
        return 0 in (other.parts[0], moment.parts[0]) and other.parts[1:] == moment.parts[1:]
    if moment.kind == "weekday" or other.half == moment.half:
        return False
    unsaid, said = (moment, other) if other.half else (other, moment)
    return unsaid.parts[0] <= 12 and (unsaid.parts[0] % 12, *unsaid.parts[1:]) == (said.parts[0] % 12, *said.parts[1:])
