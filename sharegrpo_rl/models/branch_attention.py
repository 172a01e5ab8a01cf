"""Attention over packs: each prompt once and causal, its completions as branches over the prompt and themselves.

No [L, L] mask exists. The lean ways are `merged_attention` (CPU) and `joined_attention` (CUDA, half precision); `attend`
is the portable one, plain SDPA with the branches of a pack as a padded [G, T] batch whose keys are the prompt's followed
by their own.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from sharegrpo_rl.models.joined_attention import joined_attention
from sharegrpo_rl.models.merged_attention import merged_attention
from sharegrpo_rl.models.pack_layout import Layout, current_layout
from sharegrpo_rl.models.varlen_attention import has_kernels

NAME = "branch"


def attend(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float) -> Tensor:
    """query [1, H, L, D], key and value [1, KV, L, D] -> [1, L, H, D]."""
    # CUDA has lean kernels for grouped heads in few cases: they are repeated, as transformers does.
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    spans = [*layout.prompts, *layout.branches]
    # One split, not a slice for each pack: the gradient of a slice is a whole zero tensor that has to be added up.
    parts = list(zip(*(x.split([s.stop - s.start for s in spans], 2) for x in (query, key, value)), strict=True))
    prompts, branches = parts[: len(layout.prompts)], parts[len(layout.prompts) :]
    outs = [F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)[0] for q, k, v in prompts]
    for prompt, own, each in zip(prompts, branches, layout.each, strict=True):
        outs.append(_branches(prompt, own, [b.stop - b.start for b in each], scale))
    return torch.cat(outs, 1).transpose(0, 1)[None]


def _branches(prompt: tuple[Tensor, ...], own: tuple[Tensor, ...], lengths: list[int], scale: float) -> Tensor:
    """Branch tokens [H, N, D] of one pack; `prompt`, `own`: query, key and value [1, heads, tokens, D]."""
    _, key, value = prompt
    length, width = key.shape[2], max(lengths, default=0)
    if width == 0:
        return own[0][0]
    q, k, v = (pad_sequence([*x[0].transpose(0, 1).split(lengths)], batch_first=True).transpose(1, 2) for x in own)
    k, v = (torch.cat([shared.expand(len(lengths), -1, -1, -1), x], 2) for shared, x in ((key, k), (value, v)))
    # The prompt is open, the branch causal; padding lies behind the tokens that count.
    bias = q.new_full((width, length + width), float("-inf")).triu(length + 1)
    out = F.scaled_dot_product_attention(q, k, v, bias, scale=scale)
    return torch.cat([x[:, :n] for x, n in zip(out, lengths, strict=True)], 1)


def branch_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """transformers' attention function: branches inside `use_layout(...)`, plain SDPA outside it."""
    layout = current_layout()
    if layout is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    if attention_mask is not None or kwargs.get("dropout"):
        raise ValueError("packed rows take no attention mask and no attention dropout")
    if query.shape[2] != layout.length:
        raise ValueError(f"the row has {query.shape[2]} tokens, its layout {layout.length}")
    run = merged_attention if query.device.type == "cpu" else joined_attention if has_kernels(query) else attend
    return run(query, key, value, layout, kwargs["scaling"]), None


def branch_mask(*args: Any, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
    """transformers' mask function: none inside `use_layout(...)`, where positions start again at each pack and would look
    like sequences to keep apart; plain SDPA's outside it."""
    if current_layout() is None:
        return sdpa_mask(*args, attention_mask=attention_mask, **kwargs)
    if attention_mask is not None:
        raise ValueError("packed rows take no attention mask and no attention dropout")
    return None


def register() -> None:
    """Make `branch` known to transformers. Without a mask function of its own, padding masks would be dropped silently."""
    AttentionInterface.register(NAME, branch_attention)
    AttentionMaskInterface.register(NAME, branch_mask)
