"""Token ids, padding and pictures of several sequences as the tensors a model's forward takes."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharegrpo_rl.data.types import PixelInput


def pad_rows(rows: Sequence[NDArray[np.int64]], pad_id: int, side: str) -> tuple[Tensor, Tensor]:
    """Ragged ids -> ids [B, L] and attention mask [B, L], padded on the `left` or the `right`."""
    longest = max(len(r) for r in rows)
    ids = np.full((len(rows), longest), pad_id, np.int64)
    mask = np.zeros((len(rows), longest), np.int64)
    for i, row in enumerate(rows):
        span = slice(longest - len(row), longest) if side == "left" else slice(0, len(row))
        ids[i, span] = row
        mask[i, span] = 1
    return torch.from_numpy(ids), torch.from_numpy(mask)


def stack_images(images: Sequence[PixelInput]) -> dict[str, Tensor]:
    """The arguments of several images joined along their first dimension; {} without images."""
    if not images:
        return {}
    return {k: torch.from_numpy(np.concatenate([i.tensors[k] for i in images])) for k in images[0].tensors}


def model_inputs(
    model: Any,
    rows: Sequence[NDArray[np.int64]],
    images: Sequence[Sequence[PixelInput]],
    pad_id: int,
    side: str,
) -> dict[str, Tensor]:
    """Everything `model(**inputs)` needs for these rows; each row brings its own images, repeated where they repeat."""
    ids, mask = pad_rows(rows, pad_id, side)
    inputs = {"input_ids": ids, "attention_mask": mask, **stack_images([i for row in images for i in row])}
    accepted = inspect.signature(model.forward).parameters
    image_token = getattr(model.config, "image_token_id", None)
    for name in ("mm_token_type_ids", "token_type_ids"):
        if name in accepted:
            inputs[name] = (ids == image_token).long() if image_token is not None else torch.zeros_like(ids)
    return {k: v.to(model.device, model.dtype if v.is_floating_point() else v.dtype) for k, v in inputs.items()}


def rope_positions(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Position ids of padded rows: [3, B, L] for Qwen's multimodal rope, else [B, L] counting real tokens only."""
    mask = inputs["attention_mask"]
    base = getattr(model, "model", model)
    if hasattr(base, "get_rope_index") and "image_grid_thw" in inputs:
        return base.get_rope_index(
            inputs["input_ids"],
            inputs["mm_token_type_ids"],
            image_grid_thw=inputs["image_grid_thw"],
            attention_mask=mask,
        )[0]
    flat = (mask.cumsum(1) - 1).clamp(min=0)
    return flat[None].expand(3, -1, -1) if hasattr(base, "get_rope_index") else flat
