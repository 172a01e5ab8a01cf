"""Grading one response: extract the answer, compare it with the gold, and say why. Never raises on what a model wrote."""

from __future__ import annotations

import logging
import re
import traceback
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from sharegrpo_rl.data.types import SeedQuestion
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.grader.algebra import closed_value, same_expression, same_name
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
from sharegrpo_rl.grader.key import AnswerKey, GraderError, Kind, Match
from sharegrpo_rl.grader.lists import (
    compare_labels,
    compare_lists,
    compare_numbered,
    compare_remainders,
    flipped,
    parse_list,
)
from sharegrpo_rl.grader.numbers import Quantity, compare_numbers, parse_quantity, split_unit
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
from sharegrpo_rl.grader.symbolic import compare_symbolic, is_huge, nested_too_deeply
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
    if not canonical(gold) and not (len(gold) == 1 and unicodedata.category(gold).startswith("S")):
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
# mathematics last. Where the grader itself fails, `_compare` and what it calls raise GraderError. The kind of a match is
# the branch of `_compare` that it came from.

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
_ONLY_LETTERS = re.compile(r"^\s*(?:\(?[A-Z]\)?)(?:\s*(?:,|;|\n|and)?\s*\(?[A-Z]\)?){0,7}\s*\.?\s*$|^\(?[a-h]\)?$")
_LETTER = re.compile(r"(?<![A-Za-z])[A-Z](?![a-z])|(?<=[A-Z])[A-Z](?![a-z])")
_NUMBER_IN_BASE = re.compile(r"^\w+_\{?\d+\}?$")
_TWO_EQUATIONS = re.compile(r"(?<![A-Za-z\\])([A-Za-z](?:\([a-z]\))?)\s*=[^=]*[^A-Za-z=]\1\s*=")  # y = x | y = 2x
_UNKNOWN = re.compile(r"(?<![\\A-Za-z])[A-Za-z](?![A-Za-z])")
_BOUND_LETTERS = re.compile(r"\\(?:int|sum|prod|lim)|=|\\circ")  # letters that a value need not depend on
_WORD = re.compile(
    r"(?<![\\A-Za-z])(?!(?:arc)?(?:sin|cos|tan|cot|sec|csc)|(?:log|ln|exp|mod|lim|max|min|gcd|lcm)(?![a-z]{2}))[A-Za-z]{2,}"
)
_NAMED = re.compile(
    r"^(?P<name>(?:\\?[A-Za-zΑ-ω]{1,8}|\\frac\{d\^?\{?\w?\}?\s*\w\}\{d\w\^?\{?\w?\}?\})"
    r"(?:_(?:\{[^{}]{1,20}\}|\\?\w{1,8}))?'{0,2}(?:\^\{?-1\}?)?(?:\(\s*[a-z]\s*\))?)\s*=\s*(?=\S)"
)
_OPEN_CALCULATION = re.compile(
    r"\\(?:sum|prod|i{0,2}int|oint|lim|det)(?![a-z])|\\frac\s*\{\s*(?:d|\\partial)\s*\}|(?<![A-Za-z])d/dx"
)
_LISTED_OPTIONS = re.compile(r"(?:^|\s)\(?A[.):、]\s.*(?:^|\s)\(?B[.):、]\s", re.DOTALL)
_INEQUALITY = re.compile(r"[<>]")
_MAX_SIDES = 6
_OPERATION = re.compile(r"[-+*/^]|\\?(?:frac|sqrt|sum|prod|int|lim|log|ln|sin|cos|tan|binom)")


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
        return Match(True, "the same text", "text")  # even where it is one sign, such as ×
    answer, gold = undressed(answer), undressed(gold)
    if answer.endswith(("?", "？")) and not gold.endswith(("?", "？")) and answer not in key.choices:
        return Match(False, "a question")
    gold_options = named_options(gold, key.choices)
    if gold_options:  # where options fall together, case and signs tell them apart
        return _compare_options(answer, key, gold_options).by("option")
    if normalized(answer) and normalized(answer) == normalized(gold):
        return Match(True, "the same text", "text")
    if nested_too_deeply(answer):
        return Match(False, "nested too deeply to be an answer")
    return _compare_named(answer, gold, key) or _compare_values(answer, gold, key)


def _compare_values(answer: str, gold: str, key: AnswerKey) -> Match:
    """Numbers, lists, words and mathematics: the first of these that the gold is."""
    number = parse_quantity(gold)
    match = (
        compare_labels(answer, gold)
        or compare_numbered(answer, gold, key)
        or compare_remainders(answer, gold)
        or (compare_lists(answer, gold, key) if number is None else _compare_quantity(answer, key, number))
    )
    if match is not None:
        return match.by("list" if number is None else "number")
    if is_plain_words(gold):
        equal = same_words(answer, gold)
        return Match(equal, "the same words" if equal else "other words", "words")
    if len(canonical(gold)) <= 3 and letters_named(gold) is not None:
        return Match(False, "no option named", "letter")
    return _compare_mathematics(answer, key, gold).by("mathematics")


def _compare_named(answer: str, gold: str, key: AnswerKey) -> Match | None:
    """A gold that is a verdict, a letter, a value with a name, a moment or a formula; None for any other."""
    if (gold_boolean := parse_boolean(gold)) is not None:
        equal = parse_boolean(answer, verbose=True) is gold_boolean
        return Match(equal, "the right verdict" if equal else "another verdict or none", "verdict")
    if (match := _compare_letters(answer, gold, key)) is not None:
        return match.by("letter")
    if (labelled := labelled_text(gold)) is not None:
        return _compare_labelled(answer, *labelled, key)
    if (name := named_value(gold)) is not None and named_value(answer) == name:
        return Match(True, f"{name} by another name", "name")
    if (moment := gold_moment(gold, key.question)) is not None:
        equal = same_moment(answer, moment)
        if equal or moment.kind in ("time", "date"):  # `May` and `Sun` are words too
            return Match(equal, "the same moment" if equal else "another moment or none", "moment")
    if (compound := formula(gold)) is not None and (other := formula(answer)) is not None:
        return Match(other == compound, "the same formula" if other == compound else "another formula", "name")
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
    value = offered if "=" in answer else _named(offered)[1]
    return _compare_mathematics(answer, AnswerKey(value, question=key.question), value).equal


def _compare_letters(answer: str, gold: str, key: AnswerKey) -> Match | None:
    """A gold that is a letter (or several) of options that the row does not list."""
    if not _ONLY_LETTERS.match(canonical(gold)):
        return None
    gold_letters = letters_named(gold) or joined_letters(gold)
    letters = letters_named(answer) or letters_before_text(answer) or joined_letters(answer, any_order=True)
    if gold_letters is None or letters is None:
        return None
    order, gold_order = (_LETTER.findall(canonical(text)) for text in (answer, gold))
    is_ordered = gold_order != sorted(gold_order) or _ORDER_OF_LETTERS.search(key.question)
    if letters == gold_letters and is_ordered and order != gold_order and len(gold_order) > 1:
        return Match(False, "the right letters in another order")
    if letters == gold_letters and order != gold_order and letters.isdisjoint("ABCDEFGH"):
        return Match(False, "another letter")  # r is not R, where neither is an option
    return Match(letters == gold_letters, "the right letter" if letters == gold_letters else "another letter")


def _compare_quantity(answer: str, key: AnswerKey, gold: Quantity) -> Match | None:
    if gold.unit is None and key.unit:
        gold = replace(gold, unit=split_unit(f"1 {key.unit}")[1])
    if (match := compare_numbers(answer, key, gold)) is not None:
        return match
    parts = parse_list(answer)
    if parts is not None and len(parts.items) > 1:
        return Match(False, "several answers where one is right")
    if _is_no_number(answer):
        return Match(False, "words or unknowns where a number is expected")
    return _compare_functions(answer, gold)


def _is_no_number(answer: str) -> bool:
    """Whether the answer holds a word or an unknown, which mathematics would take for a product of letters."""
    plain = canonical(answer)
    unknowns = set(_UNKNOWN.findall(plain)) - {"e", "i"} if not _BOUND_LETTERS.search(plain) else set()
    return bool(unknowns) or _WORD.search(plain) is not None


def _compare_functions(answer: str, gold: Quantity) -> Match | None:
    """`\\ln 2` and the like are numbers; a whole number or a fraction that is left as one is not worked out."""
    plain = canonical(answer)
    value = closed_value(plain)
    if value is None:
        return Match(False, "the calculation is not worked out") if _OPEN_CALCULATION.search(plain) else None
    distance = abs(value - float(gold.value))
    equal = distance <= 1e-9 * abs(value)
    if not equal and distance <= 1e-5 * abs(value):
        return None  # too close for floats
    if equal and gold.worked_out and isinstance(gold.value, Fraction):
        return Match(False, "the calculation is not worked out")
    return Match(equal, "equal numbers" if equal else "another number")


def _compare_mathematics(answer: str, key: AnswerKey, gold: str) -> Match:
    if (refusal := _several_or_another_kind(answer, gold)) is not None:
        return Match(False, refusal)
    reverse = flipped(answer)
    if reverse is not None and normalized(reverse) == normalized(gold):
        return Match(True, "the same relation")
    plain, plain_gold = canonical(answer), canonical(gold)
    if _NUMBER_IN_BASE.search(plain_gold):
        return Match(False, "another number or base")
    if "=" in plain and "=" not in plain_gold:
        answer = plain = _end_of_chain(plain)
    if _OPEN_CALCULATION.search(plain) and not _OPEN_CALCULATION.search(plain_gold):
        return Match(False, "the calculation is not worked out")
    if _said_back(answer, key.question):
        return Match(False, "the question said back")
    return _compare_by_name(answer, key, gold)


def _several_or_another_kind(answer: str, gold: str) -> str | None:
    """Why the answer is no single expression or equation, where the gold is one."""
    parts = parse_list(answer)
    plain, plain_gold = canonical(answer), canonical(gold)
    if parse_list(gold) is None and parts is not None and not parts.opening and parse_quantity(gold) is None:
        return "several answers where one is right"
    if _TWO_EQUATIONS.search(plain) and not _TWO_EQUATIONS.search(plain_gold):
        return "two equations where one is right"
    if "=" in plain and "=" not in plain_gold and parse_quantity(plain.partition("=")[0]) is not None:
        return "an equation where an expression is right"
    if "=" in plain_gold and not _INEQUALITY.search(plain_gold) and _INEQUALITY.search(plain):
        return "an inequality where an equation is right"
    return None


def _end_of_chain(plain: str) -> str:
    """`2x` of `\\frac{d}{dx} x^2 = 2x` and of `x + x = 2x`: the result of a calculation; any other text as it is."""
    head, _, result = plain.rpartition("=")
    sides = [side.strip() for side in plain.split("=")]
    is_true = len(sides) <= _MAX_SIDES and all(same_expression(side, sides[-1]) for side in sides[:-1])
    return result.strip() if is_true or _OPEN_CALCULATION.search(head) else plain


def _compare_by_name(answer: str, key: AnswerKey, gold: str) -> Match:
    """`y = 2x`, `f(x) = 2x` and `2x` say the same; names that contradict each other make them two equations."""
    plain, plain_gold = canonical(answer), canonical(gold)
    (name, value), (gold_name, gold_value) = _named(plain), _named(plain_gold)
    are_equations = gold_name is None and ("=" in plain_gold or (name is not None and not _may_name(name, plain_gold)))
    if are_equations or name is gold_name is None or (gold_name and "=" in value) or not same_name(name, gold_name):
        return compare_symbolic(answer, key, gold)
    if normalized(value) == normalized(gold_value):
        return Match(True, "the same value by name")
    if name is None or gold_name is None or normalized(name) == normalized(gold_name):
        return compare_symbolic(value, key, gold_value)
    return compare_symbolic(answer, key, gold)


def _said_back(answer: str, question: str) -> bool:
    """Whether the answer is an expression of the question, which lists no options."""
    plain = normalized(answer)
    return bool(_OPERATION.search(plain[1:])) and plain in normalized(question) and not _LISTED_OPTIONS.search(question)


def _named(plain: str) -> tuple[str | None, str]:
    """`y = 2x`, `f(x) = 2x`, `I_{\\max} = q/2`, `\\frac{dy}{dx} = 2x` as a name and a value; (None, text) for any other."""
    match = _NAMED.match(plain) if plain.count("=") == 1 and not re.search(r"[<>!]", plain) else None
    return (match["name"], plain[match.end() :]) if match else (None, plain)


def _may_name(name: str, plain_gold: str) -> bool:
    """`y`, `f(x)`, or a letter that the gold does not hold."""
    return name == "y" or "(" in name or re.search(rf"(?<![A-Za-z\\]){re.escape(name)}", plain_gold) is None
