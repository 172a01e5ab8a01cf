"""Branch attention without a mask, a copy of the prompt, or padding to speak of: parts joined by their log-sum-exp.

A branch token looks at the prompt (`far`) and at its own branch (`near`): softmax over both is the average of the two
outputs, each weighted by its share exp(lse_part - lse) of the whole normalizer. The gradient needs no rule of its own:
a flash kernel's backward pass computes P = exp(scores - lse) and the correction sum(dO * O), so with the *joined* output
and log-sum-exp in place of its own it gives exactly that part's share.

torch's CPU flash kernels are private operators; torch is pinned, and tests hold them against public attention.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sharegrpo_rl.models.pack_layout import Layout

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
