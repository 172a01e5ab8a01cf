"""Greedy answers of a policy, in the form that evaluation asks for."""

from __future__ import annotations

from collections.abc import Callable

from sharegrpo_rl.evaluation.evaluate import ShownQuestion
from sharegrpo_rl.evaluation.report import GeneratedText
from sharegrpo_rl.generation.generator import Sampling
from sharegrpo_rl.generation.hf import HFGenerator
from sharegrpo_rl.models.policy import Policy
from sharegrpo_rl.models.prompts import Question


def greedy_generate(policy: Policy, max_tokens: int) -> Callable[[list[ShownQuestion]], list[GeneratedText]]:
    """A function from shown questions to one greedy completion each."""
    generator = HFGenerator(policy)

    def generate(shown: list[ShownQuestion]) -> list[GeneratedText]:
        prompts = policy.encoder.encode([Question(text, images) for text, images in shown])
        answers = generator.generate(prompts, 1, [0] * len(prompts), Sampling(max_tokens, greedy=True))
        return [GeneratedText(c.text, len(c.token_ids), c.truncated) for (c,) in answers]

    return generate
