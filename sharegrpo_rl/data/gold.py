"""The ground truth of a row: one function, `read_gold`, takes it out of every form in which data sets write it.

The forms, tried in this order on a text: behind `</think>`, in `<answer>` tags, behind `### The final answer is:`,
behind GSM8K's `####`, in `\\boxed{}`, behind "the answer is". What stands before it is the worked solution. Beside
choices a number is the choice of that value, else an index. Each conversion is noted by its kind.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from typing import Any

from sharegrpo_rl.data.columns import is_missing
from sharegrpo_rl.errors import UserError

FINAL_HEADING = "### The final answer is:"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MAX_WORDS = 40  # of a ground truth; a longer text is a solution, which no answer equals
_TAG = re.compile(r"</?(?:think|thinking|reasoning|answer)>", re.IGNORECASE)
_THOUGHT_END = re.compile(r"</(?:think|thinking|reasoning)>", re.IGNORECASE)
_ANSWER = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.IGNORECASE | re.DOTALL)
_HASHES = re.compile(r"(?<!#)####(?!#)[^\S\n]*(\S[^\n]*)\s*\Z")
_ANNOUNCED = re.compile(
    r"(?:\b(?:final |correct )?answer\*{0,2}(?: is\b\s*:?|\s*[:=])|答案(?:是|为|：|:))[^\S\n]*(?P<answer>\S[^\n]*)",
    re.IGNORECASE,
)
_NEXT_SENTENCE = re.compile(r"(?<=[^A-Z\s])\.\s+(?=[A-Z]).*")  # "D. Green" is one answer
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_WORD = re.compile(r"(?<!\\)\b[^\W\d_]{2,}")
_CLOSED = {"yes", "no", "true", "false"}
_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_NUMBER = re.compile(
    r"\$?\s*(?P<number>[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d*)?(?:[eE][-+]?\d{1,3})?)(?:\s*/\s*(?P<below>\d{1,9}))?"
    r"\s*(?P<unit>[^\d+\-*/^=]{0,24}[²³]?)"
)
_SENTENCE_END = (".", "!", "。")
_SENTENCE_WORDS = 4  # "There are two dots."


class Note(StrEnum):
    """What was done to a row while it was read, in the words of the report."""

    TAGS = "ground truths taken out of <answer> tags"
    AFTER_THOUGHT = "ground truths taken from behind </think>"
    HEADING = f"ground truths taken from behind {FINAL_HEADING!r}"
    HASHES = "ground truths taken from behind ####"
    BOX = "ground truths taken out of \\boxed{}"
    ANNOUNCED = 'ground truths taken from behind "the answer is"'
    INDEX = "ground truths that are an index into the choices, counted from 0, read as its letter"
    VALUE = (
        "ground truths that are a choice's value and could be an index, read as the value (write letters to be sure)"
    )
    LABELS = "choices that began with their own letters, which are shown once"
    SENTENCE = "ground truths that are a sentence, which only the same words equal"
    THOUGHT = "worked solutions cut down to their thought, without tags and answer"
    SYSTEM = "system turns put before their question, in the user turn"
    BASE64 = "pictures decoded from base64 text"


@dataclass(frozen=True)
class Gold:
    """The ground truth as it is graded; `worked` is the solution that stood around it, `notes` what was converted."""

    answer: str
    worked: str | None = None
    notes: tuple[Note, ...] = ()


def read_gold(value: Any, choices: tuple[str, ...], where: str, *, last_box: bool = False) -> Gold:
    """The ground truth in a cell; UserError naming `where` and what to write instead.

    `last_box`: the cell is a worked solution, whose last box is the answer; else several different boxes are one answer.
    """
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if is_missing(value):
        raise UserError(f"{where} is empty; give the ground truth or drop the row")
    if isinstance(value, bool):
        gold = Gold("true" if value else "false")
    elif isinstance(value, int | float | Decimal):
        gold = _number(value, choices, where)
    elif isinstance(value, str):
        gold = _text(value, where, last_box)
    else:
        raise UserError(f"{where} is a {type(value).__name__}, not one answer; store a text or a number")
    label = gold.answer.strip("(). ").upper()
    if len(label) == 1 and label in LETTERS[: len(choices)] and not choices[LETTERS.index(label)]:
        raise UserError(f"{where} is {gold.answer!r}, and choice {label} is empty; correct the row")
    return gold


def _number(value: float | Decimal, choices: tuple[str, ...], where: str) -> Gold:
    """A number, which beside choices is the choice of that value or, where none is, an index."""
    if not math.isfinite(value):
        raise UserError(f"{where} is {value}, which no answer can equal; give the ground truth or drop the row")
    text = str(value)
    if not choices:
        return Gold(text)
    index = int(value) if value == int(value) and 0 <= value < len(choices) else None
    equal = [choices.index(text)] if text in choices else choices_equal_to(value, choices)
    if len(equal) > 1:
        named = ", ".join(repr(choices[place]) for place in equal)
        raise UserError(f"{where} is {text}, which several choices are ({named}); write the letter of the right one")
    if equal:
        return Gold(choices[equal[0]], notes=(Note.VALUE,) if index not in (None, *equal) else ())
    if index is None:
        return Gold(text)
    return Gold(choices[index] if are_closed(choices) else LETTERS[index], notes=(Note.INDEX,))


def _text(text: str, where: str, last_box: bool) -> Gold:
    answer, worked, note = _final_answer(text.strip(), where, last_box)
    if not answer:
        raise UserError(f"{where} is empty; give the ground truth or drop the row")
    if tag := _TAG.search(answer):
        raise UserError(f"{where} holds {tag.group()} without its pair; write <answer>...</answer> once, or no tags")
    words = len(_WORD.findall(answer))
    if words > MAX_WORDS:
        raise UserError(
            f"{where} is a text of {words} words, which no answer can equal; give the final answer alone, "
            "or mark it in the text: <answer>...</answer>, \\boxed{...}, or #### ... at the end"
        )
    if note is None and words >= _SENTENCE_WORDS and (answer.endswith(_SENTENCE_END) or "\n" in answer):
        note = Note.SENTENCE
    return Gold(answer, worked, () if note is None else (note,))


def _final_answer(text: str, where: str, last_box: bool) -> tuple[str, str | None, Note | None]:
    """(answer, what was worked out before it, how it was found)."""
    thought, rest = _split_at_thought(text)
    if answers := [found.strip() for found in _ANSWER.findall(rest) or _ANSWER.findall(text)]:
        if len(set(answers)) > 1:
            raise UserError(f"{where} has {len(answers)} different <answer> parts; keep the right one")
        return _unboxed(answers[0]), thought_of(text), Note.TAGS
    before, heading, after = rest.rpartition(FINAL_HEADING)
    if heading and after.strip():
        return _unboxed(after.strip()), rest, Note.HEADING
    if match := _HASHES.search(rest):
        return match.group(1).strip(), thought or rest[: match.start()].strip() or None, Note.HASHES
    boxes = all_boxed(rest)
    if boxes and (last_box or len(set(boxes)) == 1):
        return _unboxed(boxes[-1].strip()), thought or (None if _unboxed(rest) != rest else rest), Note.BOX
    if (announced := list(_ANNOUNCED.finditer(rest))) and not boxes:
        match = announced[-1]
        before = rest[: match.start()].rpartition("\n")[0].strip()
        answer = _NEXT_SENTENCE.sub("", match["answer"]).strip("* ").removesuffix(".")
        return answer, thought or before or None, Note.ANNOUNCED
    return rest, thought, None if rest == text else Note.AFTER_THOUGHT


def thought_of(worked: str) -> str | None:
    """A worked solution without tags and without its answer part: what a format may put between `<think>` tags.

    None where nothing but the answer is in it.

    >>> thought_of("<think>Two and one.</think><answer>3</answer>"), thought_of("So <answer>3</answer>")
    ('Two and one.', 'So')
    """
    if not _TAG.search(worked):
        return worked
    thought, rest = _split_at_thought(worked)
    if thought:
        return thought
    return _TAG.sub("", _ANSWER.sub("", rest)).strip() or None


def _split_at_thought(text: str) -> tuple[str | None, str]:
    """The thought before the last `</think>`, None without one or with an empty one; and the rest.

    The opening tag may be missing: some templates put it into the prompt.
    """
    if not (ends := list(_THOUGHT_END.finditer(text))):
        return None, text
    before = _ANSWER.sub("", text[: ends[-1].start()])
    return _TAG.sub("", before).strip() or None, text[ends[-1].end() :].strip()


def _unboxed(answer: str) -> str:
    """The content of a box that is all of the answer, and of a box in it."""
    while (match := _BOX.match(bare := answer.strip("$. "))) and all_boxed(bare) == [bare[match.end() : -1]]:
        answer = bare[match.end() : -1].strip()
    return answer


def last_boxed(text: str) -> str | None:
    """The contents of the last \\boxed{...} of a text, braces balanced; None without one."""
    boxes = all_boxed(text)
    return boxes[-1] if boxes else None


def all_boxed(text: str) -> list[str]:
    """The contents of every outermost \\boxed{...} in order; [] where the last is not closed."""
    contents = []
    position = 0
    while match := _BOX.search(text, position):
        first = position = match.end()
        depth = 1
        while depth and position < len(text):
            depth += {"{": 1, "}": -1}.get(text[position], 0)
            position += 1
        if depth:
            return []
        contents.append(text[first : position - 1])
    return contents


# ---- Choices, and which of them a number is.


def are_closed(choices: Sequence[str]) -> bool:
    """Are these the answers of a yes/no or true/false question, which nobody needs to be shown?"""
    return {choice.lower() for choice in choices} <= _CLOSED


def choices_equal_to(number: float | Decimal, choices: Sequence[str]) -> list[int]:
    """The places of the choices that are this number in any form: `2`, `2.0`, `2 cm`, `$2$`, `4/2`, `two`.

    >>> choices_equal_to(2, ["1 cm", "2 cm", "red"]), choices_equal_to(1000, ["1,000.0", "10"])
    ([1], [0])
    """
    wanted = Fraction(str(number))
    return [place for place, choice in enumerate(choices) if _number_in(choice) == wanted]


def _number_in(choice: str) -> Fraction | None:
    if choice.lower() in _WORDS:
        return Fraction(_WORDS.index(choice.lower()))
    match = _NUMBER.fullmatch(choice)
    if match is None or not any(character.isdigit() for character in match["number"]):
        return None
    try:
        number = Fraction(match["number"].replace(",", ""))
    except ValueError:  # an exponent without a number before it
        return None
    below = int(match["below"] or 1)
    return number / below if below else None
