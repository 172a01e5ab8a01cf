"""Greedy accuracy on the first questions of the test split, in their fixed order: the same figure on every call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from sharegrpo_rl.data.types import SeedQuestion
from sharegrpo_rl.envs.multimodal_qa import MultimodalQAEnv
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.evaluation.report import EvaluationRecord, EvaluationReport, GeneratedText, make_report
from sharegrpo_rl.rewards.rubric import Score

ShownQuestion: TypeAlias = tuple[str, tuple[NDArray[np.uint8], ...]]  # text, images [H, W, 3]
Generate: TypeAlias = Callable[[list[ShownQuestion]], list[GeneratedText]]


def evaluate(
    env: MultimodalQAEnv, generate: Generate, *, limit: int = 500, batch: int = 128, blind: bool = False
) -> EvaluationReport:
    """Question i in wording i mod (its number of wordings), one greedy completion each, no transforms.

    `blind` shows every question with the images of another one of its kind: what the text alone earns.
    """
    number = min(limit, len(env.bank))
    if number < 1:
        raise UserError(f"{env.bank.name} ({env.bank.split}): there is no question to evaluate; raise the limit")
    records: list[EvaluationRecord] = []
    for indices in _batches(range(number), batch):
        shown = [_show(env, index, blind=blind) for index in indices]
        completions = generate(shown)
        if len(completions) != len(shown):
            raise RuntimeError(f"asked for {len(shown)} completions, got {len(completions)}")
        records += [_grade(env, i, completion) for i, completion in zip(indices, completions, strict=True)]
    return make_report(records, env.rubric.form.name, blind=blind)


def _batches(indices: range, size: int) -> Iterator[range]:
    return (indices[start : start + size] for start in range(0, len(indices), size))


def _wording(question: SeedQuestion, index: int) -> int:
    return index % len(question.wordings)


def _show(env: MultimodalQAEnv, index: int, *, blind: bool) -> ShownQuestion:
    wording = _wording(env.bank[index], index)
    observation, _ = env.reset(options={"question_index": index, "variant_index": wording, "blind": blind})
    return observation["question"], observation["images"]


def _grade(env: MultimodalQAEnv, index: int, completion: GeneratedText) -> EvaluationRecord:
    question = env.bank[index]
    score: Score
    (score,) = env.rubric_of(question).score([completion.text], question, [completion.truncated])
    return EvaluationRecord(
        question_id=question.id,
        question_index=index,
        subtask=question.subtask,
        wording=_wording(question, index),
        extracted=score.extracted,
        gold=question.answer,
        accuracy=float(score.parts["accuracy"]),
        format_ok=score.parts["format"] >= 1.0,
        truncated=completion.truncated,
        num_tokens=completion.num_tokens,
        text=completion.text,
        error=score.error,
        task=question.task,
    )
