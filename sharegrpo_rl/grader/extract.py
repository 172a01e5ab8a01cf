"""The answer of a response, found before it is graded: in answer tags, a box, a final section, or free prose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from sharegrpo_rl.grader import text as spans
from sharegrpo_rl.grader.choices import letters_named
from sharegrpo_rl.grader.compare import gold_span, is_plain_words
from sharegrpo_rl.grader.formats import stated_answers
from sharegrpo_rl.grader.key import AnswerKey
from sharegrpo_rl.grader.lists import parse_sequence
from sharegrpo_rl.grader.moments import gold_moment
from sharegrpo_rl.grader.numbers import parse_quantity
from sharegrpo_rl.grader.prose import announcements, response_text, sentences
from sharegrpo_rl.grader.prose_options import settled_option, settled_verdict
from sharegrpo_rl.grader.prose_values import settled_moment, settled_value
from sharegrpo_rl.grader.text import parse_boolean

ExtractMode = Literal["auto", "answer", "boxed", "steps", "free"]
EXTRACT_MODES: tuple[str, ...] = get_args(ExtractMode)


@dataclass(frozen=True)
class Extraction:
    """`answers` in order (several are several claims), and where they stood."""

    answers: tuple[str, ...]
    place: str


def extract_answers(response: str, key: AnswerKey, mode: ExtractMode = "auto") -> Extraction:
    """Answers outside the thinking part. `auto` prefers tags to boxes and boxes to prose.

    Of the key only the kind of answer asked for (number, option, yes/no, words) is used, never its value.
    """
    if mode == "steps":  # this layout has no thinking part
        return Extraction(tuple(dict.fromkeys(stated_answers(response))), "final answer section")
    visible = spans.after_thinking(response)
    if mode in ("auto", "answer"):
        answers = tuple(dict.fromkeys(spans.unboxed(answer) for answer in spans.tagged(visible)))
        if answers or mode == "answer":
            return Extraction(tuple(a for a in answers if a), "answer tags")
    if mode in ("auto", "boxed"):
        found = _boxed(visible, key, lenient=mode == "auto")
        if found is not None:
            return found
        if mode == "boxed":
            return Extraction((), "box")
    if mode == "auto" and (rest := spans.unclosed_answer(visible)):
        return Extraction((rest,), "unclosed answer tag")
    settled = settled_answer(visible, key)
    return Extraction((settled,) if settled else (), "prose")


def _boxed(visible: str, key: AnswerKey, *, lenient: bool) -> Extraction | None:
    boxes = tuple(dict.fromkeys(spans.boxes(visible)))
    if not boxes:
        return None
    last = visible.rfind("\\boxed")
    later = [tail for tail, final, place in announcements(visible) if final and place > last]
    if lenient and later and not spans.boxes(visible[last:])[1:] and (settled := settled_answer(visible[last:], key)):
        return Extraction((settled,), "final answer after the box")  # the sentence that says so outranks an earlier box
    return Extraction(boxes, "box")


def settled_answer(text: str, key: AnswerKey) -> str | None:
    """What free prose ends on, read as the kind of answer that the key asks for."""
    text = response_text(text)
    if not text:
        return None
    gold = gold_span(key.gold)
    if key.choices:
        return settled_option(text, key.choices, key.question)
    if gold_moment(gold, key.question) is not None:
        return settled_moment(text)
    if parse_boolean(gold) is not None:
        verdict = settled_verdict(text, key.question)
        return None if verdict is None else ("yes" if verdict else "no")
    if letters_named(gold) is not None and len(gold) <= 4:
        return settled_option(text, tuple(f"option {i}" for i in range(26)), key.question)
    numeric = parse_quantity(gold) is not None
    if not numeric and parse_sequence(gold) is None and is_plain_words(gold):
        tails = announcements(text)
        return tails[-1][0] if tails else sentences(text)[-1]
    return settled_value(text, key.question, numeric=numeric)
