"""Free prose: its sentences, the statement that announces an answer, refusals, and the value on which it ends.

The ground truth is never looked at here, only the kind of answer that is asked for.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Set
from typing import NamedTuple

from sharegrpo_rl.grader.expressions import replace_number_words
from sharegrpo_rl.grader.formats import COPULA_BEHIND, announcing, json_answer, without_marks
from sharegrpo_rl.grader.numbers import parse_quantity
from sharegrpo_rl.grader.text import canonical, content_words, plain_unicode
from sharegrpo_rl.grader.words import DAY_OF_MONTH, MOMENT, REASON

_MAX_CHARACTERS = 12_000  # of a response; the middle of a longer one is left out
_MAX_NEXT_LINE = 60  # an answer on the line after `the answer is:` is short
_MAX_ANNOUNCEMENTS = 16  # the last ones of a text that repeats itself
_MAX_TAIL = 400
_MAX_SENTENCES = 200
_LISTED_OPTION = re.compile(
    r"^\W*\(?([A-Z]{1,2})\)[\s.:]*(?:\S|$)|^\W*([A-Z])[.)]\s+\S|^\d+\.\s*\(([A-Z])\)|^\W*\(([A-Z]{1,2})$"
)
_NEXT_QUESTION = re.compile(
    r"\n\s*#*\s*(?:Question|Human|User|Problem|Q)\s*(?:\d+\s*)?:|\.\./"
    r"|\[asy\]|\bHint: Please answer",
)
_JSON_AT_END = re.compile(r"(\{[^{}]*\})\s*(?:```)?\s*$")
_SPACE_RUN = re.compile(r"[^\S\n]{3,}")
_LINE_RUN = re.compile(r"\n(?:[^\S\n]{0,2}\n){2,}")
_DISPLAYED_MATH = re.compile(r"\s*(?:\\\[[^\]]{1,400}?\\\]|\$\$[^$]{1,400}\$\$)(?=[\s.])")
_COLON_AT_LINE_END = re.compile(r":\s*\n+\s*(?=\S{1,80}\s*(?:\n|$))")
_SENTENCE_END = re.compile(
    r"(?<=[.!?])(?<!\b[A-Z]\.)(?<!e\.g\.)(?<!i\.e\.)(?<!\bvs\.)\s+|(?<=[.!?]\$)\s+|(?<=[.!?]\$\$)\s+"
    r"|(?<=[.!?]\\[\])])\s+|\n+|(?<=[。！？।؟])"
)
_NO_ANSWER_FOLLOWS = re.compile(r"(?:e\.g\.|i\.e\.|not\b|based\b|in\b|that\b)", re.IGNORECASE)
_CORRECTED = re.compile(
    r"not\s+(?:[^\s.,]{1,20}\s+){0,3}?[^\s.,]{1,20},?\s+but\s+(?:(?:rather|instead)\s+)?(?=\S)", re.IGNORECASE
)  # `not A but B`
_REFUSAL = re.compile(
    r"\b(?:can(?:no|')t|cannot|can not|unable|impossible|not possible|insufficient|isn't enough|don't have"
    r"|not (?:be )?(?:determined|definitively|provided|given|specified|enough|sufficient|listed|in the options|an option"
    r"|available)"
    r"|(?:do(?:es)? not|doesn't) (?:provide|specify|contain|have enough|have any|give|include|mention|say|state)"
    r"|whether"
    r"|needs? more|more information|unknown|undefined|N/A|sorry|apologi[sz]e|please provide"
    r"|without (?:more|additional|further|any|knowing|seeing|specific)"
    r"|without the (?:table|image|data|context|function|specific)|none of the options|no (?:diagram|image|context))\b"
    r"|无法|不确定",
    re.IGNORECASE,
)


class Announcement(NamedTuple):
    """`the answer is ...`: the rest of the line, whether it is called final, and where in the text it starts."""

    tail: str
    is_final: bool
    start: int


def announcements(text: str) -> list[Announcement]:
    """Every `the answer is` with what follows it on its line or the next, in order."""
    kept = []
    for match in announcing(text)[-_MAX_ANNOUNCEMENTS:]:
        tail = text[match.end() : match.end() + _MAX_TAIL].lstrip(" \t\r\n*#>")
        line = _CORRECTED.sub("", COPULA_BEHIND.sub("", tail.partition("\n")[0].strip()), count=1)
        if "\n" in match.group() and len(line) > _MAX_NEXT_LINE:
            continue
        if line and not _NO_ANSWER_FOLLOWS.match(line):
            kept.append(Announcement(line, match.groupdict().get("final") is not None, match.start()))
    return kept


def response_text(text: str) -> str:
    """The response without what a model goes on to invent after its answer (new questions, prompt echoes, drawings)."""
    if len(text) > _MAX_CHARACTERS:
        text = text[: _MAX_CHARACTERS // 4] + "\n" + text[-3 * _MAX_CHARACTERS // 4 :]
    text = unicodedata.normalize("NFC", without_marks(text))
    json_part = _JSON_AT_END.search(text[-_MAX_TAIL:])
    if (answer := json_answer(json_part.group(1) if json_part else text)) is not None:
        return answer
    text = _LINE_RUN.sub("\n\n", _SPACE_RUN.sub("  ", text.replace("\r\n", "\n")))
    for match in _NEXT_QUESTION.finditer(text):
        if text[: match.start()].strip():
            return text[: match.start()].rstrip()
    return text.strip()


def sentences(text: str) -> list[str]:
    """Sentences and lines in order, without empty ones; displayed mathematics belongs to the sentence that it ends.

    Of very many, which no answer has, the ones in the middle are left out.
    """
    text = _DISPLAYED_MATH.sub(lambda math: f" {' '.join(math.group().split())} ", text)
    text = _COLON_AT_LINE_END.sub(": ", text)
    parts = [part.strip() for part in _SENTENCE_END.split(text) if part and part.strip()]
    return parts if len(parts) <= _MAX_SENTENCES else parts[: _MAX_SENTENCES // 4] + parts[-3 * _MAX_SENTENCES // 4 :]


def first_clause(text: str) -> str:
    """Up to the end of the first sentence; decimal points and `A.` do not end one."""
    return next(iter(sentences(text)), "")


def is_one_phrase(text: str) -> bool:
    """Whether the text is one line without a verb that states something: then it is the answer itself."""
    line = text.strip()
    return len(line) <= _MAX_VALUE_CHARACTERS and "\n" not in line and _VERB_OR_SIGN.search(line) is None


def refuses(text: str) -> bool:
    """Whether the text says that it cannot answer."""
    return _REFUSAL.search(text) is not None


def without_listed_options(text: str) -> str:
    """The text up to a list of two options or more on which it ends: listing options answers nothing."""
    lines = text.rstrip().split("\n")
    while len(lines) > 1 and not re.search(r"\w", lines[-1]):
        lines.pop()
    end, letters = len(lines), set()
    while end > 0:
        option = _LISTED_OPTION.match(lines[end - 1])
        if option:
            letters.add(next(group for group in option.groups() if group))
        elif end == len(lines) or lines[end - 1].strip():
            break
        end -= 1
    return "\n".join(lines[:end]) if len(letters) >= 2 else text


# ---- The number, expression or moment on which prose ends.

_MATH_SPAN = re.compile(r"\$\$(.{1,600}?)\$\$|\$([^$\n]{1,600}?)\$|\\\((.{1,600}?)\\\)|\\\[(.{1,600}?)\\\]", re.DOTALL)
_NUMBER = (
    r"(?:\\frac\s*\{[^{}]*(?:\{[^{}]*\})?[^{}]*\}\s*\{[^{}]*\}|\\sqrt\s*\{[^{}]*\}"
    r"|\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?::\d+)+|\d+(?:[.,]\d+)?|\.\d+)"
)
_FACTORS = (
    r"(?:\s*\^\s*(?:\{-?\d+\}|-?\d+))?(?:\s*/\s*\d+(?![\d/])|\s*\*\s*10\s*\^\s*\{?-?\d+\}?)?"
    r"(?:\s*\\(?:frac|sqrt)\s*\{[^{}]*\}(?:\{[^{}]*\})?|\s*\\pi)*"
)
_UNIT = (
    r"(?:\s*(?:°|%|€|(?:square\s+|cubic\s+)?(?:mm|cm|km|m|kg|g|ml|L|meters?|metres?|inch(?:es)?|feet|ft|units?|degrees?"
    r"|percent)\b(?:\s*\^\s*\{?[23]\}?)?)|(?:hrs?|h|mins?|secs?|s|V|W|N|J|mA|mph|km/h|lbs?|oz|in|yd|mg|kW)\b)?"
)
_VALUE = re.compile(
    rf"(?<![A-Za-z\d.^_])(?<![\^_]\{{)-?\s?(?:[$€£]\s?)?{_NUMBER}{_FACTORS}{_UNIT}(?![A-Za-z!^_\d\u0300-\u036f])"
)
_CONCLUSION = re.compile(
    r"^\W*(?:so|thus|therefore|hence|consequently|in conclusion|finally|overall|this means|the final)\b|所以|因此|^故",
    re.IGNORECASE,
)
_STATING_VERB = re.compile(
    r"\b(?:is|are|was|were|be|has|have|there's|equals?|equal(?:ing)?\s+to|equaling|gives?|gets?|becomes|makes|leaves"
    r"|takes|lasts|weighs|comes\s+to|amounts\s+to|left\s+with|resulting\s+in|yielding|giving|by)\b(?!\s+(?:less|more|greater|fewer|smaller|larger|at\s+(?:least|most)))",
    re.IGNORECASE,
)
_BOLD = re.compile(r"\*\*([^*\n]{1,60})\*\*")
_JOINED = (
    r"\s*\)?\s*(?:,?\s*\(?\s*\b(?:or|and|to|vs\.?|through|versus|but|maybe|perhaps|possibly)\b|或|和|至|到|[-/|;&~]|\\pm(?![a-z])|±|\\(?:vee|lor|cup|text|\\)"
    r"|\.\.+|[<>]=?|\\bmod)\s*"
)
_AGAIN = r"(?:maybe|perhaps|possibly|even|about|[A-Za-z]\s*=|[-(\[{$€£±\s])*"
_MORE_VALUES = re.compile(
    rf"{_JOINED}{_AGAIN}\d|\s*,\s*[-$€£]?\d[\d.]*\s*(?:°|%|[a-z]{{1,2}}\b)?\s*(?:$|[,.;)\]}}]|and\b|or\b)|\s+[(\[]?\d"
    r"|\s*[<>]=?\s*[A-Za-z](?![A-Za-z])"
    r"|\s+(?:is|are|was|were)\s+(?:wrong|not|incorrect|false|too|(?:larger|smaller|greater|less|more)\s+than)\b",
    re.IGNORECASE,
)
_CHANGED_BEHIND = re.compile(
    r"\s+(?:squared|cubed|factorial|trillion|tenths|hundredths|to\s+the\s+power)\b", re.IGNORECASE
)
_OPEN_RANGE = re.compile(
    r"^\W*(?:at\s+(?:least|most)|(?:more|less|fewer|greater|bigger|smaller|larger|higher|lower)\s+than|over\b|under\b|up\s+to"
    r"|between\b|from\b|not\b|either\b|nearly\b.*\bor\b|anything\b|if\b|one\s+of\b)|^[^\d]{0,12}(?:[<>≤≥±]|\\pm|\\leq?\b|\\geq?\b)",
    re.IGNORECASE,
)
_UNKNOWN_BEFORE = re.compile(r"(?:^|[^A-Za-z\\])[B-Zb-z]\)?\s*$")
_UNKNOWN_AND_SIGN_BEFORE = re.compile(r"(?:^|[^A-Za-z\\])[B-Zb-z]\)?\s*[-+*/]\s*$")
_SIGN_AND_UNKNOWN_AFTER = re.compile(r"\s*[-+*]\s*\(?[B-Zb-z](?![A-Za-z])")
_HEDGE_BEFORE = re.compile(
    r"(?:±|\\pm|[<>]=?|!=|\b(?:at\s+(?:least|most)|up\s+to|over|under|between|but|either|perhaps|maybe"
    r"|(?:half|twice|double|triple|thrice|(?:square|cube)\s+root|opposite|negative|reciprocal|inverse|square|cube"
    r"|third|quarter|fifth|tenth)(?:\s+of)?))\s*$",
    re.IGNORECASE,
)
_WORDS = re.compile(
    r"(?<![\\A-Za-z])(?!(?:mm|cm|km|kg|ml|ft|cos|sin|tan|log)\b)[A-Za-z]{2,}|[^\W\d_A-Za-z\u0370-\u03ff]{2,}"
    r"|[\u0600-\u06ff\u0900-\u097f\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]"
)
_EQUALS = re.compile(r"(?<![<>!])=|\\approx")
_PRONOUN_ONE = re.compile(
    r"\bone(?=\s+(?:of|end|side|another|can|could|must|should|needs?|by\s+one)\b)"
    r"|(?<=\bno )one\b|\b(?:the|this|that|each|every|which|any|another|other)\s+(?:(?!number|value)[a-z]+\s+)?one\b",
    re.IGNORECASE,
)
_JOINED_SPANS = re.compile(r"\s*(?:,|;|or|and|,\s*and|,\s*or|或|和)\s*")
_LEADS_TO = re.compile(rf"{_STATING_VERB.pattern}|:\s|为|是", re.IGNORECASE)
_JOINED_MOMENTS = re.compile(r"\s*(?:or|and|to|,|-|–)\s*", re.IGNORECASE)
_MORE_SPANS = re.compile(r"\s*,?\s*(?:or|and|to|或|和)\s*(?:\$|\\[(\[]|-?\d)")
_EITHER_VALUE = re.compile(r"([A-Za-z]\w*)\s*=[^=]{1,40}\bor\s+\1\s*=[^=]{1,40}")  # x = 5 or x = -5
_NEGATED = re.compile(r"(?:\bnot\s+(?:[a-z']+\s+){0,2}|\bthan\s+)$", re.IGNORECASE)
_LIST_NUMBER = re.compile(r"^\s*(?:\d+[.)]|step\s+\d+[):.]?)\s+", re.IGNORECASE)
_RATIO_EXPLAINED = re.compile(
    r"(\d\s*:\s*\d+)\s*[,(]?\s*(?:which\s+means|meaning|that\s+is|i\.e\.|or\b|so\s+for).*$", re.DOTALL
)
_VERB_OR_SIGN = re.compile(r"[=:]|\b(?:is|are|was|were|be|has|have|equals?|shows?)\b", re.IGNORECASE)
_CONDITION_BEHIND = re.compile(r"\s*,?\s*(?:for|where|with|if|when|such\s+that)\b", re.IGNORECASE)
_CONTEXT_CHARACTERS = 60
_MAX_LINE_CHARACTERS = 60
_MAX_VALUE_CHARACTERS = 200
_QUESTION_WORDS = {"how", "many", "much", "what", "which", "when", "where", "who", "unit", "value", "find"}


def settled_value(text: str, question: str, *, numeric: bool) -> str | None:
    """The value as written; None where the prose states none. `numeric`: a number is asked for, not an expression."""
    line = text.strip()
    if "\n" not in line and (
        (len(line) <= _MAX_LINE_CHARACTERS and parse_quantity(line) is not None) or not _WORDS.search(line)
    ):
        return line[:_MAX_VALUE_CHARACTERS]
    for announcement in reversed(announcements(text)):
        value = _announced_value(announcement.tail, numeric)
        if value is not None:
            return value
        if refuses(announcement.tail):
            return None
    return _settled_number(text, question) if numeric else _settled_expression(text)


def _announced_value(tail: str, numeric: bool) -> str | None:
    """The value that an announcement gives; all of its clause where that gives several or leaves it open."""
    span = _MATH_SPAN.search(tail)
    clause = first_clause(tail).rstrip(".")
    if span is not None and span.start() <= 40 and not (numeric and parse_quantity(_inside(span)) is None):
        return clause if numeric and _MORE_SPANS.match(tail[span.end() :]) else _inside(span)
    if not numeric:
        return REASON.sub("", clause) or clause
    if parse_quantity(clause) is not None:
        return clause
    if refuses(clause):
        return None
    plain = _with_digits(canonical(clause))
    if _OPEN_RANGE.match(plain) or not _WORDS.search(plain) or "\\begin" in plain:
        return plain
    return _value_after_equals(plain) if _EQUALS.search(plain) else _first_value(plain)


def _settled_number(text: str, question: str) -> str | None:
    """A bold number; else, in a reasoning, the last one stated; else that of the sentence that repeats the question."""
    all_parts = sentences(text)
    if all_parts and refuses(all_parts[-1]):
        return None
    parts = [part for part in all_parts if not refuses(part)]
    in_question = set(_numbers_in(question))
    bold = {canonical(number) for number in _BOLD.findall(text) if parse_quantity(number) is not None}
    if len(bold) == 1:
        return bold.pop()
    candidates = parts[::-1]
    if not any("=" in part or _CONCLUSION.search(_LIST_NUMBER.sub("", part)) for part in parts):
        overlaps = [_overlap(part, question) for part in candidates]
        best = max(overlaps, default=0.0)
        if best >= 0.5:
            restating = next(part for part, share in zip(candidates, overlaps, strict=True) if share >= 0.8 * best)
            candidates = [restating, *candidates]
    numbers = (_number_of_sentence(part, in_question) for part in candidates)
    return next((number for number in numbers if number is not None), None)


def _overlap(sentence: str, question: str) -> float:
    words = set(content_words(question)) - _QUESTION_WORDS
    return len(words & set(content_words(sentence))) / len(words) if words else 0.0


def _number_of_sentence(sentence: str, in_question: Set[str]) -> str | None:
    """The number that a sentence states: its closing mathematics, what its last `=` or verb leads to, or its last."""
    values = _numbers_in(sentence)
    if not values:
        return None
    spans = list(_MATH_SPAN.finditer(sentence))
    if spans and not _numbers_in(sentence[spans[-1].end() :]):
        result = re.split(r"=|\\approx|≈", _inside(spans[-1]))[-1]
        if parse_quantity(result) is not None:
            return result.strip()
    sentence = _RATIO_EXPLAINED.sub(r"\1", sentence)
    without_reason = REASON.sub("", sentence)
    plain = _with_digits(canonical(without_reason if _numbers_in(without_reason) else sentence))
    if _EQUALS.search(plain):
        return _value_after_equals(plain) or values[-1]
    for verb in reversed(list(_STATING_VERB.finditer(plain))):
        rest = plain[verb.end() :]
        if parse_quantity(rest) is not None and not rest.strip().startswith("-"):
            return rest.strip()
        if (value := _first_value(rest, in_question)) is not None:
            return value
    return _last_value(plain, in_question) or values[-1]


def _value_after_equals(plain: str) -> str | None:
    """The first number after the last equals sign, unless a verb later in the sentence states another."""
    if either := _EITHER_VALUE.search(plain):
        return either.group()
    tail = _EQUALS.split(plain)[-1]
    verb = re.search(r"\b(?:is|are|equals|be)\b(?=.*\d)", tail)
    return _first_value(tail[verb.end() :] if verb else tail)


def _first_value(plain: str, in_question: Set[str] = frozenset()) -> str | None:
    """The first value of a canonical text that is not in the question, with any joined to it (`5 or 6`, `5-9`)."""
    new = (match for match in _values(plain) if _as_written(match) not in in_question)
    return next((_with_joined_values(plain, match) for match in new), None)


def _last_value(plain: str, in_question: Set[str]) -> str | None:
    """The last value, if possible one that is not in the question, with any joined to it."""
    matches = _values(plain)
    last = max(
        (i for i, match in enumerate(matches) if _as_written(match) not in in_question), default=len(matches) - 1
    )
    if last < 0:
        return None
    if last > 0 and _MORE_VALUES.match(plain[matches[last - 1].end() :]):
        return plain[matches[last - 1].start() : matches[last].end()]
    return _with_joined_values(plain, matches[last])


def _with_joined_values(plain: str, match: re.Match[str]) -> str:
    """The value; after `at least` or `±`, or before `or 6`, all of that, which no comparison takes for one number."""
    if hedge := _HEDGE_BEFORE.search(_before(plain, match)):
        return (hedge.group() + plain[match.start() :])[:_MAX_VALUE_CHARACTERS]
    if _CHANGED_BEHIND.match(plain, match.end()) or _MORE_VALUES.match(
        plain[match.end() : match.end() + _CONTEXT_CHARACTERS]
    ):
        return plain[match.start() :][:_MAX_VALUE_CHARACTERS]
    return _as_written(match)


def _numbers_in(text: str) -> list[str]:
    """Values as written, number words as digits; list numbering and denied numbers (`not 5`) are left out."""
    plain = _with_digits(canonical(_LIST_NUMBER.sub("", plain_unicode(text))))
    return [_as_written(match) for match in _values(plain)]


def _with_digits(plain: str) -> str:
    """Number words as digits; the `one` of `one of them` and `the red one` counts nothing."""
    return replace_number_words(_PRONOUN_ONE.sub("it", plain))


def _values(plain: str) -> list[re.Match[str]]:
    """Values that the text states: none that it denies, no day of a month, no part of a term with unknowns (`x + 1`)."""
    return [
        match for match in _VALUE.finditer(plain) if not (_is_denied_or_day(plain, match) or _in_term(plain, match))
    ]


def _is_denied_or_day(plain: str, match: re.Match[str]) -> bool:
    before = _before(plain, match)
    return _NEGATED.search(before) is not None or DAY_OF_MONTH.search(before) is not None


def _in_term(plain: str, match: re.Match[str]) -> bool:
    is_signed = match.group().lstrip().startswith("-")
    unknown = _UNKNOWN_BEFORE if is_signed else _UNKNOWN_AND_SIGN_BEFORE
    return bool(unknown.search(_before(plain, match)) or _SIGN_AND_UNKNOWN_AFTER.match(plain, match.end()))


def _before(plain: str, match: re.Match[str]) -> str:
    """The few words before a value; short, so that many values stay linear."""
    return plain[max(0, match.start() - _CONTEXT_CHARACTERS) : match.start()]


def _as_written(match: re.Match[str]) -> str:
    return match.group().strip(" ,")


def _inside(span: re.Match[str]) -> str:
    """What stands between the dollars or brackets."""
    return next(group for group in span.groups() if group is not None).strip()


def settled_moment(text: str) -> str | None:
    """The date or time of day on which prose ends; None for none, or for several that are joined (`9:00 or 10:30`)."""
    clauses = [first_clause(announcement.tail) for announcement in announcements(text)] or sentences(text)
    for clause in reversed(clauses):
        moments = list(MOMENT.finditer(clause))
        if moments:
            joined = len(moments) > 1 and _JOINED_MOMENTS.fullmatch(clause[moments[-2].end() : moments[-1].start()])
            return None if joined else moments[-1].group()
    return None


def _settled_expression(text: str) -> str | None:
    """The last mathematics (joined: `$1$ and $2$`), else what the verb of the last sentence leads to, if that is short."""
    spans = list(_MATH_SPAN.finditer(text))
    if (
        spans
        and spans[0].start() == 0
        and _CONDITION_BEHIND.match(text, spans[0].end())
        and is_one_phrase(text[spans[0].end() :])
    ):
        return text  # `$f(x) = ...$ for some $a$`
    if spans:
        joined = [spans.pop()]
        while spans and _JOINED_SPANS.fullmatch(text[spans[-1].end() : joined[0].start()]):
            joined.insert(0, spans.pop())
        return ", ".join(_inside(span) for span in joined)
    parts = sentences(text)
    if not parts or len(parts[-1]) > _MAX_VALUE_CHARACTERS:
        return None
    last = REASON.sub("", parts[-1]) or parts[-1]
    if not _WORDS.search(last):
        return last
    verbs = list(_LEADS_TO.finditer(last))
    return last[verbs[-1].end() :].strip(" .。") if verbs else last
