"""Attention over packs: each prompt once and causal, its completions as branches over the prompt and themselves.

No [L, L] mask exists. The lean ways are `merged_attention` (CPU) and `joined_attention` (CUDA, half precision); `attend`
is the portable one, plain SDPA with the branches of a pack as a padded [G, T] batch whose keys are the prompt's followed
by their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

# ---- Attention over sequences of several lengths in one row, without padding: torch's flash kernels for CUDA.
#
# torch's kernels are private operators, as its public functions give no gradient for a joined normalizer; torch is pinned,
# and tests hold them against public attention.

_forward = torch.ops.aten._flash_attention_forward.default
_backward = torch.ops.aten._flash_attention_backward.default

OLDEST = (8, 0)  # compute capability: Ampere
LARGEST_HEAD = 256


@dataclass(frozen=True)
class Sequences:
    """Where sequences that fill a row end: 0 and each end [n + 1], int32 on the row's device; tokens of the longest."""

    ends: Tensor
    longest: int

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Sequences:
        """Sequences of these lengths, side by side."""
        ends = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
        return cls(ends, max(lengths, default=0))


def has_kernels(x: Tensor) -> bool:
    """Do the kernels take queries, keys and values like this one, [..., D]?"""
    return (
        x.is_cuda
        and x.dtype in (torch.bfloat16, torch.float16)
        and x.shape[-1] % 8 == 0
        and x.shape[-1] <= LARGEST_HEAD
        and torch.cuda.get_device_capability(x.device) >= OLDEST
    )


def varlen_forward(
    query: Tensor, key: Tensor, value: Tensor, asking: Sequences, asked: Sequences, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """query [Q, H, D], key and value [K, KV, D] -> output [Q, H, D] and log-sum-exp of the scores [H, Q].

    Sequence i of `asking` attends to sequence i of `asked`. torch's autograd knows the gradient of the output.
    """
    spans = (asking.ends, asked.ends, asking.longest, asked.longest)
    out, total, *_ = _forward(query, key, value, *spans, 0.0, causal, False, scale=scale)
    return out, total


def varlen_backward(
    gradient: Tensor,
    inputs: tuple[Tensor, Tensor, Tensor],
    out: Tensor,
    total: Tensor,
    asking: Sequences,
    asked: Sequences,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value (`inputs`), given the output and its normalizer: this part's share of a joined one."""
    spans = (asking.ends, asked.ends, asking.longest, asked.longest)
    no_dropout = torch.empty(2, dtype=torch.uint64, device=gradient.device)
    grads = _backward(
        gradient, *inputs, out, total, *spans, 0.0, causal, no_dropout, gradient.new_empty(()), scale=scale
    )
    return grads[0], grads[1], grads[2]


# ---- Where packs lie in one row: all prompts first, then the branches (completions) of each pack.
#
# The layout of a forward is set by a context, not handed down as an argument: no layer can drop it on the way.


class Bucket:
    """Branches of about equal length, run as one padded batch [G, T]."""

    def __init__(self, branches: Sequence[slice], device: torch.device) -> None:
        lengths = [b.stop - b.start for b in branches]
        self.size, self.width = len(branches), max(lengths)
        adjoining = all(a.stop == b.start for a, b in pairwise(branches))
        # Equal branches side by side are a view of the row; others are gathered.
        self.view = slice(branches[0].start, branches[-1].stop) if adjoining and min(lengths) == self.width else None
        starts = torch.tensor([b.start for b in branches], device=device)[:, None]
        sizes = torch.tensor(lengths, device=device)[:, None]
        steps = torch.arange(self.width, device=device)[None]
        # Padding repeats a branch's last token: it lies behind every real one, and its outputs are dropped.
        self._sources = (starts + torch.minimum(steps, sizes - 1)).flatten()
        self._cells = (steps < sizes).flatten().nonzero()[:, 0]
        self._tokens = self._sources[self._cells]

    def pad(self, x: Tensor) -> Tensor:
        """[L, H, D] of the row -> [G, H, T, D]."""
        rows = x[self.view] if self.view is not None else x.index_select(0, self._sources)
        return rows.unflatten(0, (self.size, self.width)).transpose(1, 2)

    def pad_gradient(self, x: Tensor) -> Tensor:
        """As `pad`, zeros in padded cells: they add nothing to any gradient."""
        if self.view is not None:
            return self.pad(x)
        rows = x.new_zeros(self.size * self.width, *x.shape[1:])
        rows.index_copy_(0, self._cells, x.index_select(0, self._tokens))
        return rows.unflatten(0, (self.size, self.width)).transpose(1, 2)

    def write(self, x: Tensor, row: Tensor) -> None:
        """[G, H, T, D] -> its places in the row [L, H, D]; padding is dropped."""
        flat = x.transpose(1, 2).flatten(0, 1)
        if self.view is not None:
            row[self.view] = flat
        else:
            row.index_copy_(0, self._tokens, flat.index_select(0, self._cells))


class Layout:
    """The packs of one row; `shapes` holds the prompt's and the branches' lengths of each. A branch may be empty, and a
    pack may have none: then what is called its prompt is all of it."""

    def __init__(self, shapes: Sequence[tuple[int, Sequence[int]]], device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        ends = list(accumulate((p for p, _ in shapes), initial=0))
        self.prompts = [slice(a, b) for a, b in pairwise(ends)]
        ends = list(accumulate((sum(lengths) for _, lengths in shapes), initial=ends[-1]))
        self.branches = [slice(a, b) for a, b in pairwise(ends)]
        self.length = ends[-1]
        self.each: list[list[slice]] = []
        for branches, (_, lengths) in zip(self.branches, shapes, strict=True):
            self.each.append([slice(a, b) for a, b in pairwise(accumulate(lengths, initial=branches.start))])

    @cached_property
    def buckets(self) -> list[Bucket]:
        """All branches by length, rounded up by at most a quarter (or to 8), so that little is padded."""
        by_width: dict[int, list[slice]] = {}
        for branch in (b for each in self.each for b in each if b.stop > b.start):
            length = branch.stop - branch.start
            step = max(8, 1 << max(0, length.bit_length() - 3))
            by_width.setdefault(-(-length // step) * step, []).append(branch)
        return [Bucket(branches, self.device) for branches in by_width.values()]

    @cached_property
    def own(self) -> Sequences:
        """Every prompt and every branch by itself, in the order of the row."""
        spans = [*self.prompts, *(b for each in self.each for b in each if b.stop > b.start)]
        return self._sequences(spans)

    @cached_property
    def prompt_parts(self) -> Sequences:
        """The prompt of each pack."""
        return self._sequences(self.prompts)

    @cached_property
    def branch_parts(self) -> Sequences:
        """All branches of each pack together."""
        return self._sequences(self.branches)

    def _sequences(self, spans: Sequence[slice]) -> Sequences:
        return Sequences.of([s.stop - s.start for s in spans], self.device)


_layout: ContextVar[Layout | None] = ContextVar("branch_layout", default=None)


def current_layout() -> Layout | None:
    """The layout of the forward that is running; None outside one."""
    return _layout.get()


@contextmanager
def use_layout(layout: Layout) -> Iterator[None]:
    """Inside, the language model's attention follows this layout."""
    token = _layout.set(layout)
    try:
        yield
    finally:
        _layout.reset(token)


# ---- Branch attention on CUDA: two kernel launches for all packs of a row, joined by their log-sum-exp.
#
# As in `merged_attention`: every prompt and every branch attends to itself in one launch, all branches to their prompts in
# the other, and a kernel's gradient with the joined output and normalizer is that part's share.


def joined_attention(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float) -> Tensor:
    """query [1, H, L, D], key and value [1, KV, L, D] (KV divides H) -> [1, L, H, D]; half precision, on CUDA."""
    rows = (x[0].transpose(0, 1) for x in (query, key, value))
    return _JoinedAttention.apply(*rows, layout, scale)[None]


class _JoinedAttention(torch.autograd.Function):
    """Over rows [L, H, D]; prompts come first in a row, then all branches."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float) -> Tensor:
        own, prompts, branches, start = layout.own, layout.prompt_parts, layout.branch_parts, layout.prompts[-1].stop
        out, total = varlen_forward(query, key, value, own, own, True, scale)
        if branches.longest:
            far, far_total = varlen_forward(query[start:], key[:start], value[:start], branches, prompts, False, scale)
            both = torch.logaddexp(total[:, start:], far_total)
            share = (far_total - both).exp_().T[..., None].to(out.dtype)
            # Not in place: gradient checkpointing may keep what the kernels returned, and join it again.
            out = torch.cat([out[:start], out[start:].lerp(far, share)])
            total = torch.cat([total[:, :start], both], 1)
        ctx.save_for_backward(query, key, value, out, total)
        ctx.layout, ctx.scale = layout, scale
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, total = ctx.saved_tensors
        layout, scale, upstream = ctx.layout, ctx.scale, gradients[0]
        own, prompts, branches, start = layout.own, layout.prompt_parts, layout.branch_parts, layout.prompts[-1].stop
        grad_q, grad_k, grad_v = varlen_backward(upstream, (query, key, value), out, total, own, own, True, scale)
        if branches.longest:
            inputs = (query[start:], key[:start], value[:start])
            normalizer = total[:, start:].contiguous()
            far_q, far_k, far_v = varlen_backward(
                upstream[start:], inputs, out[start:], normalizer, branches, prompts, False, scale
            )
            for prompt, own_branches in zip(layout.prompts, layout.branches, strict=True):
                if own_branches.stop == own_branches.start:  # nobody asked: the kernel leaves these as they were
                    far_k[prompt], far_v[prompt] = 0, 0
            grad_q[start:] += far_q
            grad_k[:start] += far_k
            grad_v[:start] += far_v
        return grad_q, grad_k, grad_v, None, None


# ---- Branch attention without a mask, a copy of the prompt, or padding to speak of: parts joined by their log-sum-exp.
#
# A branch token looks at the prompt (`far`) and at its own branch (`near`): softmax over both is the average of the two
# outputs, each weighted by its share exp(lse_part - lse) of the whole normalizer. The gradient needs no rule of its own:
# a flash kernel's backward pass computes P = exp(scores - lse) and the correction sum(dO * O), so with the *joined* output
# and log-sum-exp in place of its own it gives exactly that part's share.
#
# torch's CPU flash kernels are private operators; torch is pinned, and tests hold them against public attention.

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default


def merged_attention(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float) -> Tensor:
    """query [1, H, L, D], key and value [1, KV, L, D] (KV divides H) -> [1, L, H, D]; on CPU."""
    return _MergedAttention.apply(query, key, value, layout, scale)


def _row(x: Tensor) -> Tensor:
    """[1, H, L, D] -> [L, H, D], a view."""
    return x[0].transpose(0, 1)


def _empty_heads(like: Tensor) -> Tensor:
    """[1, H, L, D] laid out as [1, L, H, D], as transformers wants the result."""
    _, heads, length, size = like.shape
    return like.new_empty(1, length, heads, size).transpose(1, 2)


class _MergedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float) -> Tensor:
        out = _empty_heads(query)
        wide = torch.float64 if query.dtype == torch.float64 else torch.float32
        total = query.new_empty(1, query.shape[2], query.shape[1], dtype=wide).transpose(1, 2)  # [1, H, L]
        for prompt in layout.prompts:
            q, k, v = (x[:, :, prompt] for x in (query, key, value))
            out[:, :, prompt], total[:, :, prompt] = _flash(q, k, v, 0.0, True, scale=scale)
        rows = [_row(x) for x in (query, key, value)]
        for bucket in layout.buckets:
            near, near_total = _flash(*(bucket.pad(x) for x in rows), 0.0, True, scale=scale)
            bucket.write(near, _row(out))
            bucket.write(near_total[..., None], _row(total[..., None]))
        for prompt, branches in zip(layout.prompts, layout.branches, strict=True):
            if branches.stop == branches.start:
                continue
            q, k, v = query[:, :, branches], key[:, :, prompt], value[:, :, prompt]
            far, far_total = _flash(q, k, v, 0.0, False, scale=scale)
            both = torch.logaddexp(total[:, :, branches], far_total)
            share = (far_total - both).exp_().to(out.dtype)[..., None]
            out[:, :, branches].lerp_(far, share)
            total[:, :, branches] = both
        ctx.save_for_backward(query, key, value, out, total)
        ctx.layout, ctx.scale = layout, scale
        return out.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, total = ctx.saved_tensors
        layout, scale, upstream = ctx.layout, ctx.scale, gradients[0].transpose(1, 2)
        found = [_empty_heads(x) for x in (query, key, value)]
        grad_q, grad_k, grad_v = found

        def part(rows: slice, keys: slice, causal: bool) -> tuple[Tensor, Tensor, Tensor]:
            whole = (upstream[:, :, rows], query[:, :, rows], key[:, :, keys], value[:, :, keys])
            return _flash_backward(*whole, out[:, :, rows], total[:, :, rows], 0.0, causal, scale=scale)

        rows = [_row(x) for x in (query, key, value, out)]
        for bucket in layout.buckets:
            padded = [bucket.pad(x) for x in rows]
            normalizer = bucket.pad(_row(total[..., None]))[..., 0]
            near = _flash_backward(bucket.pad_gradient(_row(upstream)), *padded, normalizer, 0.0, True, scale=scale)
            for gradient, own in zip(found, near, strict=True):
                bucket.write(own, _row(gradient))
        for prompt, branches in zip(layout.prompts, layout.branches, strict=True):
            grad_q[:, :, prompt], grad_k[:, :, prompt], grad_v[:, :, prompt] = part(prompt, prompt, True)
            if branches.stop > branches.start:
                far_q, far_k, far_v = part(branches, prompt, False)
                grad_q[:, :, branches] += far_q
                grad_k[:, :, prompt] += far_k
                grad_v[:, :, prompt] += far_v
        return grad_q, grad_k, grad_v, None, None


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
