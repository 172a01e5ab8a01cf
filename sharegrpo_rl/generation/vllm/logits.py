"""Banned ids inside vLLM: masked out of the logits before anything else looks at them, as the trainer does it."""

from __future__ import annotations

import torch
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor


class BannedIds(LogitsProcessor):
    """Sets the logits of `additional_config["banned_ids"]` to -inf, in every row. Needs nothing of a request."""

    def __init__(self, vllm_config: object, device: torch.device, is_pin_memory: bool) -> None:
        banned = vllm_config.additional_config["banned_ids"]  # type: ignore[attr-defined]
        self.banned = torch.tensor(banned, dtype=torch.long, device=device)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.index_fill_(-1, self.banned, float("-inf"))

    def is_argmax_invariant(self) -> bool:
        return False  # greedy requests must see it too

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """There is no state."""
