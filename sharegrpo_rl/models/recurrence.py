"""Layers that carry a state from token to token (linear attention, convolutions, state spaces) where completions share a
prompt: each prompt's state is made once, and every branch goes on from it.

transformers' layers take such states from a cache and leave them there. `StateCache` stands in for that cache: the layer's
own forward, with its own kernels, runs over the prompts, then over the branches with the states of their prompts. Gradients
of a prompt's state are the sum over its branches.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from sharegrpo_rl.models.branch_attention import Layout, current_layout

_CACHE_NAMES = ("cache", "cache_params", "past_key_values")  # the first since transformers 5.24


class StateCache:
    """What one layer keeps between its tokens, under the names of transformers' cache: [rows, ...] tensors."""

    def __init__(self, conv: Tensor | None = None, recurrent: Tensor | None = None, record_past: bool = True) -> None:
        self.conv_states, self.recurrent_states = [conv], [recurrent]
        self.record_past = record_past  # where it is False, layers may write into these tensors
        self._has_past = conv is not None or recurrent is not None

    @property
    def layers(self) -> StateCache:
        return self

    def __getitem__(self, layer: int) -> StateCache:
        return self

    def has_previous_state(self, layer: int | None = None, state_idx: int = 0) -> bool:
        return self._has_past

    # transformers 5.21 and later ask these in place of the attributes.
    def get_conv_state(self, layer: int, state_idx: int = 0) -> Tensor | None:
        return self.conv_states[0]

    def get_recurrent_state(self, layer: int, state_idx: int = 0) -> Tensor | None:
        return self.recurrent_states[0]

    def is_recording_past(self, layer: int) -> bool:
        return self.record_past

    def update_conv_state(
        self, values: Tensor, layer: int, conv_kernel_size: int, state_idx: int = 0, **_: Any
    ) -> Tensor:
        """values [rows, channels, tokens] of the convolution's input -> the same after what came before."""
        past = self.conv_states[0]
        joined = values if past is None else torch.cat([past, values], -1)
        self.conv_states[0] = F.pad(joined, (max(0, conv_kernel_size - joined.shape[-1]), 0))[..., -conv_kernel_size:]
        return joined

    def update_recurrent_state(self, state: Tensor, layer: int, state_idx: int = 0, **_: Any) -> Tensor:
        self.recurrent_states[0] = state
        return state

    def select(self, rows: Tensor, record_past: bool = True) -> StateCache:
        """The states of some rows, in a cache of their own."""
        conv, recurrent = (
            None if x is None else x.index_select(0, rows) for x in (self.conv_states[0], self.recurrent_states[0])
        )
        return StateCache(conv, recurrent, record_past)


def share_states(model: Any) -> None:
    """Let every layer with a state follow the layout of packs, or the states of rows in progress."""
    for module in model.get_decoder().modules():
        own = module.forward
        follows = isinstance(own, partial) and own.func is _forward
        if not follows and (cache := _cache_argument(module)) is not None:
            module.forward = partial(_forward, module, own, cache)


def keeps_states(model: Any) -> bool:
    """Has a model layers that keep a state of what they have read, instead of its keys and values?"""
    return any(_cache_argument(module) is not None for module in model.get_decoder().modules())


def _cache_argument(module: nn.Module) -> str | None:
    """How the forward of a layer with a state calls its cache; None for other modules."""
    if not hasattr(module, "layer_idx") or not any(isinstance(child, nn.Conv1d) for child in module.children()):
        return None
    parameters = inspect.signature(module.forward).parameters
    return next((name for name in _CACHE_NAMES if name in parameters), None)


def _forward(
    module: Any, own: Callable[..., Tensor], cache_name: str, /, hidden_states: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    """[1, L, D] of a row of packs, or [rows, 1, D] of branches in progress; else the layer's own forward."""
    layout, states = current_layout(), _row_states.get()
    if layout is None and states is None:
        return own(hidden_states, *args, **kwargs)
    rest = {k: v for k, v in kwargs.items() if k not in (*_CACHE_NAMES, "attention_mask", "seq_idx", "cu_seq_lens_q")}
    if layout is not None:
        return _over_packs(
            lambda x, mask, state: own(x, attention_mask=mask, **{cache_name: state}, **rest), hidden_states, layout
        )
    assert states is not None
    return own(hidden_states, attention_mask=None, **{cache_name: states[module.layer_idx]}, **rest)


def _over_packs(
    run: Callable[[Tensor, Tensor | None, StateCache], Tensor], hidden_states: Tensor, layout: Layout
) -> Tensor:
    """Prompts as one left-padded batch (layers leave states alone in padding before a row), branches as a right-padded one."""
    row, prompts = hidden_states[0], layout.prompts
    longest = max(p.stop - p.start for p in prompts)
    padding = [longest - (p.stop - p.start) for p in prompts]
    mask = None
    if any(padding):
        mask = torch.arange(longest, device=row.device) >= torch.tensor(padding, device=row.device)[:, None]
    states = StateCache()
    out = run(torch.stack([F.pad(row[p], (0, 0, n, 0)) for p, n in zip(prompts, padding, strict=True)]), mask, states)
    parts = [x[n:] for x, n in zip(out, padding, strict=True)]
    branches = [(i, b) for i, each in enumerate(layout.each) for b in each if b.stop > b.start]
    if branches:
        owner = torch.tensor([i for i, _ in branches], device=row.device)
        padded = pad_sequence([row[b] for _, b in branches], batch_first=True)
        out = run(padded, None, states.select(owner))
        parts += [x[: b.stop - b.start] for x, (_, b) in zip(out, branches, strict=True)]
    return torch.cat(parts)[None]


_row_states: ContextVar[Mapping[int, StateCache] | None] = ContextVar("row_states", default=None)


@contextmanager
def use_row_states(states: Mapping[int, StateCache]) -> Iterator[None]:
    """Inside, the decoder runs one more token of every row; `states`: by layer, renewed on the way."""
    token = _row_states.set(states)
    try:
        yield
    finally:
        _row_states.reset(token)


def states_of_prompts(caches: list[Any], owner: Tensor) -> dict[int, StateCache]:
    """By layer, the states that transformers' caches hold after their prompts, copied to each row; owner [rows]: its prompt."""
    states = {}
    for index, layers in enumerate(zip(*(cache.layers for cache in caches), strict=True)):
        if not hasattr(layers[0], "conv_states"):
            continue
        conv, recurrent = (_joined([getattr(x, name) for x in layers]) for name in ("conv_states", "recurrent_states"))
        states[index] = StateCache(conv, recurrent).select(owner, record_past=False)
    return states


def _joined(states: list[Any]) -> Tensor | None:
    """Of each cache its only state, if the layer has one of this kind."""
    tensors = [s[0] for s in states]
    return None if tensors[0] is None else torch.cat(tensors)
