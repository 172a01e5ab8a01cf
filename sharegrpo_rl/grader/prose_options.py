"""The option, or the yes or no, on which free prose settles: by letter, by number, or in words."""

from __future__ import annotations

import re

from sharegrpo_rl.grader.choices import NO_OPTIONS, Indices, by_text, named_options
from sharegrpo_rl.grader.numbers import parse_quantity
from sharegrpo_rl.grader.prose import (
    announcements,
    first_clause,
    refuses,
    sentences,
    settled_value,
    without_listed_options,
)
from sharegrpo_rl.grader.text import canonical, content_words
from sharegrpo_rl.grader.words import DECLINED, LETTERS, is_plain_words, parse_boolean

_MARKED_LETTER = re.compile(
    r"[(（]\s*([A-Z])\s*[)）]|\b(?:[Oo]ption|[Cc]hoice|图|选项|选择?)\s*[\"'“]?\(?([A-Z])(?![A-Za-z])\)?|^\W*([A-Z])\s*[).:、]\s+\S"
    r"|(?<!angle )\b([A-Z])\s+is\s+(?:selected|chosen|correct|the\s+(?:(?:correct|right|best)\s+)?(?:answer|option|choice|one))\b"
    r"|\b(?:[Cc]hoose|[Ss]elect|[Pp]ick)\s+\(?([B-Z]\b|A(?=\s*[,.;)]|$))"
    r"|\b(?:must|should|would|has\s+to)\s+be\s+([A-Z])(?=\s*[,.;]|$)"
    r"|\b(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\b[^.;:()]{1,120}?\bis\s+\**([A-Z])\**(?=\s*(?:[,.;(]|$))"
    r"|:\s*\**\(?([A-Z])\)?\**\W*$"
    r"|^\W*(?:[Ss]o\s*,?\s+)?[Ii]t(?:'s|\s+is)\s+([A-Z])\W*$"
    r"|([A-Z])\s*(?:选项|项)(?:是)?(?:正确|符合)"
)
_NAMED_THING = re.compile(  # where the options are things in a picture
    r"\b(?:[Bb]ox|[Pp]oint|[Ii]mage|[Pp]icture|[Pp]hoto|[Ff]igure|[Oo]bject|[Pp]erson|[Pp]attern|[Ss]hape|[Cc]urve|[Pp]ath)\s+[\"'“(]*([A-Z])(?![A-Za-z'])"
    r"|(?:^|[,.;]\s)([A-Z])\s+is\s+(?!not\b|less\b)[a-z]"
)
_MORE_LETTERS = re.compile(r"\s*[)）]?\s*(?:,|/|\bor\b|\band\b|和|或|与)\s*[(（]?([A-Z])(?![A-Za-z])")
_TAKEN_BACK = re.compile(
    r"^\W*[A-Z]\W*\s*(?:is\s+(?:not|wrong|incorrect|false)|isn't|नहीं|不是|不对|错|が?[は]?(?:ではあり|ではな|じゃな)|[이가은는]?\s*아[니닙]|не\b|không\b|nicht\b|pas\b)"
)
_CONTRAST = re.compile(r"\b(?:on the other hand|in contrast|by contrast|whereas|while|however)\b", re.IGNORECASE)
_LETTER_AT_START = re.compile(
    r"^[\s\"'*_(\[（{$「『]*(?:\\(?:text|textbf|mathrm|boxed)\s*\{\s*)*\(?\s*([A-Z])\s*[)\]）}」』]*(?=$|[\s.,:;\"'*)（(。，\\$-])"
)
_LEFT_OPEN = re.compile(r"\banswer\s*(?:\([^()]{1,40}\)\s*)?is\s+(?:not\b|un)", re.IGNORECASE)
_NONE_OF_THEM = re.compile(r"\W*(?:none|not)\b", re.IGNORECASE)
_ALTERNATIVE = re.compile(
    r"\s*(?:[,;|&]|(?<!\d)/|/(?!\d)|\b(?:or|and|but)\b|或|和)\s*(?:(?:maybe|possibly|perhaps|also|either|both)\b\s*)*"
)
_MAX_BARE_ANSWER = 300


def settled_option(text: str, choices: tuple[str, ...], question: str, *, things: bool = False) -> str | None:
    """The option's letter, or a text that names none of them or several; None where the prose settles on nothing.

    `things`: the options are things with letters in a picture, so that `point C` names one.
    """
    text = without_listed_options(text)
    announced = announcements(text)
    is_asking = text.rstrip().endswith("?")
    if len(text) <= _MAX_BARE_ANSWER and not announced and not is_asking and (named := named_options(text, choices)):
        return _label(named) if len(named) == 1 else text
    for announcement in reversed(announced):
        tail = announcement.tail
        if _TAKEN_BACK.match(tail):
            return None
        if named := _announced_options(tail, choices):
            return ", ".join(LETTERS[i] for i in sorted(named))
        if refuses(tail) or _NONE_OF_THEM.match(tail):
            return None
        if _LETTER_AT_START.match(tail) and not _is_yes_no(choices):  # a letter that is no option
            return tail
    parts = [part for part in sentences(text) if not part.endswith("?")]
    letter = _letter_in_sentences(parts, choices, things=things or all(map(_is_thing, choices)))
    if letter is not None:
        return letter
    return _settled_by_text(text, parts, choices, question)


def _settled_by_text(text: str, parts: list[str], choices: tuple[str, ...], question: str) -> str | None:
    """The option that prose settles on by what it says: by its value, or by its words where it is made of words."""
    numeric = [parse_quantity(choice) is not None for choice in choices]
    worded = [not number and is_plain_words(choice) for number, choice in zip(numeric, choices, strict=True)]
    verdicts = [parse_boolean(choice) for choice in choices]
    is_expression = [
        not (number or is_words or _is_thing(choice))
        for number, is_words, choice in zip(numeric, worded, choices, strict=True)
    ]
    for as_number, offered in ((True, numeric), (False, is_expression)):
        if not parts or not any(offered) or (not as_number and _NEGATION.search(parts[-1])):
            continue
        value = settled_value(text, question, numeric=as_number)
        named = by_text(value, choices) if value else NO_OPTIONS
        if named or all(numeric) or (value and all(is_expression) and is_value(value)):
            return _label(named) if len(named) == 1 else value
    if is_value(text):
        return None
    sayable = [is_words and verdict is None for is_words, verdict in zip(worded, verdicts, strict=True)]
    named = _mentioned_option(parts, choices, sayable, question)
    if not named and verdicts.count(True) == verdicts.count(False) == 1:
        verdict = _stated_verdict(parts, question)
        named = NO_OPTIONS if verdict is None else frozenset({verdicts.index(verdict)})
    return _label(named) if named else None


def is_value(text: str) -> bool:
    """Whether a text is a number or mathematics without a word, which names an option only by being equal to it."""
    return parse_quantity(text) is not None or not re.search(r"(?<![\\A-Za-z])[A-Za-z]{3,}|[^\W\d_A-Za-z]{2,}", text)


def _is_thing(choice: str) -> bool:
    return re.fullmatch(r"(?:[Bb]ox|[Pp]oint|[Ii]mage|[Pp]icture|[Ff]igure)?\s*\(?[A-Z]\)?", choice.strip()) is not None


def settled_verdict(text: str, question: str) -> bool | None:
    """Yes or no as free prose announces it, or says it; None where it refuses or says neither."""
    for announcement in reversed(announcements(text)):
        if (verdict := parse_boolean(first_clause(announcement.tail), verbose=True)) is not None:
            return verdict
    if _LEFT_OPEN.search(text) or DECLINED.search((sentences(text) or [""])[-1]):
        return None
    return _stated_verdict(sentences(text), question)


def _is_yes_no(choices: tuple[str, ...]) -> bool:
    """Whether the options are a yes and a no."""
    return len(choices) == 2 and {parse_boolean(choice) for choice in choices} == {True, False}


def _label(indices: Indices) -> str:
    return LETTERS[min(indices)]


# ---- Letters and texts of options.


def _announced_options(tail: str, choices: tuple[str, ...]) -> Indices:
    """Options that `C (3 mm). Because ...` names; several for `B or C`."""
    clause = first_clause(tail).rstrip(".")
    if named := named_options(tail, choices) or named_options(clause, choices) or _alternatives(clause, choices):
        return named
    letter = _LETTER_AT_START.match(tail)
    if letter and not re.match(r"^[AI]\s+[a-z]", tail):  # `A rise`, `I think`
        return named_options(letter.group(1), choices)
    letters = _marked_letters(clause)
    if len(letters) == 1:
        return named_options(letters.pop(), choices)
    return _options_at_start(tail, choices)


def _alternatives(clause: str, choices: tuple[str, ...]) -> Indices:
    """Options that a clause offers at its start, one after the other: `60, 120`, `B, but maybe C`, `yes and no`."""
    alternatives = NO_OPTIONS
    if parse_quantity(clause) is not None:  # `6/5` is one value
        return NO_OPTIONS
    for piece in filter(None, _ALTERNATIVE.split(clause)):
        named = named_options(piece.strip(), choices)
        if not named and parse_quantity(piece) is not None:
            named = by_text(piece, choices)
        if not named:
            break
        alternatives |= named
    return alternatives


def _options_at_start(tail: str, choices: tuple[str, ...]) -> Indices:
    """The longest option that the text begins with, and the one that follows it at once: `yes no` names two."""
    first, rest = _option_at_start(canonical(tail).casefold(), choices)
    return first | _option_at_start(rest.lstrip(" ,;/|&-"), choices)[0] if first else NO_OPTIONS


def _option_at_start(plain: str, choices: tuple[str, ...]) -> tuple[Indices, str]:
    """The longest option that the text begins with, and the rest of the text; a value must end where the option does."""
    longest, rest = NO_OPTIONS, ""
    for index, choice in enumerate(choices):
        option = "" if parse_boolean(choice) is not None else canonical(choice).casefold()
        end = (
            r"(?!\w)"
            if is_plain_words(choice)
            else r"(?=\s*(?:$|[,;]|:\s|\.(?!\d)|\((?=[a-z]{3})|(?:because|since|so|and|or)\b))"
        )
        match = re.match(rf"(?:the\s+|a\s+)?{re.escape(option)}{end}", plain) if option else None
        if match and (not longest or len(plain) - match.end() < len(rest)):
            longest, rest = frozenset({index}), plain[match.end() :]
    return longest, rest


def _letter_in_sentences(parts: list[str], choices: tuple[str, ...], *, things: bool) -> str | None:
    """The one letter in the last sentence with letters (`the path in (A) is the longest`), or a line of its own."""
    for part in reversed(parts):
        if len(part) <= 120 and len(named := named_options(part, choices)) == 1:
            return _label(named)
        letters = _marked_letters(part) or (_things_named(part) if things else set())
        if letters and DECLINED.search(part):
            return None
        if len(letters) == 1 and _CONTRAST.search(part) and len(parts) > 1:
            continue  # what the one that was chosen is held against
        if len(letters) > 1:
            return None
        if letters:
            named = named_options(letters.pop(), choices)
            return _label(named) if named and not _NEGATION.search(part) else None
    return None


def _marked_letters(sentence: str) -> set[str]:
    """Letters that a sentence marks as options, with those joined to them: `option A or B` has two."""
    letters = set()
    for match in _MARKED_LETTER.finditer(sentence):
        letters.add(next(group for group in match.groups() if group))
        if more := _MORE_LETTERS.match(sentence, match.end()):
            letters.add(more.group(1))
    return letters


def _things_named(sentence: str) -> set[str]:
    return {next(filter(None, match.groups())) for match in _NAMED_THING.finditer(sentence)}


# ---- An option, or a yes or no, in the words of a sentence.

_AUXILIARY_STEMS = {"would", "will", "could", "can", "may", "might", "and", "or", "its", "population", "this", "that"}
_QUESTION_STEMS = {"do", "doe", "did", "ther", "hav", "has"}
_NEGATION = re.compile(r"\b(?:not|no|n't|never|neither|nor|none)\b|n't\b", re.IGNORECASE)
_CONCLUSION = re.compile(r"[,;]\s*(?:and\s+)?(?:so|therefore|thus|hence)\b", re.IGNORECASE)
_COMPARISON = re.compile(r"\b(\w+)\s+(?:[a-z]+\s+)?than\b.*$", re.IGNORECASE)
_DENIED_AFTER = re.compile(
    r"\w*\W+(?:\w+\s+)?(?:is|are|was|were)(?:n't|\s+(?:not|wrong|incorrect|false))\b", re.IGNORECASE
)
_DENIAL = re.compile(
    r"(?:\bnot\b|n't\b|\bnever\b|\bneither\b|\b(?:anything|all|everything)\s+but\b|\b(?:other|rather)\s+than\b|\bexcept\b)\s+(?:\w+\s+){0,3}$",
    re.IGNORECASE,
)


def _mentioned_option(parts: list[str], choices: tuple[str, ...], worded: list[bool], question: str) -> Indices:
    """The one option of words that the last sentence with any holds; one inside a longer option gives way to it."""
    if parts and refuses(parts[-1]):  # an option may say so
        refusing = [i for i in _options_in(parts[-1], choices) if worded[i] and refuses(choices[i])]
        return frozenset(refusing) if len(refusing) == 1 else NO_OPTIONS
    for part in reversed(parts):
        if refuses(part):
            continue
        mentioned = [i for i in _options_in(part, choices) if worded[i]]
        if len(mentioned) > 1:
            single = _singled_out(part, mentioned, choices, question)
            return frozenset(single) if len(single) == 1 else NO_OPTIONS
        if mentioned and not _is_denied(part, choices[mentioned[0]]):
            if not _opposes(part, question, choices):
                return frozenset(mentioned)
            return frozenset({1 - mentioned[0]}) if len(choices) == 2 else NO_OPTIONS
    return NO_OPTIONS


def _options_in(part: str, choices: tuple[str, ...]) -> list[int]:
    stems = [_stems(choice) - _AUXILIARY_STEMS for choice in choices]
    part_stems = _stems(part)
    in_order = [_stem(word) for word in content_words(part)]
    present = [
        i for i, needed in enumerate(stems) if needed and needed <= part_stems and _follow(choices[i], needed, in_order)
    ]
    return [i for i in present if not any(stems[i] < stems[j] for j in present)]


def _follow(choice: str, needed: set[str], in_order: list[str]) -> bool:
    """Whether the words of an option follow one another in a sentence as they do in the option."""
    rest = iter(in_order)
    return all(stem in rest for stem in map(_stem, content_words(choice)) if stem in needed)


def _singled_out(part: str, mentioned: list[int], choices: tuple[str, ...], question: str) -> list[int]:
    """Of several options in a sentence: in its `so ...`, before the `than ...` of the question, or not in the question."""
    conclusion = _CONCLUSION.split(part)[-1]
    if conclusion != part and len(concluded := _options_in(conclusion, choices)) == 1:
        return concluded
    comparison, question_stems = _COMPARISON.search(part), _stems(question)
    if comparison and _stem(comparison.group(1).casefold()) in question_stems:
        return _options_in(part[: comparison.start()], choices)
    return [i for i in mentioned if not _stems(choices[i]) - _AUXILIARY_STEMS <= question_stems]


def _is_denied(part: str, choice: str) -> bool:
    """`it is not on the left` does not say left."""
    first_word = next(iter(content_words(choice)), "")
    mention = re.search(rf"\b{re.escape(_stem(first_word))}", part, re.IGNORECASE)
    if mention is None or _NEGATION.search(choice):
        return False
    return bool(_DENIAL.search(part[: mention.start()]) or _DENIED_AFTER.match(part, mention.end()))


def _stated_verdict(parts: list[str], question: str) -> bool | None:
    """The first yes or no; else whether a sentence repeats the question as a statement or as its denial."""
    for part in parts:
        if (verdict := parse_boolean(part, verbose=True)) is not None:
            return verdict
    stems = _stems(question) - _AUXILIARY_STEMS - _QUESTION_STEMS
    if not stems or any(refuses(part) for part in parts):
        return None
    for part in parts:
        if len(stems & _stems(part)) >= 0.6 * len(stems) and (agrees := _agrees(part, question)) is not None:
            return agrees == (_NEGATION.search(part) is None)
    return None


def _stems(text: str) -> set[str]:
    return {_stem(word) for word in content_words(text)}


def _stem(word: str) -> str:
    for ending in ("ing", "es", "ed", "s", "d", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


# ---- Whether a sentence says the same as a question, or its opposite: `more` for `fewer`, or the sides of `than` swapped.

_OPPOSITE_WORDS = (
    "more: fewer less; greater: less smaller lower fewer; higher: lower; larger: smaller; "
    "bigger: smaller; taller: shorter; longer: shorter; older: younger; heavier: lighter; "
    "wider: narrower; faster: slower; hotter: colder; closer: farther further; nearer: farther further; "
    "most: least fewest; highest: lowest; largest: smallest; biggest: smallest; "
    "greatest: least smallest lowest; maximum: minimum; roughest: smoothest; left: right; above: below; "
    "before: after; over: under; inside: outside; front: behind; top: bottom; first: last; odd: even; "
    "convex: concave; increasing: decreasing; increase: decrease; positive: negative; open: closed; "
    "same: different; parallel: perpendicular; continuous: discontinuous; full: empty"
)
_OPPOSITES: dict[str, set[str]] = {}
for _word, _others in (_entry.split(": ") for _entry in _OPPOSITE_WORDS.split("; ")):
    for _other in _others.split():
        _OPPOSITES.setdefault(_word, set()).add(_other)
        _OPPOSITES.setdefault(_other, set()).add(_word)
_COMPARATIVES = {
    *("more", "fewer", "less", "greater", "smaller", "lower", "higher", "larger", "bigger"),
    *("taller", "shorter", "longer"),
}
_EQUAL = re.compile(r"\b(?:equal|same|identical)\b", re.IGNORECASE)
_WORD = re.compile(r"[a-z]+")


def _agrees(sentence: str, question: str) -> bool | None:
    """True where the sentence repeats the question's claim, False where it reverses it, None where it compares nothing."""
    words, question_words = _words(sentence), _words(question)
    missing = {word for word in _unopposed(question_words) if word not in words}
    is_opposed = any(_OPPOSITES[word] & words for word in missing)
    if question_words & _COMPARATIVES and missing and not is_opposed:
        return False if _EQUAL.search(sentence) else None
    return is_opposed == _swaps_sides(sentence, question)


def _opposes(sentence: str, question: str, choices: tuple[str, ...]) -> bool:
    """Whether the sentence says the opposite of what is asked for (`more` for `less`), in words that are no option's."""
    words, offered = _words(sentence), _words(" ".join(choices))
    reversed_words = {word for word in _unopposed(_words(question)) - words if _OPPOSITES[word] & words}
    return any(word not in offered and offered.isdisjoint(_OPPOSITES[word]) for word in reversed_words)


def _unopposed(words: set[str]) -> set[str]:
    """The words that have opposites, none of which is among them."""
    return {word for word in words if word in _OPPOSITES and words.isdisjoint(_OPPOSITES[word])}


def _swaps_sides(sentence: str, question: str) -> bool:
    """Whether what the question has after `than` stands before it in the sentence."""
    before, than, after = sentence.lower().partition(" than ")
    question_before, question_than, question_after = question.lower().partition(" than ")
    if not (question_than and than):
        return False
    first = _words(question_before) - _words(question_after)
    second = _words(question_after) - _words(question_before)
    is_swapped = bool(second & _words(before) and first & _words(after))
    return is_swapped and not second & _words(after)


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))
