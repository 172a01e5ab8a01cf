"""Accuracy on the first questions of the test split, in their fixed order: the same figures on every call."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from sharegrpo_rl.data.benchmarks.rows import facts_of
from sharegrpo_rl.data.types import Completion
from sharegrpo_rl.data.variants import derive_seed
from sharegrpo_rl.envs.multimodal_qa import MultimodalQAEnv
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.evaluation.folder import EvaluationFolder
from sharegrpo_rl.evaluation.report import EvaluationRecord, EvaluationReport, GeneratedText, make_report, wording_of
from sharegrpo_rl.evaluation.verdict import FORMAT, extractor_name, grade, grade_sample
from sharegrpo_rl.generation.generator import Generator, Sampling
from sharegrpo_rl.generation.hf import HFGenerator
from sharegrpo_rl.models.policy import Policy
from sharegrpo_rl.models.prompts import PromptEncoder, Question

ShownQuestion: TypeAlias = tuple[str, tuple[NDArray[np.uint8], ...]]  # text, images [H, W, 3]
Generate: TypeAlias = Callable[[list[ShownQuestion]], list[GeneratedText]]
Sample: TypeAlias = Callable[[list[ShownQuestion], list[int]], list[list[GeneratedText]]]  # one seed a question


def evaluate(
    env: MultimodalQAEnv,
    generate: Generate,
    *,
    limit: int = 500,
    batch: int = 128,
    blind: bool = False,
    sample: Sample | None = None,
    seed: int = 0,
    extract: str = FORMAT,
    folder: EvaluationFolder | None = None,
) -> EvaluationReport:
    """Question i in wording i mod (its number of wordings), one greedy completion each, no transforms.

    `blind` shows every question with the images of another one of its kind: what the text alone earns.
    `sample` adds sampled completions, seeded by `seed` and the question alone.
    `folder` keeps the records of each batch, and has those of an evaluation that was stopped.
    """
    number = min(limit, len(env.bank))
    if number < 1:
        raise UserError(f"{env.bank.name} ({env.bank.split}): there is no question to evaluate; raise the limit")
    records = [] if folder is None else folder.completed_batches()
    for start in range(len(records), number, batch):
        indices = range(start, min(start + batch, number))
        shown = [_show(env, index, blind=blind) for index in indices]
        greedy = generate(shown)
        seeds = [derive_seed("evaluate", seed, index) for index in indices]
        sampled = [[] for _ in shown] if sample is None else sample(shown, seeds)
        if not len(greedy) == len(sampled) == len(shown):
            raise RuntimeError(f"{len(greedy)} greedy and {len(sampled)} sampled completions of {len(shown)} questions")
        new = [_record(env, *row, extract) for row in zip(indices, greedy, sampled, strict=True)]
        if folder is not None:
            folder.append(new)
        records += new
    return make_report(records, extractor_name(env.rubric, extract), blind=blind)


def _show(env: MultimodalQAEnv, index: int, *, blind: bool) -> ShownQuestion:
    wording = wording_of(env.bank[index], index)
    observation, _ = env.reset(options={"question_index": index, "variant_index": wording, "blind": blind})
    return observation["question"], observation["images"]


def _record(
    env: MultimodalQAEnv, index: int, completion: GeneratedText, sampled: list[GeneratedText], extract: str
) -> EvaluationRecord:
    question = env.bank[index]
    rubric = env.rubric_of(question)
    verdict = grade(rubric, question, completion, extract)
    return EvaluationRecord(
        question_id=question.id,
        question_index=index,
        subtask=question.subtask,
        wording=wording_of(question, index),
        extracted=verdict.extracted,
        gold=question.answer,
        accuracy=verdict.accuracy,
        format_ok=verdict.format_ok,
        truncated=completion.truncated,
        num_tokens=completion.num_tokens,
        text=completion.text,
        error=verdict.error,
        task=question.task,
        question=question.wordings[wording_of(question, index)],
        image_keys=tuple(image.fingerprint() for image in question.images),
        samples=tuple(grade_sample(rubric, question, text, extract) for text in sampled),
        categories={name: tuple(values) for name, values in facts_of(question).categories.items()},
        labels=dict(facts_of(question).labels),
    )


def greedy_generate(encoder: PromptEncoder, generator: Generator, max_tokens: int) -> Generate:
    """A function from shown questions to one greedy completion each."""

    def generate(shown: list[ShownQuestion]) -> list[GeneratedText]:
        prompts = encoder.encode([Question(text, images) for text, images in shown])
        answers = generator.generate(prompts, 1, [0] * len(prompts), Sampling(max_tokens, greedy=True))
        return [_generated(completion, encoder.opening) for (completion,) in answers]

    return generate


def sampled_generate(
    policy: Policy, max_tokens: int, samples: int, temperature: float, make: Callable[[Policy], Generator] = HFGenerator
) -> Sample:
    """A function from shown questions and their seeds to `samples` completions each, at their own temperature."""
    policy = copy.copy(policy)  # the same model with another distribution
    policy.temperature = temperature
    generator = make(policy)

    def sample(shown: list[ShownQuestion], seeds: list[int]) -> list[list[GeneratedText]]:
        prompts = policy.encoder.encode([Question(text, images) for text, images in shown])
        answers = generator.generate(prompts, samples, seeds, Sampling(max_tokens))
        opening = policy.encoder.opening
        return [[_generated(completion, opening) for completion in completions] for completions in answers]

    return sample


def _generated(completion: Completion, opening: str) -> GeneratedText:
    return GeneratedText(completion.text, len(completion.token_ids), completion.truncated, opening)
