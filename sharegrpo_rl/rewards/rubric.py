"""The rubric: accuracy, format, step and user rewards of a question's completions, weighed into one total."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sharegrpo_rl.config.registry import MEASURED, REWARDS, register_reward
from sharegrpo_rl.data.types import SeedQuestion
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.grader import AnswerFormat, AnswerKey, Verdict, failure, find_format, grade, question_key

S = TypeVar("S")
T = TypeVar("T")

__all__ = ["Rubric", "Score", "grade_completion", "register_reward"]


@dataclass(frozen=True)
class Score:
    """`total` is the weighted sum of `parts`; a part that could not be scored is left out and named in `unscored`."""

    total: float
    parts: dict[str, float]
    extracted: str | None = None
    error: str | None = None
    unscored: tuple[str, ...] = field(default=())


def grade_completion(completion: str, key: AnswerKey, form: AnswerFormat) -> Verdict:
    """Grade by the run's own format: without its answer span the accuracy is 0, which is no error."""
    return grade(completion, key, extract=form)


def _columns(question: SeedQuestion, count: int) -> dict[str, list[Any]]:
    known = {
        "prompts": question.question,
        "id": question.id,
        "question": question.question,
        "answer": question.answer,
        "solution": question.solution,
        "choices": question.choices,
        "answer_type": question.answer_type,
        "unit": question.unit,
        "precision": question.precision,
        "key_steps": question.key_steps,
        "task": question.task,
        "subtask": question.subtask,
    }
    return {name: [value] * count for name, value in {**question.extra, **known}.items() if name != "completions"}


def _guarded(rule: Callable[[S], T], argument: S, i: int, errors: list[str | None]) -> T | None:
    """The rule's value; None where it fails, which is the error of completion `i` unless it has one."""
    try:
        return rule(argument)
    except Exception as error:  # whatever it is: one completion must not end a run, and is counted
        errors[i] = errors[i] or failure(error)
        return None


class Rubric:
    """Weighs named rewards. Accuracy and format are always measured, whatever their weight."""

    def __init__(self, weights: Mapping[str, float], answer_format: str = "think_answer") -> None:
        self.form = find_format(answer_format)
        self.weights = dict(weights)
        for name, weight in self.weights.items():
            REWARDS.check(name, f"rewards.{name}")
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
                raise UserError(f"the weight of reward {name!r} must be a finite number, not {weight!r}")
        if not any(self.weights.values()):
            raise UserError("`rewards` gives no reward a weight; for example accuracy: 0.9, format: 0.1")
        self._further = {name: REWARDS.load(name) for name in self.weights if name not in MEASURED}

    def score(
        self, completions: Sequence[str], question: SeedQuestion, truncated: Sequence[bool] | None = None
    ) -> list[Score]:
        """Scores of a question's completions, in order; a truncated completion is never well-formed.

        Only a user's own reward can raise: where a rule of ours fails, the completion's `error` says so.
        """
        key, cut = question_key(question), list(truncated or [False] * len(completions))
        verdicts = [grade_completion(completion, key, self.form) for completion in completions]
        errors = [verdict.error for verdict in verdicts]
        formats = [
            float(not cut[i] and _guarded(self.form.matches, completion, i, errors) is True)
            for i, completion in enumerate(completions)
        ]
        extra = {name: self._further_values(name, completions, question, cut, errors) for name in self._further}
        scores = []
        for i, verdict in enumerate(verdicts):
            parts = {"accuracy": verdict.score, "format": formats[i]}
            values = {name: values[i] for name, values in extra.items()}
            parts |= {name: value for name, value in values.items() if value is not None}
            total = sum(self.weights.get(name, 0.0) * value for name, value in parts.items())
            unscored = tuple(name for name, value in values.items() if value is None)
            scores.append(Score(total, parts, verdict.extracted, errors[i], unscored))
        return scores

    def _further_values(
        self,
        name: str,
        completions: Sequence[str],
        question: SeedQuestion,
        cut: Sequence[bool],
        errors: list[str | None],
    ) -> list[float | None]:
        def values_of(completions: Sequence[str], cut: Sequence[bool]) -> list[float | None]:
            columns = {**_columns(question, len(completions)), "truncated": list(cut), "answer_format": self.form.name}
            return list(self._further[name](completions=list(completions), **columns))

        def value_of(i: int) -> float | None:
            return values_of([completions[i]], [cut[i]])[0]

        if name in REWARDS.user_functions:
            values = values_of(completions, cut)
        else:
            values = [_guarded(value_of, i, i, errors) for i in range(len(completions))]
        if len(values) != len(completions):
            raise UserError(f"reward {name!r} returned {len(values)} values for {len(completions)} completions")
        return [None if value is None or not math.isfinite(value) else float(value) for value in values]
