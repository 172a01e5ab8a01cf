"""Attention of one new token in each of many branches: a prompt's keys and values exist once, however many branches it has.

The branches of a prompt are query positions over its keys, in one product without copies. What the branches said lies in
buffers that are written in place. The two parts are joined by their log-sum-exp.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

NAME = "decode"


class BranchStore:
    """Keys and values of some prompts and of their branches, by layer; rows are branches, ordered by their prompt.

    KV heads lead in every tensor: prompts and rows each form one flat batch with them.
    """

    def __init__(
        self, prompts: Sequence[tuple[Tensor, Tensor]], padding: Tensor, owner: Tensor, max_tokens: int
    ) -> None:
        """prompts: keys [KV, B, D, P] and values [KV, B, P, D] of each layer, 0 in the padding; padding [B, P]: True where
        there is no token; owner [R]: a row's prompt."""
        self._prompts = list(prompts)
        values = self._prompts[0][1]
        shape = (values.shape[0], len(owner), max_tokens, values.shape[3])
        self._own = [(values.new_empty(shape), values.new_empty(shape)) for _ in self._prompts]
        self._tokens = 0  # that every row has said and the model has seen
        self._attended = 0
        self._bias: Tensor | None = None  # [B, P]
        if padding.any():
            self._bias = torch.zeros_like(padding, dtype=torch.float32).masked_fill_(padding, -torch.inf)
        self._arrange(owner)

    def _arrange(self, owner: Tensor) -> None:
        """Note which rows a prompt has. A prompt with fewer rows than others has empty cells among its `most`."""
        self._owner = owner
        counts = torch.bincount(owner)
        most = int(counts.max())
        self._cells: Tensor | None = None  # [R]: each row's cell
        self._rows: Tensor | None = None  # [B * most]: each cell's row; an empty cell computes row 0 for nobody
        if int(counts.min()) != most:
            places = torch.arange(len(owner), device=owner.device)
            self._cells = owner * most + places - (counts.cumsum(0) - counts)[owner]
            self._rows = owner.new_zeros(len(counts) * most).index_copy_(0, self._cells, places)
        self._flat = [(key.flatten(0, 1), value.flatten(0, 1)) for key, value in self._prompts]
        self._scores: Tensor | None = None

    def keep(self, rows: Tensor) -> None:
        """Drop all other rows, and prompts that are left without any."""
        alive, owner = self._owner[rows].unique_consecutive(return_inverse=True)
        if len(alive) < self._prompts[0][0].shape[1]:
            self._bias = None if self._bias is None else self._bias[alive]
            self._prompts = [(key.index_select(1, alive), value.index_select(1, alive)) for key, value in self._prompts]
        for layer, pair in enumerate(self._own):
            key, value = (x.new_empty(x.shape[0], len(rows), *x.shape[2:]) for x in pair)
            for new, old in zip((key, value), pair, strict=True):
                new[:, :, : self._tokens] = old[:, :, : self._tokens].index_select(1, rows)
            self._own[layer] = (key, value)
        self._arrange(owner)

    @contextmanager
    def token(self) -> Iterator[None]:
        """Inside, the decoder runs one more token of every row. A context, so that no layer can drop it on the way."""
        self._attended = 0
        reset = _store.set(self)
        try:
            yield
        finally:
            _store.reset(reset)
        if self._attended != len(self._prompts):
            raise RuntimeError(f"{self._attended} of {len(self._prompts)} layers attended to the branches' prompts")
        self._tokens += 1

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """query [R, H, 1, D], key and value [R, KV, 1, D] of the new tokens -> [R, 1, H, D]."""
        self._attended += 1
        rows, heads, _, size = query.shape
        groups = key.shape[1]
        own_k, own_v = self._own[layer]
        own_k.select(2, self._tokens).copy_(key.squeeze(2).transpose(0, 1))
        own_v.select(2, self._tokens).copy_(value.squeeze(2).transpose(0, 1))
        own_k, own_v = (x.narrow(2, 0, self._tokens + 1).flatten(0, 1) for x in (own_k, own_v))
        q = query.reshape(rows, groups, -1, size).transpose(0, 1).contiguous()
        out, mass = _weigh(_product(q.flatten(0, 1), own_k.transpose(1, 2)), own_v, scale)
        out, mass = (x.view(groups, rows, heads // groups, -1) for x in (out, mass))
        shared, shared_mass = self._over_prompts(layer, q, scale)
        out = out.lerp_(shared, (shared_mass - mass).sigmoid_())
        return out.transpose(0, 1).reshape(rows, 1, heads, size).to(query.dtype)

    def _over_prompts(self, layer: int, query: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Attention of [KV, R, H / KV, D] over prompts alone, and the log of its mass [KV, R, H / KV, 1]."""
        keys, values = self._flat[layer]
        groups = query.shape[0]
        q = query if self._rows is None else query.index_select(1, self._rows)
        # Into one buffer for all layers and steps: fresh memory of this size costs more than the product.
        self._scores = scores = _product(q.view(len(keys), -1, query.shape[3]), keys, self._scores)
        if self._bias is not None:
            scores.unflatten(0, (groups, -1)).add_(self._bias[:, None])
        out, mass = (x.view(groups, -1, query.shape[2], x.shape[2]) for x in _weigh(scores, values, scale))
        if self._cells is None:
            return out, mass
        return out.index_select(1, self._cells), mass.index_select(1, self._cells)


def _product(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """Batched product in float32 at least, as fused attention has it. `out`: memory to reuse (not in half precision)."""
    if a.dtype not in (torch.bfloat16, torch.float16):
        return torch.bmm(a, b, out=out)
    return torch.bmm(a, b, out_dtype=torch.float32) if a.is_cuda else torch.bmm(a.float(), b.float())


def _weigh(scores: Tensor, values: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attention by `scores` [N, Q, L], overwritten, over values [N, L, D]: [N, Q, D] and the log of its mass [N, Q, 1]."""
    top = scores.amax(-1, keepdim=True)
    mass = scores.sub_(top).mul_(scale).exp_().sum(-1, keepdim=True)
    return _product(scores.to(values.dtype), values).div_(mass), mass.log_().add_(top, alpha=scale)


_store: ContextVar[BranchStore | None] = ContextVar("branch_store", default=None)


def decode_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """transformers' attention function for use inside `BranchStore.token()`."""
    store = _store.get()
    if store is None or attention_mask is not None or kwargs.get("dropout"):
        raise ValueError("the attention of branches needs their store, and takes no mask and no dropout")
    return store.attend(module.layer_idx, query, key, value, kwargs["scaling"]), None


def no_mask(*args: Any, **kwargs: Any) -> None:
    """transformers' mask function: a branch sees all of its prompt and all it has said."""


@contextmanager
def decode_mode(decoder: Any) -> Iterator[None]:
    """Inside, the decoder attends to the store of branches."""
    AttentionInterface.register(NAME, decode_attention)
    AttentionMaskInterface.register(NAME, no_mask)
    usual = decoder.config._attn_implementation
    decoder.config._attn_implementation = NAME
    try:
        yield
    finally:
        decoder.config._attn_implementation = usual
