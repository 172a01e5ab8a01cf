"""Branch attention on CUDA: two kernel launches for all packs of a row, joined by their log-sum-exp.

As in `merged_attention`: every prompt and every branch attends to itself in one launch, all branches to their prompts in
the other, and a kernel's gradient with the joined output and normalizer is that part's share.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sharegrpo_rl.models.pack_layout import Layout
from sharegrpo_rl.models.varlen_attention import varlen_backward, varlen_forward


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
