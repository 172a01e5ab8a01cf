"""Answers of a policy, greedy or sampled, in the form that evaluation asks for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeAlias

from sharegrpo_rl.data.types import Completion
from sharegrpo_rl.evaluation.evaluate import Sample, ShownQuestion
from sharegrpo_rl.evaluation.report import GeneratedText
from sharegrpo_rl.generation.generator import Generator, Sampling
from sharegrpo_rl.generation.hf import HFGenerator
from sharegrpo_rl.models.policy import Policy
from sharegrpo_rl.models.prompts import PromptEncoder, Question

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
