"""Attention of Qwen's vision towers over pictures and windows of several sizes: one launch on CUDA, few calls elsewhere.

transformers runs each window by itself: 64 calls a layer for one picture of 1,024 tokens.
"""

from __future__ import annotations

from copy import copy
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from sharegrpo_rl.models.varlen_attention import Sequences, has_kernels, varlen_forward

NAME = "window_flash"  # transformers hands out where windows end to implementations whose name says flash


def window_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function: query, key, value [1, H, L, D] -> [1, L, H, D]; a window ends at each of
    `cu_seq_lens_q` [n + 1]."""
    if attention_mask is not None or dropout:
        raise ValueError("windows take no attention mask and no attention dropout")
    if has_kernels(query):
        windows = Sequences(cu_seq_lens_q.to(torch.int32), max_length_q)
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        return varlen_forward(q, k, v, windows, windows, False, scaling)[0][None], None
    return _by_length(module, query, key, value, cu_seq_lens_q.diff().tolist(), scaling), None


def _by_length(module: Any, query: Tensor, key: Tensor, value: Tensor, lengths: list[int], scale: float) -> Tensor:
    """Neighbours of equal length as one batch."""
    runs = [(length, len(list(same))) for length, same in groupby(lengths)]
    sizes = [length * count for length, count in runs]
    outs = []
    for (length, count), *parts in zip(runs, *(x.split(sizes, 2) for x in (query, key, value)), strict=True):
        windows = (x[0].unflatten(1, (count, length)).transpose(0, 1) for x in parts)
        out, _ = sdpa_attention_forward(module, *windows, None, scaling=scale, is_causal=False)
        outs.append(out.flatten(0, 1))
    return torch.cat(outs)[None]


def use_window_attention(model: Any) -> None:
    """Switch a vision tower that works on windows of one row (Qwen's) to this attention; the model's own config, of which
    transformers may build others, stays as it is."""
    usual = getattr(model.config, "vision_config", None)
    if usual is None or not usual.model_type.startswith("qwen"):
        return
    AttentionInterface.register(NAME, window_attention)
    config = copy(usual)
    config._attn_implementation = NAME
    for module in model.modules():
        if getattr(module, "config", None) is usual:
            module.config = config
