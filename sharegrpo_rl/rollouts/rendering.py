"""From slot requests to prompts: what the environment shows, in the model's own tokens and pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import ray

from sharegrpo_rl.data.types import PixelInput, Prompt, SlotRequest
from sharegrpo_rl.envs.multimodal_qa import MultimodalQAEnv
from sharegrpo_rl.models.prompts import PromptEncoder, Question

Shown = tuple[dict[str, Any], dict[str, Any]]  # observation, info


def render(env: MultimodalQAEnv, encoder: PromptEncoder, requests: Sequence[SlotRequest]) -> list[Prompt]:
    """The prompt of each request: what the environment shows, in the model's own tokens and pixels."""
    return encode(encoder, show(env, requests))


def show(env: MultimodalQAEnv, requests: Sequence[SlotRequest]) -> list[Shown]:
    """Observation and info of each request."""
    return [env.reset(options=_reset_options(request)) for request in requests]


def encode(encoder: PromptEncoder, shown: Sequence[Shown]) -> list[Prompt]:
    """The prompts of what an environment has shown."""
    return encoder.encode([Question(o["question"], o["images"], info["image_keys"]) for o, info in shown])


def in_object_store(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts with their pixels behind object references, each distinct image put once: the driver passes on ids and
    not pictures."""
    stored: dict[str, Any] = {}

    def put(image: PixelInput) -> PixelInput:
        if image.key not in stored:
            stored[image.key] = ray.put(image.tensors)
        return PixelInput(image.key, stored[image.key])

    return [replace(p, images=tuple(put(image) for image in p.images)) for p in prompts]


def _reset_options(request: SlotRequest) -> dict[str, Any]:
    slot = request.slot
    return {
        "question_index": request.question_index,
        "variant_index": slot.variant_index,
        "transform": slot.transform,
        "transform_seed": slot.transform_seed,
    }
