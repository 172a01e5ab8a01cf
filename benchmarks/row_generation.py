"""The peer `naive` of generation: transformers' `generate` on one row for each completion, images repeated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from rows import prompt_rows
from torch import Tensor

from sharegrpo_rl.data.types import Prompt


def repeated_rows(model: Any, prompts: Sequence[Prompt], group: int) -> dict[str, Tensor]:
    """Every prompt `group` times, with its image."""
    config = model.config
    repeated = [p for p in prompts for _ in range(group)]
    return prompt_rows(repeated, config.text_config.pad_token_id, config.image_token_id)


@torch.no_grad()
def generate_rows(model: Any, rows: dict[str, Tensor], tokens: int) -> Tensor:
    """Exactly `tokens` sampled tokens of each row, [rows, tokens], with the settings that TRL samples with."""
    was_training = model.training
    model.eval()
    out = model.generate(
        **rows,
        do_sample=True,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        min_new_tokens=tokens,
        max_new_tokens=tokens,
        suppress_tokens=[model.config.image_token_id],
        disable_compile=True,
    )
    model.train(was_training)
    return out[:, rows["input_ids"].shape[1] :]
