"""Attention over packs: each prompt once and causal, its completions as branches over the prompt and themselves.

All packs of a micro-batch lie in one row `[prompt, completion, ..., completion, prompt, ...]`. No [L, L] mask exists:
the completions of a pack are a padded [G, T] batch whose keys are the prompt's followed by their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "branch"


class Span:
    """Where one pack lies in the row, and how its branches are padded to [G, T]."""

    def __init__(self, start: int, prompt_length: int, lengths: list[int]) -> None:
        self.lengths, self.width = lengths, max(lengths)
        self.prompt = slice(start, start + prompt_length)
        self.branches = slice(self.prompt.stop, self.prompt.stop + sum(lengths))
        ends = [*accumulate(lengths, initial=self.branches.start)]
        self.each = [slice(a, b) for a, b in pairwise(ends)]
        self.ragged = len(set(lengths)) > 1

    @cached_property
    def cells(self) -> Tensor:
        """Padded cell g * T + t of every branch token."""
        return torch.cat([g * self.width + torch.arange(n) for g, n in enumerate(self.lengths)])

    @cached_property
    def bias(self) -> Tensor:
        """[T, P + T], the same for each branch: the prompt is open, the branch causal. Padding lies behind real tokens."""
        prompt = self.prompt.stop - self.prompt.start
        return torch.full((self.width, prompt + self.width), float("-inf")).triu(prompt + 1)

    def pad(self, x: Tensor) -> Tensor:
        """[H, N, D] of the branches' N tokens -> [G, H, T, D]; a view where all lengths are equal."""
        if self.ragged:
            cells = self.cells.to(x.device)
            x = x.new_zeros(x.shape[0], len(self.lengths) * self.width, x.shape[2]).index_copy(1, cells, x)
        return x.unflatten(1, (len(self.lengths), self.width)).transpose(0, 1)

    def unpad(self, x: Tensor) -> Tensor:
        """[G, H, T, D] -> [H, N, D]."""
        x = x.transpose(0, 1).flatten(1, 2)
        return x.index_select(1, self.cells.to(x.device)) if self.ragged else x


_layout: ContextVar[list[Span] | None] = ContextVar("branch_layout", default=None)


@contextmanager
def layout(spans: list[Span]) -> Iterator[None]:
    """Inside, the language model's attention follows these spans. A context, so that no layer can drop it on the way."""
    token = _layout.set(spans)
    try:
        yield
    finally:
        _layout.reset(token)


def keep_layout() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Gradient checkpointing's `context_fn`: layers run again in the backward pass follow the layout they ran with."""
    spans = _layout.get()
    return nullcontext(), nullcontext() if spans is None else layout(spans)


def attend(query: Tensor, key: Tensor, value: Tensor, spans: list[Span], scale: float) -> Tensor:
    """query [1, H, L, D], key and value [1, KV, L, D] -> [1, L, H, D]."""
    outs = []
    sizes = [part.stop - part.start for s in spans for part in (s.prompt, s.branches)]
    # One split, not a slice for each pack: the gradient of a slice is a whole zero tensor that has to be added up.
    parts = list(zip(*(x.split(sizes, dim=2) for x in (query, key, value)), strict=True))
    for s, (q, k, v), branches in zip(spans, parts[::2], parts[1::2], strict=True):
        outs.append(F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)[0])
        branch_q, branch_k, branch_v = (s.pad(x[0]) for x in branches)
        group = len(s.lengths)
        branch_k, branch_v = (
            torch.cat([shared.expand(group, -1, -1, -1), own], 2) for shared, own in ((k, branch_k), (v, branch_v))
        )
        bias = s.bias.to(query.device, query.dtype)
        outs.append(
            s.unpad(F.scaled_dot_product_attention(branch_q, branch_k, branch_v, bias, scale=scale, enable_gqa=True))
        )
    return torch.cat(outs, 1).transpose(0, 1)[None]


def branch_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """transformers' attention function: branches inside `layout(...)`, plain SDPA outside it."""
    spans = _layout.get()
    if spans is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    if attention_mask is not None or kwargs.get("dropout"):
        raise ValueError("packed rows take no attention mask and no attention dropout")
    if query.shape[2] != spans[-1].branches.stop:
        raise ValueError(f"the row has {query.shape[2]} tokens, its layout {spans[-1].branches.stop}")
    return attend(query, key, value, spans, kwargs["scaling"]), None


def branch_mask(*args: Any, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | None:
    """transformers' mask function: none inside `layout(...)`, where positions start again at each pack and would look
    like sequences to keep apart; plain SDPA's outside it."""
    if _layout.get() is None:
        return sdpa_mask(*args, attention_mask=attention_mask, **kwargs)
    if attention_mask is not None:
        raise ValueError("packed rows take no attention mask and no attention dropout")
    return None


def register() -> None:
    """Make `branch` known to transformers. Without a mask function of its own, padding masks would be dropped silently."""
    AttentionInterface.register(NAME, branch_attention)
    AttentionMaskInterface.register(NAME, branch_mask)
