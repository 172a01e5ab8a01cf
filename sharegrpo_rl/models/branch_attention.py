"""Attention over packs in one row: each prompt once and causal, its completions as branches over the prompt and themselves.

No [L, L] mask exists. A branch token attends to its prompt (`far`) and to its own branch (`near`); softmax over both is the
average of the two outputs, each weighted by its share exp(lse_part - lse) of the joined normalizer. The gradient needs no
rule of its own: a flash kernel's backward pass computes P = exp(scores - lse) and the correction sum(dO * O), so given the
joined output and normalizer in place of its own it returns exactly that part's share.

`merged_attention` (CPU) and `joined_attention` (CUDA, half precision) work that way, on flash kernels that are private
operators: torch's public functions give no gradient for a joined normalizer. Tests hold both against public attention, with
the oldest and the newest torch that we allow. `attend` is the portable reference, and what runs where a torch has no such
operators or has given them other arguments: plain SDPA over a padded [G, T] batch of each pack's branches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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

NAME = "branch"
OLDEST = (8, 0)  # compute capability: Ampere
LARGEST_HEAD = 256


def private_operator(name: str, arguments: str) -> Any:
    """torch's operator of that name; None where this torch has none, or one that takes other positional arguments."""
    packet = getattr(torch.ops.aten, name, None)
    if packet is None:
        return None
    positional = [a.name for a in packet.default._schema.arguments if not a.kwarg_only]
    return packet.default if positional == arguments.split() else None


_QKV = "query key value"
_SPANS = "cum_seq_q cum_seq_k max_q max_k dropout_p is_causal"
_CPU = "_scaled_dot_product_flash_attention_for_cpu"
_cpu_forward = private_operator(_CPU, f"{_QKV} dropout_p is_causal")
_cpu_backward = private_operator(f"{_CPU}_backward", f"grad_out {_QKV} out logsumexp dropout_p is_causal")
_cuda_forward = private_operator("_flash_attention_forward", f"{_QKV} {_SPANS} return_debug_mask")
_cuda_backward = private_operator(
    "_flash_attention_backward", f"grad_out {_QKV} out logsumexp {_SPANS} rng_state unused"
)


def register() -> None:
    """Make `branch` known to transformers. Without a mask function of its own, padding masks would be dropped silently."""
    AttentionInterface.register(NAME, branch_attention)
    AttentionMaskInterface.register(NAME, branch_mask)


def branch_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """transformers' attention function: branches inside `use_layout(...)`, plain SDPA outside it."""
    layout = current_layout()
    if layout is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    masks = attention_mask if isinstance(attention_mask, PromptMasks) else None
    if (attention_mask is not None and masks is None) or kwargs.get("dropout"):
        raise ValueError("packed rows take no attention mask and no attention dropout")
    if query.shape[2] != layout.length:
        raise ValueError(f"the row has {query.shape[2]} tokens, its layout {layout.length}")
    window = kwargs.get("sliding_window")
    if masks is not None or (window is not None and window < layout.longest):
        return attend(query, key, value, layout, kwargs["scaling"], window, masks), None
    merges = query.device.type == "cpu" and _cpu_forward is not None and _cpu_backward is not None
    run = merged_attention if merges else joined_attention if has_kernels(query) else attend
    return run(query, key, value, layout, kwargs["scaling"]), None


def branch_mask(*args: Any, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor | PromptMasks | None:
    """transformers' mask function: plain SDPA's outside `use_layout(...)`.

    Inside, positions start again at each pack and would look like sequences to keep apart: there is no mask, but for prompts
    whose tokens attend to later ones too (Gemma's pictures).
    """
    layout = current_layout()
    if layout is None:
        return sdpa_mask(*args, attention_mask=attention_mask, **kwargs)
    if attention_mask is not None and not layout.has_types:
        raise ValueError("packed rows take no attention mask and no attention dropout")
    return PromptMasks.of(layout, kwargs["mask_function"]) if layout.has_types else None


@dataclass(frozen=True)
class PromptMasks:
    """For each prompt [P, P]: True where the token of a row attends to that of a column."""

    masks: list[Tensor]

    @classmethod
    def of(cls, layout: Layout, attends: Callable[..., Tensor]) -> PromptMasks | None:
        """By a mask function of transformers (batch, head, query, key); None where each token attends to those before it."""
        masks, plain = [], True
        for prompt in layout.prompts:
            places = torch.arange(prompt.start, prompt.stop, device=layout.device)
            zero = places.new_zeros(())
            masks.append(attends(zero, zero, places[:, None], places[None]))
            plain = plain and not bool(masks[-1].triu(1).any())
        return None if plain else cls(masks)


@dataclass(frozen=True)
class Sequences:
    """Sequences that fill a row side by side: 0 and the end of each [n + 1], int32; tokens of the longest."""

    ends: Tensor
    longest: int

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Sequences:
        ends = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
        return cls(ends, max(lengths, default=0))


class Layout:
    """The packs of one row: all prompts first, then the branches (completions) of each pack.

    `shapes` holds the prompt's and the branches' lengths of each pack. A branch may be empty, and a pack may have none: then
    its prompt is all of it. `prompts` and `branches` are the slices of each pack, `each` those of its single branches.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, Sequence[int]]],
        device: torch.device | str = "cpu",
        has_types: bool = False,
    ) -> None:
        """has_types: the model is told the types of tokens, by which some of a prompt may attend to later ones."""
        self.device, self.has_types = torch.device(device), has_types
        self.longest = max((p + max(lengths, default=0) for p, lengths in shapes), default=0)
        ends = list(accumulate((p for p, _ in shapes), initial=0))
        self.prompts = [slice(a, b) for a, b in pairwise(ends)]
        ends = list(accumulate((sum(lengths) for _, lengths in shapes), initial=ends[-1]))
        self.branches = [slice(a, b) for a, b in pairwise(ends)]
        self.length = ends[-1]
        self.each: list[list[slice]] = []
        for branches, (_, lengths) in zip(self.branches, shapes, strict=True):
            self.each.append([slice(a, b) for a, b in pairwise(accumulate(lengths, initial=branches.start))])

    @property
    def branches_start(self) -> int:
        """Where the first branch begins."""
        return self.prompts[-1].stop

    @cached_property
    def buckets(self) -> list[Bucket]:
        """All branches by length, rounded up by at most a quarter (or to 8), so that little is padded."""
        by_width: dict[int, list[slice]] = {}
        for branch in self._nonempty:
            length = branch.stop - branch.start
            step = max(8, 1 << max(0, length.bit_length() - 3))
            by_width.setdefault(-(-length // step) * step, []).append(branch)
        return [Bucket(branches, self.device) for branches in by_width.values()]

    @cached_property
    def single_sequences(self) -> Sequences:
        """Every prompt and every branch by itself, in the order of the row."""
        return self._sequences([*self.prompts, *self._nonempty])

    @cached_property
    def prompt_sequences(self) -> Sequences:
        """The prompt of each pack."""
        return self._sequences(self.prompts)

    @cached_property
    def branch_sequences(self) -> Sequences:
        """All branches of each pack together."""
        return self._sequences(self.branches)

    @property
    def _nonempty(self) -> list[slice]:
        return [b for each in self.each for b in each if b.stop > b.start]

    def _sequences(self, spans: Sequence[slice]) -> Sequences:
        return Sequences.of([s.stop - s.start for s in spans], self.device)


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
        """As `pad`, with zeros in padded cells: they add nothing to any gradient."""
        if self.view is not None:
            return self.pad(x)
        rows = x.new_zeros(self.size * self.width, *x.shape[1:])
        rows.index_copy_(0, self._cells, x.index_select(0, self._tokens))
        return rows.unflatten(0, (self.size, self.width)).transpose(1, 2)

    def write(self, x: Tensor, row: Tensor) -> None:
        """[G, H, T, D] -> the branches' tokens in the row [L, H, D]; padding is dropped."""
        flat = x.transpose(1, 2).flatten(0, 1)
        if self.view is not None:
            row[self.view] = flat
        else:
            row.index_copy_(0, self._tokens, flat.index_select(0, self._cells))


# A context, not an argument of the forward: no layer can drop it on the way.
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


def merged_attention(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float) -> Tensor:
    """query [1, H, L, D], key and value [1, KV, L, D] (KV divides H) -> [1, L, H, D]; on CPU."""
    return _MergedAttention.apply(query, key, value, layout, scale)


class _MergedAttention(torch.autograd.Function):
    """A kernel call for each prompt, each bucket of branches, and each pack's branches over their prompt."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float) -> Tensor:
        out = _empty_heads(query)
        wide = torch.float64 if query.dtype == torch.float64 else torch.float32
        total = query.new_empty(1, query.shape[2], query.shape[1], dtype=wide).transpose(1, 2)  # [1, H, L]
        for prompt in layout.prompts:
            q, k, v = (x[:, :, prompt] for x in (query, key, value))
            out[:, :, prompt], total[:, :, prompt] = _cpu_forward(q, k, v, 0.0, True, scale=scale)
        rows = [_row(x) for x in (query, key, value)]
        for bucket in layout.buckets:
            near, near_total = _cpu_forward(*(bucket.pad(x) for x in rows), 0.0, True, scale=scale)
            bucket.write(near, _row(out))
            bucket.write(near_total[..., None], _row(total[..., None]))
        for prompt, branches in zip(layout.prompts, layout.branches, strict=True):
            if branches.stop == branches.start:
                continue
            q, k, v = query[:, :, branches], key[:, :, prompt], value[:, :, prompt]
            far, far_total = _cpu_forward(q, k, v, 0.0, False, scale=scale)
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
        grads = [_empty_heads(x) for x in (query, key, value)]
        grad_q, grad_k, grad_v = grads

        def part(rows: slice, keys: slice, causal: bool) -> tuple[Tensor, Tensor, Tensor]:
            inputs = (upstream[:, :, rows], query[:, :, rows], key[:, :, keys], value[:, :, keys])
            return _cpu_backward(*inputs, out[:, :, rows], total[:, :, rows], 0.0, causal, scale=scale)

        rows = [_row(x) for x in (query, key, value, out)]
        for bucket in layout.buckets:
            padded = [bucket.pad(x) for x in rows]
            normalizer = bucket.pad(_row(total[..., None]))[..., 0]
            near = _cpu_backward(bucket.pad_gradient(_row(upstream)), *padded, normalizer, 0.0, True, scale=scale)
            for gradient, near_gradient in zip(grads, near, strict=True):
                bucket.write(near_gradient, _row(gradient))
        for prompt, branches in zip(layout.prompts, layout.branches, strict=True):
            grad_q[:, :, prompt], grad_k[:, :, prompt], grad_v[:, :, prompt] = part(prompt, prompt, True)
            if branches.stop > branches.start:
                far_q, far_k, far_v = part(branches, prompt, False)
                grad_q[:, :, branches] += far_q
                grad_k[:, :, prompt] += far_k
                grad_v[:, :, prompt] += far_v
        return grad_q, grad_k, grad_v, None, None


def _row(x: Tensor) -> Tensor:
    """[1, H, L, D] -> [L, H, D], a view."""
    return x[0].transpose(0, 1)


def _empty_heads(like: Tensor) -> Tensor:
    """[1, H, L, D] laid out as [1, L, H, D], as transformers wants the result."""
    _, heads, length, size = like.shape
    return like.new_empty(1, length, heads, size).transpose(1, 2)


def joined_attention(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float) -> Tensor:
    """query [1, H, L, D], key and value [1, KV, L, D] (KV divides H) -> [1, L, H, D]; half precision, on CUDA."""
    return _JoinedAttention.apply(*(_row(x) for x in (query, key, value)), layout, scale)[None]


class _JoinedAttention(torch.autograd.Function):
    """Over rows [L, H, D], two launches for all packs: every prompt and branch over itself, all branches over their prompts."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float) -> Tensor:
        single, branches, start = layout.single_sequences, layout.branch_sequences, layout.branches_start
        out, total = varlen_forward(query, key, value, single, single, True, scale)
        if branches.longest:
            inputs = (query[start:], key[:start], value[:start])
            far, far_total = varlen_forward(*inputs, branches, layout.prompt_sequences, False, scale)
            both = torch.logaddexp(total[:, start:], far_total)
            share = (far_total - both).exp_().T[..., None].to(out.dtype)
            # Not in place: activation checkpointing may keep what the kernels returned, and join it again.
            out = torch.cat([out[:start], out[start:].lerp(far, share)])
            total = torch.cat([total[:, :start], both], 1)
        ctx.save_for_backward(query, key, value, out, total)
        ctx.layout, ctx.scale = layout, scale
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, total = ctx.saved_tensors
        layout, scale, upstream = ctx.layout, ctx.scale, gradients[0]
        single, branches, start = layout.single_sequences, layout.branch_sequences, layout.branches_start
        grad_q, grad_k, grad_v = varlen_backward(upstream, (query, key, value), out, total, single, single, True, scale)
        if branches.longest:
            inputs = (query[start:], key[:start], value[:start])
            normalizer = total[:, start:].contiguous()
            far_q, far_k, far_v = varlen_backward(
                upstream[start:], inputs, out[start:], normalizer, branches, layout.prompt_sequences, False, scale
            )
            for prompt, of_prompt in zip(layout.prompts, layout.branches, strict=True):
                if of_prompt.stop == of_prompt.start:  # no query: the kernel leaves these uninitialised
                    far_k[prompt], far_v[prompt] = 0, 0
            grad_q[start:] += far_q
            grad_k[:start] += far_k
            grad_v[:start] += far_v
        return grad_q, grad_k, grad_v, None, None


def has_kernels(x: Tensor) -> bool:
    """Do torch's flash kernels for CUDA take queries, keys and values like this one, [..., D]?"""
    return (
        x.is_cuda
        and _cuda_forward is not None
        and _cuda_backward is not None
        and x.dtype in (torch.bfloat16, torch.float16)
        and x.shape[-1] % 8 == 0
        and x.shape[-1] <= LARGEST_HEAD
        and torch.cuda.get_device_capability(x.device) >= OLDEST
    )


def varlen_forward(
    query: Tensor, key: Tensor, value: Tensor, queries: Sequences, keys: Sequences, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """query [Q, H, D], key and value [K, KV, D] -> output [Q, H, D] and log-sum-exp of the scores [H, Q]; on CUDA.

    Sequence i of `queries` attends to sequence i of `keys`. torch's autograd knows the gradient of the output.
    """
    spans = (queries.ends, keys.ends, queries.longest, keys.longest)
    out, total, *_ = _cuda_forward(query, key, value, *spans, 0.0, causal, False, scale=scale)
    return out, total


def varlen_backward(
    gradient: Tensor,
    inputs: tuple[Tensor, Tensor, Tensor],
    out: Tensor,
    total: Tensor,
    queries: Sequences,
    keys: Sequences,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value (`inputs`) for an output and its normalizer: of a joined one, this part's share."""
    spans = (queries.ends, keys.ends, queries.longest, keys.longest)
    no_dropout = torch.empty(2, dtype=torch.uint64, device=gradient.device)
    grads = _cuda_backward(
        gradient, *inputs, out, total, *spans, 0.0, causal, no_dropout, gradient.new_empty(()), scale=scale
    )
    return grads[0], grads[1], grads[2]


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    scale: float,
    window: int | None = None,
    masks: PromptMasks | None = None,
) -> Tensor:
    """query [1, H, L, D], key and value [1, KV, L, D] -> [1, L, H, D]; on any device, in any type.

    window: how many tokens, itself among them, a token attends to; masks: who in a prompt attends to whom.
    """
    # CUDA has lean kernels for grouped heads in few cases: they are repeated, as transformers does.
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    spans = [*layout.prompts, *layout.branches]
    # One split, not a slice for each pack: the gradient of a slice is a full zero tensor that has to be added up.
    parts = list(zip(*(x.split([s.stop - s.start for s in spans], 2) for x in (query, key, value)), strict=True))
    prompts, branches = parts[: len(layout.prompts)], parts[len(layout.prompts) :]
    open_to: Sequence[Tensor | None] = [None] * len(prompts)
    if masks is not None:
        open_to = masks.masks
    elif window is not None:
        open_to = [_band(q.shape[2], 0, window, q.device) for q, _, _ in prompts]
    outs = []
    for (q, k, v), mask in zip(prompts, open_to, strict=True):
        outs.append(F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, scale=scale)[0])
    for prompt, of_prompt, each in zip(prompts, branches, layout.each, strict=True):
        outs.append(_attend_branches(prompt, of_prompt, [b.stop - b.start for b in each], scale, window))
    return torch.cat(outs, 1).transpose(0, 1)[None]


def _band(tokens: int, before: int, window: int | None, device: torch.device) -> Tensor:
    """[tokens, before + tokens]: True where a token attends: to itself and those before it, as far as the window reaches."""
    columns = torch.arange(before + tokens, device=device)
    distance = columns[before:, None] - columns
    return (distance >= 0) & (distance < (before + tokens if window is None else window))


def _attend_branches(
    prompt: tuple[Tensor, ...], branches: tuple[Tensor, ...], lengths: list[int], scale: float, window: int | None
) -> Tensor:
    """Branch tokens [H, N, D] of one pack; both arguments are query, key and value [1, H, tokens, D]."""
    _, key, value = prompt
    if window is not None:  # as far as a first token sees
        key, value = (x[:, :, max(0, x.shape[2] + 1 - window) :] for x in (key, value))
    length, width = key.shape[2], max(lengths, default=0)
    if width == 0:
        return branches[0][0]
    padded = [pad_sequence([*x[0].transpose(0, 1).split(lengths)], batch_first=True).transpose(1, 2) for x in branches]
    q, k, v = padded
    k, v = (torch.cat([shared.expand(len(lengths), -1, -1, -1), x], 2) for shared, x in ((key, k), (value, v)))
    # The prompt is open, the branch causal; padding lies behind the tokens that count.
    out = F.scaled_dot_product_attention(q, k, v, _band(width, length, window, q.device), scale=scale)
    return torch.cat([x[:, :n] for x, n in zip(out, lengths, strict=True)], 1)
