"""Grading one response: extract the answer, compare it with the gold, and say why. Never raises on what a model wrote."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

from sharegrpo_rl.data.types import SeedQuestion
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.grader.choices import listed_options, named_options, names_a_letter, option_texts
from sharegrpo_rl.grader.formats import (
    AnswerFormat,
    after_thinking,
    boxes,
    final_sections,
    gold_answer,
    tagged_answers,
    unboxed,
    unclosed_answer,
    undressed,
)
from sharegrpo_rl.grader.key import AnswerKey, Match
from sharegrpo_rl.grader.lists import compare_lists, flipped, parse_list
from sharegrpo_rl.grader.numbers import Quantity, compare_numbers, is_no_number, parse_quantity, split_unit
from sharegrpo_rl.grader.prose import (
    announcements,
    first_clause,
    is_one_phrase,
    response_text,
    sentences,
    settled_moment,
    settled_value,
)
from sharegrpo_rl.grader.prose_options import is_value, settled_option, settled_verdict
from sharegrpo_rl.grader.symbolic import GraderError, compare_symbolic, nested_too_deeply
from sharegrpo_rl.grader.text import MAX_ANSWER_CHARACTERS, canonical, normalized
from sharegrpo_rl.grader.words import (
    LETTERS,
    formula,
    gold_moment,
    is_plain_words,
    joined_letters,
    labelled_text,
    letters_before_text,
    letters_named,
    lists_options,
    named_value,
    parse_boolean,
    same_moment,
    same_words,
)

ExtractMode = Literal["auto", "answer", "boxed", "steps", "free"]
EXTRACT_MODES: tuple[ExtractMode, ...] = get_args(ExtractMode)


@dataclass(frozen=True)
class Verdict:
    """`score` 0 or 1. With `error` set the grader failed: the score says nothing and the row is counted as an error."""

    score: float
    extracted: str | None
    reason: str
    error: str | None = None


def grade(
    response: str,
    gold: str | AnswerKey,
    *,
    extract: ExtractMode | AnswerFormat = "auto",
    choices: Sequence[str] | None = None,
    question: str | None = None,
    answer_type: str | None = None,
    unit: str | None = None,
    precision: float | None = None,
) -> Verdict:
    """Extract the response's answer and grade it against `gold`.

    `extract`: an answer format, strict: a response without its one answer span scores 0, which is no error. Or a mode:
    `answer` (tags), `boxed`, `steps` (final section), `free` (prose), `auto` (tags, then boxes, then prose).
    The other fields of the row, where it has them, narrow how an answer is read; an `AnswerKey` holds them already.
    """
    key = gold
    if not isinstance(key, AnswerKey):
        key = make_key(key, choices=choices, question=question, answer_type=answer_type, unit=unit, precision=precision)
    if not isinstance(extract, str):
        answer = extract.extract(response)
        return Verdict(0.0, None, f"no single {extract.name} answer") if answer is None else grade_answer(answer, key)
    answers, source = _extract_answers(response, key, extract)
    if key.choices and source == "box" and len(answers) > 1:
        # Boxes that name no option are steps of the working.
        naming = tuple(a for a in answers if named_options(a, key.choices) or names_a_letter(a, key.choices))
        answers = naming or answers[-1:]
    if not answers:
        return Verdict(0.0, None, f"no answer found ({source})")
    if len(answers) == 1:
        return grade_answer(answers[0], key)
    try:
        match = _compare_several(answers, key)
    except GraderError as error:
        return Verdict(0.0, answers[-1], "the grader failed", str(error))
    return Verdict(float(match.equal), "; ".join(answers)[:400], match.reason)


def grade_answer(answer: str, key: AnswerKey) -> Verdict:
    """Grade an answer that was extracted already."""
    try:
        match = _compare(answer, key)
    except GraderError as error:
        return Verdict(0.0, answer, "the grader failed", str(error))
    return Verdict(float(match.equal), answer, match.reason)


def make_key(
    gold: str,
    *,
    choices: Sequence[str] | None = None,
    question: str | None = None,
    answer_type: str | None = None,
    unit: str | None = None,
    precision: float | None = None,
) -> AnswerKey:
    """The answer key of a row; fields that the row lacks are None."""
    return AnswerKey(str(gold), tuple(str(c) for c in choices or ()), question or "", answer_type, unit, precision)


def question_key(question: SeedQuestion, gold: str | None = None) -> AnswerKey:
    """The question's answer key, with another `gold` where one is given."""
    return make_key(
        question.answer if gold is None else gold,
        choices=question.choices,
        question=question.question,
        answer_type=question.answer_type,
        unit=question.unit,
        precision=question.precision,
    )


# ---- Ground truths, checked when data is loaded so that training never meets one that cannot be graded.

_MAX_GOLD_CHARACTERS = 2_000


def check_truth(question: SeedQuestion) -> None:
    """Raise UserError, naming the row, where its answer cannot be graded."""
    if fault := truth_fault(question):
        raise UserError(f"row {question.id}: {fault}; correct the row or leave it out")


def truth_fault(question: SeedQuestion) -> str | None:
    """What makes the answer ungradable, in words; None where nothing does."""
    answer, answer_type = question.answer, (question.answer_type or "").lower()
    if not isinstance(answer, str) or not answer.strip():
        return "the answer is empty"
    gold = gold_answer(answer)
    if len(gold) > _MAX_GOLD_CHARACTERS:
        return f"the answer has {len(gold)} characters; at most {_MAX_GOLD_CHARACTERS} are allowed"
    if not canonical(gold):
        return f"the answer {answer[:60]!r} holds nothing that could be compared"
    if gold.count("{") != gold.count("}"):
        return f"the braces of the answer {answer[:60]!r} do not match"
    if question.choices:
        if named_options(gold, question.choices):
            return None
        return f"the answer {gold[:60]!r} is none of the {len(question.choices)} choices, neither by letter nor by text"
    if answer_type in ("numeric", "number", "integer", "float") and parse_quantity(gold) is None:
        return f"the answer {gold[:60]!r} is no number, but answer_type is {answer_type}"
    if answer_type in ("true_false", "yes_no", "boolean") and parse_boolean(gold) is None:
        return f"the answer {gold[:60]!r} is neither yes/no nor true/false, but answer_type is {answer_type}"
    if answer_type in ("multiple_choice", "multi_choice", "choice") and letters_named(gold) is None:
        return f"the answer {gold[:60]!r} is no letter and there are no choices, but answer_type is {answer_type}"
    return None


# ---- Extraction. Of the key only the kind of answer asked for (number, option, yes/no, words) is used, never its value.


class _Extraction(NamedTuple):
    """Several `answers` are several claims, in order; `source` says where they were found."""

    answers: tuple[str, ...]
    source: str


def _extract_answers(response: str, key: AnswerKey, mode: ExtractMode) -> _Extraction:
    """Answers outside the thinking part. `auto` prefers tags to boxes and boxes to prose."""
    if mode == "steps":  # this layout has no thinking part
        return _Extraction(tuple(dict.fromkeys(final_sections(response))), "final answer section")
    visible = after_thinking(response)
    if mode in ("auto", "answer"):
        answers = tuple(dict.fromkeys(map(unboxed, tagged_answers(visible))))
        if answers or mode == "answer":
            return _Extraction(tuple(filter(None, answers)), "answer tags")
    if mode in ("auto", "boxed"):
        answers = tuple(dict.fromkeys(boxes(visible)))
        if answers and mode == "auto" and (final := _final_answer_after_box(visible, key)):
            return _Extraction((final,), "final answer after the box")
        if answers or mode == "boxed":
            return _Extraction(answers, "box")
    if mode == "auto" and (unclosed := unclosed_answer(visible)):
        return _Extraction((unclosed,), "unclosed answer tag")
    settled = _settled_answer(visible, key)
    return _Extraction((settled,) if settled else (), "prose")


def _final_answer_after_box(visible: str, key: AnswerKey) -> str | None:
    """What a sentence after the last box calls the final answer: it outranks the box."""
    last_box = visible.rfind("\\boxed")
    is_announced = any(a.is_final and a.start > last_box for a in announcements(visible))
    return _settled_answer(visible[last_box:], key) if is_announced and len(boxes(visible[last_box:])) <= 1 else None


def _settled_answer(text: str, key: AnswerKey) -> str | None:
    """The answer on which free prose ends, read as the kind of answer that the key asks for."""
    text = response_text(text)
    if not text:
        return None
    gold = undressed(gold_answer(key.gold))
    if key.choices:
        return settled_option(text, key.choices, key.question)
    if (moment := gold_moment(gold, key.question)) is not None and moment.kind in ("time", "date"):
        return settled_moment(text)
    if parse_boolean(gold) is not None:
        verdict = settled_verdict(text, key.question)
        return None if verdict is None else ("yes" if verdict else "no")
    if len(gold) <= 4 and letters_named(gold) is not None:
        return settled_option(text, _UNLISTED_OPTIONS, key.question, things=True)
    announced = announcements(text)
    if labelled_text(gold) is not None:
        if announced:
            return first_clause(announced[-1].tail).rstrip(".")
        written_out = _WRITTEN_OUT.search(sentences(text)[-1])
        return written_out.group() if written_out else settled_option(text, _UNLISTED_OPTIONS, key.question)
    is_numeric = parse_quantity(gold) is not None
    if not is_numeric and is_plain_words(gold) and (parse_list(gold) is None or is_one_phrase(text)):
        return announced[-1].tail if announced else sentences(text)[-1]
    return settled_value(text, key.question, numeric=is_numeric)


# ---- Comparison: same text, options, yes/no, letters, named values, times, numbers with units or lists, words, and
# mathematics last. `_compare` and what it calls raise GraderError (and nothing else) where the grader itself fails.

_MAX_SHORT_ANSWER = 60
_MAX_LINES = 8
_UNLISTED_OPTIONS = tuple(f"option {i}" for i in range(len(LETTERS)))
_ORDER_OF_LETTERS = re.compile(
    r"\b(?:order(?!\s+to\b)|arrange|sort|rank|sequence|ascending|descending|say|says|read|reads|spell|written|initials)\w*\b"
    r"|顺序|排序|排列",
    re.IGNORECASE,
)
_LONE_CAPITAL = re.compile(r"(?<![A-Za-z∠])(?<!angle )(?<!point )[A-Z](?![A-Za-z])(?!\s*(?:[=+*/]|-\s*\d))")
_EXPRESSION = re.compile(r"(?<![A-Za-z])[a-zA-Z](?![A-Za-z])|\\[a-z]")
_LETTER_AND_DIGIT = re.compile(r"(?<![A-Za-z\\_])[A-Za-z]\d")  # `x2` may be a power or a product
_WRITTEN_OUT = re.compile(r"\(?(?<![A-Za-z])[A-H][.)]\s+\S.*$", re.DOTALL)
_DENIED_LETTER = re.compile(r"\b(?:not|isn't|never)\s+\(?([A-Z])(?![A-Za-z])")
_ONLY_LETTERS = re.compile(r"^\s*(?:\(?[A-Z]\)?)(?:\s*(?:,|;|\n|and)?\s*\(?[A-Z]\)?){0,7}\s*\.?\s*$")
_NUMBER_IN_BASE = re.compile(r"^\w+_\{?\d+\}?$")
_TWO_EQUATIONS = re.compile(r"(?<![A-Za-z\\])([A-Za-z](?:\([a-z]\))?)\s*=[^=]*[^A-Za-z=]\1\s*=")  # y = x | y = 2x
_FUNCTION = re.compile(r"^(?:y|[A-Za-z](?:_\{?\w+\}?)?\(\s*[a-z]\s*\))\s*=\s*(?=\S)")


def _compare_several(answers: tuple[str, ...], key: AnswerKey) -> Match:
    """Right where every answer is right; two different answers are wrong, whatever their order."""
    if parse_quantity(gold_answer(key.gold)) is None and not key.choices:
        as_list = _compare(", ".join(answers), key)  # \boxed{1} and \boxed{-2} is one list
        if as_list.equal:
            return as_list
    matches = [_compare(answer, key) for answer in answers]
    if any(match.equal for match in matches) and not all(match.equal for match in matches):
        return Match(False, "two different answers")
    return matches[-1]


def _compare(answer: str, key: AnswerKey) -> Match:
    gold = gold_answer(key.gold)
    if len(answer) > MAX_ANSWER_CHARACTERS:
        return Match(False, f"{len(answer)} characters are too many for an answer")
    if answer.strip() == gold and not key.choices:
        return Match(True, "the same text")
    answer, gold = undressed(answer), undressed(gold)
    if answer.endswith(("?", "？")) and not gold.endswith(("?", "？")) and answer not in key.choices:
        return Match(False, "a question")
    gold_options = named_options(gold, key.choices)
    if gold_options:  # where options fall together, case and signs tell them apart
        return _compare_options(answer, key, gold_options)
    if normalized(answer) and normalized(answer) == normalized(gold):
        return Match(True, "the same text")
    if nested_too_deeply(answer):
        return Match(False, "nested too deeply to be an answer")
    if (match := _compare_named(answer, gold, key)) is not None:
        return match
    number = parse_quantity(gold)
    match = compare_lists(answer, gold, key) if number is None else _compare_quantity(answer, key, number)
    if match is not None:
        return match
    if is_plain_words(gold):
        equal = same_words(answer, gold)
        return Match(equal, "the same words" if equal else "other words")
    if len(canonical(gold)) <= 3 and letters_named(gold) is not None:
        return Match(False, "no option named")
    return _compare_mathematics(answer, key, gold)


def _compare_named(answer: str, gold: str, key: AnswerKey) -> Match | None:
    """A gold that is a verdict, a letter, a value with a name, a moment or a formula; None for any other."""
    if (gold_boolean := parse_boolean(gold)) is not None:
        equal = parse_boolean(answer, verbose=True) is gold_boolean
        return Match(equal, "the right verdict" if equal else "another verdict or none")
    if (match := _compare_letters(answer, gold, key)) is not None:
        return match
    if (labelled := labelled_text(gold)) is not None:
        return _compare_labelled(answer, *labelled, key)
    if (name := named_value(gold)) is not None and named_value(answer) == name:
        return Match(True, f"{name} by another name")
    if (moment := gold_moment(gold, key.question)) is not None:
        equal = same_moment(answer, moment)
        if equal or moment.kind in ("time", "date"):  # `May` and `Sun` are words too
            return Match(equal, "the same moment" if equal else "another moment or none")
    if (compound := formula(gold)) is not None and (other := formula(answer)) is not None:
        return Match(other == compound, "the same formula" if other == compound else "another formula")
    return None


def _compare_labelled(answer: str, letter: str, text: str, key: AnswerKey) -> Match:
    """A gold such as `B. 4/3`: by its text, or by its letter where the question lists the options; both must agree."""
    labelled = labelled_text(answer)
    if labelled is not None and labelled[0] != letter:
        return Match(False, "another letter")
    if labelled is None and (letters := letters_named(answer)) is not None and lists_options(key.question):
        return Match(letters == {letter}, "the right letter" if letters == {letter} else "another letter")
    return _compare(answer if labelled is None else labelled[1], replace(key, gold=text))


def _compare_options(answer: str, key: AnswerKey, gold_options: frozenset[int]) -> Match:
    if nested_too_deeply(answer):
        return Match(False, "nested too deeply to be an answer")
    named = named_options(answer, key.choices)
    if not named:
        letters = set(_LONE_CAPITAL.findall(answer)) & set(LETTERS[: len(key.choices)])
        if len(answer) <= _MAX_SHORT_ANSWER and len(letters) > 1:  # `A maybe B`; points and angles are no options
            return Match(False, "several options named")
        if "\n" in answer:
            lines = answer.split("\n")[:_MAX_LINES]
            named = frozenset().union(*(named_options(line, key.choices) for line in lines))
    if not named and (listed := listed_options(answer, key.choices)) is not None:
        named, only_options = listed
        if not only_options or len(named) != 1:
            equal = only_options and named == gold_options
            return Match(equal, "the right options" if equal else "several options named")
    if not named and letters_before_text(answer) is None:
        settled = settled_option(answer, key.choices, key.question)
        named = named_options(settled, key.choices) if settled else named
    if not named:
        equal = is_value(answer) and _equals_only(answer, key, gold_options)
        return Match(equal, "equals the right option" if equal else "no option named")
    if named & named_options(", ".join(_DENIED_LETTER.findall(answer)), key.choices):
        return Match(False, "an option that is taken back")
    texts = option_texts(named, key.choices)
    if texts == option_texts(gold_options, key.choices):
        return Match(True, "the right option" if len(gold_options) == 1 else "the right options")
    return Match(False, "another option" if len(texts) == 1 else "several options named")


def _equals_only(answer: str, key: AnswerKey, gold_options: frozenset[int]) -> bool:
    """Whether an expression equals the right option and no other."""
    if len(gold_options) != 1 or not _EXPRESSION.search(answer) or _LETTER_AND_DIGIT.search(answer):
        return False
    gold, *others = sorted(range(len(key.choices)), key=lambda i: i not in gold_options)
    return _equals(answer, key, gold) and not any(_equals(answer, key, i) for i in others)


def _equals(answer: str, key: AnswerKey, index: int) -> bool:
    offered = canonical(key.choices[index])
    if not _EXPRESSION.search(offered) or parse_quantity(offered) is not None or is_plain_words(offered):
        return False
    value = offered if "=" in answer else _function_value(offered) or offered
    return _compare_mathematics(answer, AnswerKey(value, question=key.question), value).equal


def _compare_letters(answer: str, gold: str, key: AnswerKey) -> Match | None:
    """A gold that is a letter (or several) of options that the row does not list."""
    if not _ONLY_LETTERS.match(canonical(gold)):
        return None
    gold_letters = letters_named(gold) or joined_letters(gold)
    letters = letters_named(answer) or letters_before_text(answer) or joined_letters(answer, any_order=True)
    if gold_letters is None or letters is None:
        return None
    in_order = [[c for c in canonical(text) if c in gold_letters] for text in (answer, gold)]
    if letters == gold_letters and _ORDER_OF_LETTERS.search(key.question) and in_order[0] != in_order[1]:
        return Match(False, "another order")
    return Match(letters == gold_letters, "the right letter" if letters == gold_letters else "another letter")


def _compare_quantity(answer: str, key: AnswerKey, gold: Quantity) -> Match | None:
    if gold.unit is None and key.unit:
        gold = replace(gold, unit=split_unit(f"1 {key.unit}")[1])
    if (match := compare_numbers(answer, key, gold)) is not None:
        return match
    parts = parse_list(answer)
    if parts is not None and len(parts.items) > 1:
        return Match(False, "several answers where one is right")
    return Match(False, "words or unknowns where a number is expected") if is_no_number(answer) else None


def _compare_mathematics(answer: str, key: AnswerKey, gold: str) -> Match:
    parts = parse_list(answer)
    plain, plain_gold = canonical(answer), canonical(gold)
    if parse_list(gold) is None and parts is not None and not parts.opening and parse_quantity(gold) is None:
        return Match(False, "several answers where one is right")
    if _TWO_EQUATIONS.search(plain) and not _TWO_EQUATIONS.search(plain_gold):
        return Match(False, "two equations where one is right")
    if "=" in plain and "=" not in plain_gold and parse_quantity(plain.partition("=")[0]) is not None:
        return Match(False, "an equation where an expression is right")
    reverse = flipped(answer)
    if reverse is not None and normalized(reverse) == normalized(gold):
        return Match(True, "the same relation")
    if _NUMBER_IN_BASE.search(plain_gold):
        return Match(False, "another number or base")
    value, gold_value = _function_value(plain), _function_value(plain_gold)
    if value is None or gold_value is None:
        return compare_symbolic(answer, key, gold)
    if normalized(value) == normalized(gold_value):
        return Match(True, "the same function")
    return compare_symbolic(value, key, gold_value)


def _function_value(plain: str) -> str | None:
    """The right side of `y = ...` or `f(x) = ...`; None where the text is neither."""
    match = _FUNCTION.match(plain)
    return plain[match.end() :] if match and plain.count("=") == 1 else None
