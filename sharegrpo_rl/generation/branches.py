"""The rows still being decoded: over a shared prompt where the model's family is tested for it, over copies elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from sharegrpo_rl.data.types import Prompt
from sharegrpo_rl.generation.prefill import Prefilled, chunks, prefill
from sharegrpo_rl.models.decode_attention import BranchStore, decode_mode
from sharegrpo_rl.models.image_features import ImageBank
from sharegrpo_rl.models.policy import Policy, unwrapped


class Branches(Protocol):
    """n rows of each prompt, in order."""

    logits: Tensor
    """[rows, vocabulary] of the next token."""

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these."""

    def step(self, tokens: Tensor) -> None:
        """Run one more token [rows] through the model."""


class SharedBranches:
    """Branches over keys and values of their prompt that exist once. Equal prompts are one."""

    def __init__(
        self,
        policy: Policy,
        prompts: Sequence[Prompt],
        counts: Sequence[int],
        images: ImageBank | None,
        max_tokens: int,
    ) -> None:
        model = unwrapped(policy.model)
        self.decoder, self.head = model.get_decoder(), model.get_output_embeddings()
        parts = [prefill(policy, some, images.of(some) if images else None) for some in chunks(prompts)]
        device = parts[0].logits.device
        owner = torch.arange(len(prompts), device=device).repeat_interleave(torch.tensor(counts, device=device))
        longest = max(p.mask.shape[1] for p in parts)
        padding = torch.cat([F.pad(p.mask == 0, (longest - p.mask.shape[1], 0), value=True) for p in parts])
        self.store = BranchStore(_layers(parts, padding), padding, owner, max_tokens)
        self.positions = torch.cat([p.positions for p in parts], -2).index_select(-2, owner)
        self.logits = torch.cat([p.logits for p in parts])[owner]

    def keep(self, rows: Tensor) -> None:
        self.store.keep(rows)
        self.positions = self.positions.index_select(-2, rows)

    def step(self, tokens: Tensor) -> None:
        with self.store.token(), decode_mode(self.decoder):
            out = self.decoder(input_ids=tokens[:, None], position_ids=self.positions, use_cache=False)
        self.positions = self.positions + 1
        self.logits = self.head(out.last_hidden_state[:, -1])


class CopiedBranches:
    """Branches with a copy of their prompt's cache each, by transformers' own means: for every family."""

    def __init__(self, policy: Policy, prompts: Sequence[Prompt], counts: Sequence[int]) -> None:
        self.model = policy.model
        start = prefill(policy, prompts, None)
        owner = torch.arange(len(prompts)).repeat_interleave(torch.tensor(counts)).to(start.logits.device)
        self.cache = start.cache
        self.cache.batch_select_indices(owner)
        self.mask, self.positions = start.mask[owner], start.positions.index_select(-2, owner)
        self.logits = start.logits[owner]

    def keep(self, rows: Tensor) -> None:
        self.cache.batch_select_indices(rows)
        self.mask, self.positions = self.mask[rows], self.positions.index_select(-2, rows)

    def step(self, tokens: Tensor) -> None:
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], 1)
        out = self.model(
            input_ids=tokens[:, None],
            attention_mask=self.mask,
            position_ids=self.positions,
            past_key_values=self.cache,
            use_cache=True,
        )
        self.positions = self.positions + 1
        self.logits = out.logits[:, -1]


def _layers(parts: Sequence[Prefilled], padding: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Keys [KV, B, D, P] and values [KV, B, P, D] of each layer, left-padded with zeros."""
    layers = []
    for pieces in zip(*(p.cache.layers for p in parts), strict=True):
        keys, values = (_joined([getattr(x, name) for x in pieces], padding) for name in ("keys", "values"))
        layers.append((keys.transpose(2, 3).contiguous(), values))
    return layers


def _joined(parts: Sequence[Tensor], padding: Tensor) -> Tensor:
    """Parts [B, KV, P, D] -> [KV, all B, longest P, D]. What was computed for padding goes: 0 times infinity is no 0."""
    prompts, longest = padding.shape
    joined = parts[0].new_zeros(parts[0].shape[1], prompts, longest, parts[0].shape[3])
    row = 0
    for part in parts:
        joined[:, row : row + len(part), longest - part.shape[2] :] = part.transpose(0, 1)
        row += len(part)
    return joined.masked_fill_(padding[:, :, None], 0)
