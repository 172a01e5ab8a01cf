"""Our prompts as vLLM's processed inputs: the very ids and pixels that the trainer sees, nothing tokenized or resized again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from vllm.inputs import mm_input, tokens_input
from vllm.multimodal.inputs import (
    MultiModalFieldConfig,
    MultiModalKwargsItem,
    MultiModalKwargsItems,
    PlaceholderRange,
)

from sharegrpo_rl.data.types import PixelInput, Prompt
from sharegrpo_rl.models.prompts import PromptEncoder

PIXELS, GRID = "pixel_values", "image_grid_thw"


def engine_input(prompt: Prompt, encoder: PromptEncoder) -> Any:
    """What `LLMEngine.add_request` takes; vLLM's caches know an image by our key."""
    ids = prompt.input_ids.tolist()
    if not prompt.images:
        return tokens_input(ids)
    counts = [_tokens(image, encoder) for image in prompt.images]
    places = image_places(prompt.input_ids, encoder.processor.image_token_id, counts)
    return mm_input(
        ids,
        mm_kwargs=MultiModalKwargsItems({"image": [_item(image) for image in prompt.images]}),
        mm_hashes={"image": [image.key for image in prompt.images]},
        mm_placeholders={"image": [PlaceholderRange(offset, count) for offset, count in places]},
    )


def image_places(ids: NDArray[np.int64], image_token: int, counts: Sequence[int]) -> list[tuple[int, int]]:
    """(offset, tokens) of each image in the prompt; RuntimeError where ids and images do not belong together."""
    (held,) = np.nonzero(ids == image_token)
    starts = np.cumsum([0, *counts])
    if len(held) != starts[-1]:
        raise RuntimeError(f"the prompt has {len(held)} image tokens, its images need {starts[-1]}")
    places = []
    for count, start in zip(counts, starts, strict=False):
        offset = int(held[start])
        if held[start + count - 1] != offset + count - 1:
            raise RuntimeError(f"the {count} tokens of an image at {offset} do not stand in a row")
        places.append((offset, count))
    return places


def _tokens(image: PixelInput, encoder: PromptEncoder) -> int:
    merge: int = encoder.image_processor.merge_size  # type: ignore[union-attr]
    return int(image.tensors[GRID].prod()) // merge**2


def _item(image: PixelInput) -> MultiModalKwargsItem:
    """Pixels [patches, D] and grid [3] of an image, in the form of vLLM's own processor for Qwen's families: the prompt's
    own memory, so that slots that share a picture hold it once."""
    tensors = {name: torch.from_numpy(image.tensors[name]) for name in (PIXELS, GRID)}
    fields = {
        PIXELS: MultiModalFieldConfig.flat_from_sizes("image", tensors[GRID].prod(-1)),
        GRID: MultiModalFieldConfig.batched("image", keep_on_cpu=True),
    }
    return MultiModalKwargsItems.from_hf_inputs(tensors, fields)["image"][0]
