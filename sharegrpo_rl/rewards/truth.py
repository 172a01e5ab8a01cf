"""Ground truths are checked when data is loaded, so that training never meets one that cannot be graded."""

from __future__ import annotations

from sharegrpo_rl.data.types import SeedQuestion
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.rewards.canonical import canonical
from sharegrpo_rl.rewards.choices import letters_named, resolve
from sharegrpo_rl.rewards.compare import gold_span
from sharegrpo_rl.rewards.quantities import parse_quantity
from sharegrpo_rl.rewards.yes_no import parse_boolean

_MAX_CHARACTERS = 2_000
_NUMERIC = {"numeric", "number", "integer", "float"}
_VERDICTS = {"true_false", "yes_no", "boolean"}
_OPTIONS = {"multiple_choice", "multi_choice", "choice"}


def ground_truth_fault(question: SeedQuestion) -> str | None:
    """What makes the answer ungradable, in words; None where nothing does."""
    answer = question.answer
    if not isinstance(answer, str) or not answer.strip():
        return "the answer is empty"
    gold = gold_span(answer)
    if len(gold) > _MAX_CHARACTERS:
        return f"the answer has {len(gold)} characters, and {_MAX_CHARACTERS} is the most"
    if not canonical(gold):
        return f"the answer {answer[:60]!r} holds nothing that could be compared"
    if gold.count("{") != gold.count("}"):
        return f"the braces of the answer {answer[:60]!r} do not match"
    return _kind_fault(question, gold)


def _kind_fault(question: SeedQuestion, gold: str) -> str | None:
    kind = (question.answer_type or "").lower()
    if question.choices and not resolve(gold, question.choices):
        return f"the answer {gold[:60]!r} is none of the {len(question.choices)} choices, neither by letter nor by text"
    if question.choices:
        return None
    if kind in _NUMERIC and parse_quantity(gold) is None:
        return f"the answer {gold[:60]!r} is no number, and answer_type says {kind}"
    if kind in _VERDICTS and parse_boolean(gold) is None:
        return f"the answer {gold[:60]!r} is neither yes/no nor true/false, and answer_type says {kind}"
    if kind in _OPTIONS and letters_named(gold) is None:
        return f"the answer {gold[:60]!r} is no letter and there are no choices, and answer_type says {kind}"
    return None


def check_ground_truth(question: SeedQuestion) -> None:
    """Raise UserError, naming the row, where its answer cannot be graded."""
    if fault := ground_truth_fault(question):
        raise UserError(f"row {question.id}: {fault}; correct the row or leave it out")
