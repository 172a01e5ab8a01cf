"""Log-probs and entropies from hidden states, the logits in chunks: no [tokens, vocabulary] tensor exists at once.

The backward pass computes each chunk's logits again. With p = softmax(z), z = logits / temperature and g the gradient of
the log-prob of token y: d loss / d z = g (onehot(y) - p); entropies carry no gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

VALUES_AT_ONCE = {"cpu": 1 << 24, "cuda": 1 << 27}
FEWEST_ROWS = 64


def mask_logits(logits: Tensor, temperature: float, banned: Tensor | None) -> Tensor:
    """logits `[..., vocabulary]` / temperature in float32 or wider, with the ids in `banned` at -inf.

    The one definition of the policy, for trainer, sampler and reference alike.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if temperature != 1.0:
        logits = logits / temperature
    return logits if banned is None else logits.index_fill(-1, banned, float("-inf"))


def token_logprobs(logits: Tensor, token_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Log-prob of each id and entropy of its distribution (without gradient); logits `[N, vocabulary]` -> `[N]`, `[N]`."""
    logprobs = logits.log_softmax(-1)
    with torch.no_grad():
        # Banned ids have -inf; any finite number does, as their probability is 0.
        entropy = -(logprobs.exp() * logprobs.clamp(min=torch.finfo(logprobs.dtype).min)).sum(-1)
    return logprobs.gather(-1, token_ids[:, None])[:, 0], entropy


def chunk_rows(tokens: int, vocabulary: int, device: str) -> int:
    """Rows of one chunk: as many as the limit of values allows, and a quarter of the tokens at most."""
    limit = VALUES_AT_ONCE.get(device, VALUES_AT_ONCE["cpu"]) // vocabulary
    return max(1, min(limit, max(FEWEST_ROWS, -(-tokens // 4))))


def head_logprobs(
    hidden: Tensor,
    weight: Tensor,
    token_ids: Tensor,
    temperature: float = 1.0,
    banned: Tensor | None = None,
    rows: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-prob [N] of each token and entropy [N] (nats, without gradient) under softmax(hidden @ weight.T / temperature).

    hidden: [N, D]; weight: [V, D]; token_ids: [N]; banned: ids with probability 0; rows: of one chunk. float32 or wider.
    """
    rows = rows or chunk_rows(len(hidden), len(weight), hidden.device.type)
    result: tuple[Tensor, Tensor] = _HeadLogprobs.apply(hidden, weight, token_ids, temperature, banned, rows)
    return result


def _chunks(count: int, rows: int) -> Iterator[slice]:
    return (slice(start, min(start + rows, count)) for start in range(0, count, rows))


class _HeadLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        token_ids: Tensor,
        temperature: float,
        banned: Tensor | None,
        rows: int,
    ) -> tuple[Tensor, Tensor]:
        wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        logprobs, entropy, normalizer = (hidden.new_empty(len(hidden), dtype=wide) for _ in range(3))
        for part in _chunks(len(hidden), rows):
            scores = mask_logits(hidden[part] @ weight.T, temperature, banned)
            normalizer[part] = total = scores.logsumexp(-1)
            scores -= total[:, None]
            logprobs[part] = scores.gather(1, token_ids[part, None])[:, 0]
            probabilities = scores.exp()
            if banned is not None:
                scores.index_fill_(1, banned, 0.0)  # -inf times a probability of 0 would be no number
            entropy[part] = -probabilities.mul_(scores).sum(-1)
        ctx.save_for_backward(hidden, weight, token_ids, banned, normalizer)
        ctx.temperature, ctx.rows = temperature, rows
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, token_ids, banned, normalizer = ctx.saved_tensors
        upstream = gradients[0]
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        # Chunks add up in float32: in bfloat16 each sum would be rounded again.
        grad_weight = torch.zeros_like(weight, dtype=normalizer.dtype) if wants_weight else None
        for part in _chunks(len(hidden), ctx.rows):
            scores = mask_logits(hidden[part] @ weight.T, ctx.temperature, banned)
            grad = scores.sub_(normalizer[part, None]).exp_().mul_(-upstream[part, None])
            grad.scatter_add_(1, token_ids[part, None], upstream[part, None])
            if banned is not None:
                grad.index_fill_(1, banned, 0.0)
            grad = (grad if ctx.temperature == 1.0 else grad.div_(ctx.temperature)).to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = grad @ weight
            if grad_weight is not None:
                if grad.dtype == grad_weight.dtype:
                    grad_weight.addmm_(grad.T, hidden[part])
                else:
                    grad_weight += grad.T @ hidden[part]
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), None, None, None, None
