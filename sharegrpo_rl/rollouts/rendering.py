"""From slot requests to prompts in the model's own tokens and pixels; and the questions whose prompts fit.

A question whose prompt would exceed `max_prompt_tokens` is found before training, left out and counted; prompts are never
truncated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import ray

from sharegrpo_rl.data.transforms import TRANSFORMS
from sharegrpo_rl.data.types import PixelInput, Prompt, QuestionBank, SeedQuestion, SlotRequest
from sharegrpo_rl.envs.bank_view import BankView
from sharegrpo_rl.envs.multimodal_qa import MultimodalQAEnv
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.models.prompts import PromptEncoder, Question

Shown = tuple[dict[str, Any], dict[str, Any]]  # observation, info


def render(env: MultimodalQAEnv, encoder: PromptEncoder, requests: Sequence[SlotRequest]) -> list[Prompt]:
    """The prompt of each request."""
    return encode(encoder, show(env, requests))


def show(env: MultimodalQAEnv, requests: Sequence[SlotRequest]) -> list[Shown]:
    """Observation and info of each request."""
    return [
        env.reset(
            options={
                "question_index": request.question_index,
                "variant_index": request.slot.variant_index,
                "transform": request.slot.transform,
                "transform_seed": request.slot.transform_seed,
            }
        )
        for request in requests
    ]


def encode(encoder: PromptEncoder, shown: Sequence[Shown]) -> list[Prompt]:
    """The prompts of what an environment has shown."""
    return encoder.encode([Question(o["question"], o["images"], info["image_keys"]) for o, info in shown])


def in_object_store(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts with their pixels behind object references, each distinct image put once: the driver handles ids only."""
    stored: dict[str, Any] = {}

    def put(image: PixelInput) -> PixelInput:
        if image.key not in stored:
            stored[image.key] = ray.put(image.tensors)
        return PixelInput(image.key, stored[image.key])

    return [replace(p, images=tuple(put(image) for image in p.images)) for p in prompts]


def fitting_questions(
    bank: QuestionBank, encoder: PromptEncoder, transformed: bool = False, limit: int | None = None
) -> list[int]:
    """Indices of the (first `limit`) questions that fit in every wording, and with the longest transform sentence where
    `transformed`. UserError where none does.
    """
    sentence = max((t.sentence for t in TRANSFORMS.values()), key=len) if transformed else ""
    max_tokens = encoder.settings.max_prompt_tokens
    indices = list(islice((i for i in range(len(bank)) if _fits(bank[i], encoder, sentence, max_tokens)), limit))
    if not indices:
        raise UserError(
            f"{bank.name} ({bank.split}): all {len(bank)} questions are over-long (the first is {bank[0].id}); "
            f"raise max_prompt_tokens = {max_tokens}, or lower max_pixels = {encoder.settings.max_pixels}"
        )
    return indices


def keep_fitting(env: MultimodalQAEnv, encoder: PromptEncoder, limit: int) -> None:
    """Reduce the environment's bank to its first `limit` questions that fit."""
    indices = fitting_questions(env.bank, encoder, limit=limit)
    if indices != list(range(len(indices))):
        env.bank = BankView(env.bank, indices)


def _fits(question: SeedQuestion, encoder: PromptEncoder, sentence: str, max_tokens: int) -> bool:
    longest = max(question.wordings, key=lambda text: len(text.encode()))
    text = f"{longest} {sentence}".strip()
    bound = encoder.token_bound(text, len(question.images))
    if bound is not None and bound <= max_tokens:
        return True
    if len(text) > 20 * max_tokens:  # no tokenizer writes twenty letters of prose as one token
        return False
    images = tuple(np.array(source.open(), dtype=np.uint8) for source in question.images)
    return len(encoder.token_ids(Question(text, images))) <= max_tokens
