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


def stack_images(images: Sequence[PixelInput], names: Sequence[str] | None = None) -> dict[str, Tensor]:
    """The arguments (or some of them) of several images joined along their first dimension; {} without images."""
    if not images:
        return {}
    wanted = images[0].tensors if names is None else [n for n in names if n in images[0].tensors]
    return {name: torch.from_numpy(_join(name, [i.tensors[name] for i in images])) for name in wanted}


def _join(name: str, arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Concatenated; pictures cut into crops [1, crops, ...] get empty crops, which their models leave out again."""
    crops = {"pixel_values": 5, "pixel_attention_mask": 4}
    if crops.get(name) == arrays[0].ndim:
        most = max(a.shape[1] for a in arrays)
        arrays = [np.pad(a, [(0, 0), (0, most - a.shape[1]), *[(0, 0)] * (a.ndim - 2)]) for a in arrays]
    return np.concatenate(arrays)


def model_inputs(
    model: Any,
    rows: Sequence[NDArray[np.int64]],
    images: Sequence[Sequence[PixelInput]],
    pad_id: int,
    side: str,
    pixels: bool = True,
    device: torch.device | None = None,
) -> dict[str, Tensor]:
    """Everything `model(**inputs)` needs for these rows; each row brings its own images, repeated where they repeat.

    Without `pixels` only what positions are made of: ids, mask, kinds of tokens, grids. On the model's device by default.
    """
    ids, mask = pad_rows(rows, pad_id, side)
    shown = stack_images([i for row in images for i in row], None if pixels else ["image_grid_thw"])
    inputs = {"input_ids": ids, "attention_mask": mask, **shown}
    accepted = inspect.signature(model.forward).parameters
    image_token = getattr(model.config, "image_token_id", None)
    for name in ("mm_token_type_ids", "token_type_ids"):
        if name in accepted:
            inputs[name] = (ids == image_token).long() if image_token is not None else torch.zeros_like(ids)
    where = device or model.device
    return {k: v.to(where, model.dtype if v.is_floating_point() else v.dtype) for k, v in inputs.items()}


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
