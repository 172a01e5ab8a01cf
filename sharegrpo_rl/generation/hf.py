"""Generation with the training model itself: each prompt is run once, its cache branches into n completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharegrpo_rl.data.types import Completion, Prompt
from sharegrpo_rl.generation.generator import Sampling
from sharegrpo_rl.models.batch import model_inputs, rope_positions
from sharegrpo_rl.models.policy import Policy
from sharegrpo_rl.ops.token_logprobs import mask_logits

# Cutting ended rows out of the cache copies it, so it waits until this share of the rows has ended.
ENDED_SHARE = 0.25


class HFGenerator:
    """Prefill once per prompt, then decode all branches together; ended branches leave the batch."""

    def __init__(self, policy: Policy, token_budget: int = 65536) -> None:
        self.policy = policy
        self.token_budget = token_budget

    def generate(
        self, prompts: Sequence[Prompt], num_samples: int, seeds: Sequence[int], sampling: Sampling
    ) -> list[tuple[Completion, ...]]:
        """Completions of each prompt, in order; prompts run in batches of at most `token_budget` cached tokens."""
        if not prompts:
            return []
        results: list[tuple[Completion, ...]] = []
        longest = max(len(p.input_ids) for p in prompts) + sampling.max_tokens
        size = max(1, self.token_budget // (longest * num_samples))
        was_training = self.policy.model.training
        self.policy.model.eval()
        with torch.no_grad():
            for i in range(0, len(prompts), size):
                results += self._batch(prompts[i : i + size], num_samples, seeds[i : i + size], sampling)
        self.policy.model.train(was_training)
        return results

    def _batch(
        self, prompts: Sequence[Prompt], n: int, seeds: Sequence[int], sampling: Sampling
    ) -> list[tuple[Completion, ...]]:
        branches = _Branches(self.policy, prompts, n)
        uniforms = torch.cat([_uniforms(seed, n, sampling.max_tokens) for seed in seeds]).to(branches.logits.device)
        ends = torch.tensor(self.policy.end_ids, device=branches.logits.device)
        tokens: list[list[int]] = [[] for _ in range(len(prompts) * n)]
        logprobs: list[list[float]] = [[] for _ in range(len(prompts) * n)]
        alive = torch.ones_like(branches.rows, dtype=torch.bool)
        for step in range(sampling.max_tokens):
            scores = branches.log_probs()
            numbers = uniforms[branches.rows, step]
            scores = scores if sampling.greedy else nucleus(scores, sampling.top_p)
            chosen = scores.argmax(-1) if sampling.greedy else sample(scores, numbers)
            picked = scores.gather(-1, chosen[:, None])[:, 0]
            for row, token, value in zip(
                branches.rows[alive].tolist(), chosen[alive].tolist(), picked[alive].tolist(), strict=True
            ):
                tokens[row].append(token)
                logprobs[row].append(value)
            alive &= ~torch.isin(chosen, ends)
            if not bool(alive.any()) or step + 1 == sampling.max_tokens:
                break
            if float(alive.float().mean()) <= 1 - ENDED_SHARE:
                branches.keep(alive)
                chosen, alive = chosen[alive], alive[alive]
            branches.step(chosen)
        completions = [self._completion(t, p) for t, p in zip(tokens, logprobs, strict=True)]
        return [tuple(completions[i : i + n]) for i in range(0, len(completions), n)]

    def _completion(self, tokens: list[int], logprobs: list[float]) -> Completion:
        return Completion(
            token_ids=np.asarray(tokens, np.int64),
            sampler_logprobs=np.asarray(logprobs, np.float32),
            text=self.policy.encoder.decode(tokens),
            truncated=tokens[-1] not in self.policy.end_ids,
        )


class _Branches:
    """The rows still decoding: their cache, mask, next positions and the logits of their next token."""

    def __init__(self, policy: Policy, prompts: Sequence[Prompt], n: int) -> None:
        self.policy = policy
        self.model: Any = policy.model
        self.banned = policy.banned.to(self.model.device)
        rows = [p.input_ids for p in prompts]
        inputs = model_inputs(self.model, rows, [p.images for p in prompts], policy.pad_id, "left")
        positions = rope_positions(self.model, inputs)
        out = self.model(**inputs, position_ids=positions, use_cache=True, logits_to_keep=1)
        self.cache = out.past_key_values
        self.cache.batch_repeat_interleave(n)
        self.mask = inputs["attention_mask"].repeat_interleave(n, 0)
        following = positions.amax(-1, keepdim=True) + 1
        if positions.ndim == 3:  # text goes on from the largest of the three coordinates
            following = following.amax(0, keepdim=True).expand(3, -1, -1)
        self.position = following.repeat_interleave(n, -2)
        self.logits = out.logits[:, -1].repeat_interleave(n, 0)
        self.rows = torch.arange(len(prompts) * n, device=self.logits.device)

    def log_probs(self) -> Tensor:
        """[rows, vocabulary] of the policy's next-token distribution."""
        return mask_logits(self.logits, self.policy.temperature, self.banned).log_softmax(-1)

    def keep(self, alive: Tensor) -> None:
        """Drop all other rows."""
        index = alive.nonzero()[:, 0]
        self.cache.batch_select_indices(index)
        self.mask, self.rows = self.mask[index], self.rows[index]
        self.position = self.position[..., index, :]

    def step(self, tokens: Tensor) -> None:
        """Run one more token [rows] through the model."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], 1)
        out = self.model(
            input_ids=tokens[:, None],
            attention_mask=self.mask,
            position_ids=self.position,
            past_key_values=self.cache,
            use_cache=True,
        )
        self.position = self.position + 1
        self.logits = out.logits[:, -1]


def nucleus(log_probs: Tensor, top_p: float) -> Tensor:
    """The distribution that is sampled from: the smallest set of ids with mass `top_p`, renormalized; [B, vocabulary]."""
    if top_p == 1:
        return log_probs
    ordered, order = log_probs.double().exp().sort(-1, descending=True)
    outside = ordered.cumsum(-1) - ordered >= top_p
    kept = log_probs.masked_fill(outside.scatter(-1, order, outside), -torch.inf)
    return kept.log_softmax(-1)


def sample(log_probs: Tensor, uniforms: Tensor) -> Tensor:
    """Inverse-transform sampling: the first id whose cumulative probability exceeds the row's uniform number in [0, 1).

    log_probs: [B, vocabulary]; uniforms: [B].
    """
    cumulative = log_probs.double().exp().cumsum(-1)
    threshold = uniforms[:, None] * cumulative[:, -1:]
    # An id of probability 0 never has a cumulative value above both its predecessor's and the threshold.
    return (cumulative > threshold).int().argmax(-1)


def _uniforms(seed: int, n: int, length: int) -> Tensor:
    """[n, length] uniform numbers that depend on the request's seed only, not on what shares its batch."""
    return torch.from_numpy(np.random.default_rng(seed).random((n, length)))
