"""Grading one response: extract the answer, compare it with the gold, and say why. Never raises on what a model wrote."""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
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
)
from sharegrpo_rl.grader.key import AnswerKey, GraderError, Kind, Match
from sharegrpo_rl.grader.lists import compare_lists, flipped, parse_list
from sharegrpo_rl.grader.numbers import Quantity, compare_numbers, is_no_number, parse_quantity, split_unit
from sharegrpo_rl.grader.prose import announcements, response_text, sentences, settled_moment, settled_value
from sharegrpo_rl.grader.prose_options import settled_option, settled_verdict
from sharegrpo_rl.grader.symbolic import compare_symbolic, is_huge, nested_too_deeply
from sharegrpo_rl.grader.text import MAX_ANSWER_CHARACTERS, canonical, normalized
from sharegrpo_rl.grader.words import (
    LETTERS,
    gold_moment,
    is_plain_words,
    joined_letters,
    letters_before_text,
    letters_named,
    named_value,
    parse_boolean,
    same_moment,
    same_words,
)

ExtractMode = Literal["auto", "answer", "boxed", "steps", "free"]
EXTRACT_MODES: tuple[ExtractMode, ...] = get_args(ExtractMode)


@dataclass(frozen=True)
class Verdict:
    """`score` 0 or 1, and the `kind` of comparison that decided ("none": there was nothing to compare).

    With `error` set the grader failed: the score says nothing and the row is counted as an error. Its text begins with
    the kind of error.
    """

    score: float
    extracted: str | None
    reason: str
    kind: Kind = "none"
    error: str | None = None


_log = logging.getLogger(__name__)
_logged: set[str] = set()


def failure(error: Exception) -> str:
    """The text of an exception for `Verdict.error`. A bug of ours is logged with its traceback the first time."""
    if isinstance(error, GraderError):
        return str(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}"
    if where not in _logged:
        _logged.add(where)
        _log.error("the grader failed (%s); such rows are counted as grader errors", where, exc_info=error)
    return str(GraderError("unexpected", f"{where}: {str(error)[:200]}"))


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
    try:
        return _grade(response, key, extract)
    except Exception as error:  # whatever it is: one row must not end a run, and is counted
        return Verdict(0.0, None, "the grader failed", error=failure(error))


def _grade(response: str, key: AnswerKey, extract: ExtractMode | AnswerFormat) -> Verdict:
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
    return grade_answer(answers[0], key) if len(answers) == 1 else _grade_answers(answers, key)


def grade_answer(answer: str, key: AnswerKey) -> Verdict:
    """Grade an answer that was extracted already."""
    return _grade_answers((answer,), key)


def _grade_answers(answers: tuple[str, ...], key: AnswerKey) -> Verdict:
    """One answer, or several claims."""
    try:
        match = _compare(answers[0], key) if len(answers) == 1 else _compare_several(answers, key)
    except Exception as error:  # as in `grade`
        return Verdict(0.0, answers[-1], "the grader failed", error=failure(error))
    extracted = answers[0] if len(answers) == 1 else "; ".join(answers)[:400]
    return Verdict(float(match.equal), extracted, match.reason, match.kind)


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
    try:
        return _truth_fault(question)
    except Exception as error:  # as in `grade`
        return f"the answer {str(question.answer)[:60]!r} cannot be read by the grader ({failure(error)})"


def _truth_fault(question: SeedQuestion) -> str | None:
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
    if nested_too_deeply(gold) or is_huge(canonical(gold)):
        return f"the answer {answer[:60]!r} is too large to be worked out"
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
    gold = gold_answer(key.gold)
    if key.choices:
        return settled_option(text, key.choices, key.question)
    if gold_moment(gold, key.question) is not None:
        return settled_moment(text)
    if parse_boolean(gold) is not None:
        verdict = settled_verdict(text, key.question)
        return None if verdict is None else ("yes" if verdict else "no")
    if len(gold) <= 4 and letters_named(gold) is not None:
        return settled_option(text, tuple(f"option {i}" for i in range(len(LETTERS))), key.question)
    is_numeric = parse_quantity(gold) is not None
    if not is_numeric and parse_list(gold) is None and is_plain_words(gold):
        announced = announcements(text)
        return announced[-1].tail if announced else sentences(text)[-1]
    return settled_value(text, key.question, numeric=is_numeric)


# ---- Comparison: same text, options, yes/no, letters, named values, times, numbers with units or lists, words, and
# mathematics last. Where the grader itself fails, `_compare` and what it calls raise GraderError. The kind of a match is
# the branch of `_compare` that it came from.

_MAX_SHORT_ANSWER = 60
_MAX_LINES = 8
_LEAD_IN = re.compile(
    r"^(?:(?:so|thus|hence|therefore)\s*,?\s+)?(?:the|my|our)\s+(?:(?:final|correct)\s+)?(?:answer|result|solution)\s+(?:is|:)\s*:?\s*"
    r"|^(?:所以|因此)?\s*[,，]?\s*(?:最终|正确)?(?:答案|结果)\s*(?:是|为|:|：)+\s*",
    re.IGNORECASE,
)
_LONE_CAPITAL = re.compile(r"(?<![A-Za-z∠])(?<!angle )(?<!point )[A-Z](?![A-Za-z])(?!\s*(?:[=+*/]|-\s*\d))")
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
    answer = _LEAD_IN.sub("", answer.strip(), count=1) or answer
    if len(answer) > MAX_ANSWER_CHARACTERS:
        return Match(False, f"{len(answer)} characters are too many for an answer")
    if normalized(answer) and normalized(answer) == normalized(gold):
        return Match(True, "the same text", "text")
    if nested_too_deeply(answer):
        return Match(False, "nested too deeply to be an answer")
    if key.choices and (gold_options := named_options(gold, key.choices)):
        return _compare_options(answer, key, gold_options).by("option")
    if (gold_boolean := parse_boolean(gold)) is not None:
        equal = parse_boolean(answer, verbose=True) is gold_boolean
        return Match(equal, "the right verdict" if equal else "another verdict or none", "verdict")
    if (match := _compare_letters(answer, gold)) is not None:
        return match.by("letter")
    if (name := named_value(gold)) is not None and named_value(answer) == name:
        return Match(True, f"{name} by another name", "name")
    if (moment := gold_moment(gold, key.question)) is not None:
        equal = same_moment(answer, gold, moment)
        return Match(equal, "the same moment" if equal else "another moment or none", "moment")
    number = parse_quantity(gold)
    match = compare_lists(answer, gold, key) if number is None else _compare_quantity(answer, key, number)
    if match is not None:
        return match.by("list" if number is None else "number")
    if is_plain_words(gold):
        equal = same_words(answer, gold)
        return Match(equal, "the same words" if equal else "other words", "words")
    if len(canonical(gold)) <= 3 and letters_named(gold) is not None:
        return Match(False, "no option named", "letter")
    return _compare_mathematics(answer, key, gold).by("mathematics")


def _compare_options(answer: str, key: AnswerKey, gold_options: frozenset[int]) -> Match:
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
        return Match(False, "no option named")
    texts = option_texts(named, key.choices)
    if texts == option_texts(gold_options, key.choices):
        return Match(True, "the right option" if len(gold_options) == 1 else "the right options")
    return Match(False, "another option" if len(texts) == 1 else "several options named")


def _compare_letters(answer: str, gold: str) -> Match | None:
    """A gold that is a letter (or several) of options that the row does not list."""
    if not _ONLY_LETTERS.match(canonical(gold)):
        return None
    gold_letters = letters_named(gold) or joined_letters(gold)
    letters = letters_named(answer) or letters_before_text(answer) or joined_letters(answer, any_order=True)
    if gold_letters is None or letters is None:
        return None
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
