"""Accuracy on the first questions of the test split, in their fixed order: the same figures on every call."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from sharegrpo_rl.data.benchmarks.rows import facts_of
from sharegrpo_rl.data.types import Completion, SeedQuestion
from sharegrpo_rl.data.variants import derive_seed
from sharegrpo_rl.envs.multimodal_qa import MultimodalQAEnv
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.evaluation.report import EvaluationRecord, EvaluationReport, GeneratedText, SampleRecord, make_report
from sharegrpo_rl.generation.generator import Generator, Sampling
from sharegrpo_rl.generation.hf import HFGenerator
from sharegrpo_rl.grader import EXTRACT_MODES, ExtractMode, named_options, normalized, question_key
from sharegrpo_rl.grader import grade as grade_response
from sharegrpo_rl.models.policy import Policy
from sharegrpo_rl.models.prompts import PromptEncoder, Question
from sharegrpo_rl.rewards.rubric import Rubric

# ---- The verdict on one completion: by the run's own answer format, or by another way to find the answer.

FORMAT = "format"  # the answer is where the run's own format has it, and nowhere else
EXTRACTORS = (FORMAT, *EXTRACT_MODES)


@dataclass(frozen=True)
class Verdict:
    """`accuracy` 0 or 1, or between where a rubric says so; with `error` set the grader failed."""

    accuracy: float
    extracted: str | None
    format_ok: bool
    error: str | None = None


def check_extractor(name: str) -> None:
    """UserError where there is no such extractor."""
    if name not in EXTRACTORS:
        raise UserError(f"--extract {name!r}: choose one of {', '.join(EXTRACTORS)}")


def extractor_name(rubric: Rubric, extract: str) -> str:
    """How the answer was found, for the report: the format's name, or the mode."""
    return rubric.form.name if extract == FORMAT else extract


def grade(rubric: Rubric, question: SeedQuestion, completion: GeneratedText, extract: str = FORMAT) -> Verdict:
    """Right where the completion gives one of the question's accepted answers."""
    verdict = _grade(rubric, question, completion, extract)
    for answer in facts_of(question).accepted_answers:
        if verdict.accuracy >= 1 or verdict.error is not None:
            break
        if answer != question.answer:
            other = _grade(rubric, replace(question, answer=answer), completion, extract)
            verdict = other if other.accuracy > verdict.accuracy else verdict
    return verdict


def _grade(rubric: Rubric, question: SeedQuestion, completion: GeneratedText, extract: str) -> Verdict:
    (score,) = rubric.score([completion.text], question, [completion.truncated])
    format_ok = score.parts["format"] >= 1.0
    if extract == FORMAT:
        return Verdict(float(score.parts["accuracy"]), score.extracted, format_ok, score.error)
    verdict = grade_response(completion.text, question_key(question), extract=cast(ExtractMode, extract))
    return Verdict(verdict.score, verdict.extracted, format_ok, verdict.error)


def grade_sample(rubric: Rubric, question: SeedQuestion, completion: GeneratedText, extract: str) -> SampleRecord:
    """One sampled completion with its verdict and its vote."""
    verdict = grade(rubric, question, completion, extract)
    return SampleRecord(
        text=completion.text,
        extracted=verdict.extracted,
        vote=vote(question, verdict.extracted),
        accuracy=verdict.accuracy,
        format_ok=verdict.format_ok,
        truncated=completion.truncated,
        num_tokens=completion.num_tokens,
        error=verdict.error,
    )


def vote(question: SeedQuestion, extracted: str | None) -> str | None:
    """The answer as a majority counts it: the options it names, else its text without spaces and styling."""
    if extracted is None:
        return None
    if question.choices and (named := named_options(extracted, question.choices)):
        return "option " + ",".join(map(str, sorted(named)))
    return normalized(extracted) or None


ShownQuestion: TypeAlias = tuple[str, tuple[NDArray[np.uint8], ...]]  # text, images [H, W, 3]
Generate: TypeAlias = Callable[[list[ShownQuestion]], list[GeneratedText]]
Sample: TypeAlias = Callable[[list[ShownQuestion], list[int]], list[list[GeneratedText]]]  # one seed a question


class Journal(Protocol):
    """Where records are kept as they come, so that an evaluation that was stopped goes on."""

    def done(self) -> list[EvaluationRecord]:
        """The records of whole batches of an earlier start."""

    def append(self, records: list[EvaluationRecord]) -> None:
        """Keep the records of one more batch."""


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
    journal: Journal | None = None,
) -> EvaluationReport:
    """Question i in wording i mod (its number of wordings), one greedy completion each, no transforms.

    `blind` shows every question with the images of another one of its kind: what the text alone earns.
    `sample` adds sampled completions, seeded by `seed` and the question alone.
    """
    number = min(limit, len(env.bank))
    if number < 1:
        raise UserError(f"{env.bank.name} ({env.bank.split}): there is no question to evaluate; raise the limit")
    records = [] if journal is None else journal.done()
    for indices in _batches(range(len(records), number), batch):
        shown = [_show(env, index, blind=blind) for index in indices]
        completions = generate(shown)
        seeds = [derive_seed("evaluate", seed, index) for index in indices]
        sampled = [[] for _ in shown] if sample is None else sample(shown, seeds)
        if not len(completions) == len(sampled) == len(shown):
            raise RuntimeError(f"asked for {len(shown)} completions, got {len(completions)} and {len(sampled)}")
        fresh = [_record(env, *given, extract) for given in zip(indices, completions, sampled, strict=True)]
        if journal is not None:
            journal.append(fresh)
        records += fresh
    return make_report(records, extractor_name(env.rubric, extract), blind=blind)


def _batches(indices: range, size: int) -> Iterator[range]:
    return (indices[start : start + size] for start in range(0, len(indices), size))


def wording_of(question: SeedQuestion, index: int) -> int:
    """Which of its wordings question `index` is asked in."""
    return index % len(question.wordings)


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


# ---- Answers of a policy, greedy or sampled, in the form that evaluation asks for.

MakeGenerator: TypeAlias = Callable[[Policy], Generator]


def greedy_generate(
    encoder: PromptEncoder, generator: Generator, max_tokens: int
) -> Callable[[list[ShownQuestion]], list[GeneratedText]]:
    """A function from shown questions to one greedy completion each."""

    def generate(shown: list[ShownQuestion]) -> list[GeneratedText]:
        prompts = encoder.encode([Question(text, images) for text, images in shown])
        answers = generator.generate(prompts, 1, [0] * len(prompts), Sampling(max_tokens, greedy=True))
        return [_generated(completion) for (completion,) in answers]

    return generate


def sampled_generate(
    policy: Policy, max_tokens: int, samples: int, temperature: float, make: MakeGenerator = HFGenerator
) -> Sample:
    """A function from shown questions and their seeds to `samples` completions each, at a temperature of its own."""
    warmed = copy.copy(policy)  # the same model; only the distribution is another one
    warmed.temperature = temperature
    generator = make(warmed)

    def sample(shown: list[ShownQuestion], seeds: list[int]) -> list[list[GeneratedText]]:
        prompts = warmed.encoder.encode([Question(text, images) for text, images in shown])
        answers = generator.generate(prompts, samples, seeds, Sampling(max_tokens))
        return [[_generated(completion) for completion in several] for several in answers]

    return sample


def _generated(completion: Completion) -> GeneratedText:
    return GeneratedText(completion.text, len(completion.token_ids), completion.truncated)
