"""The peer `naive`: one row for each pair of prompt and completion, images repeated, as TRL runs its forward.

Prompts are padded on the left, completions on the right, the forward is transformers' own, logits are taken of
completion tokens only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharegrpo_rl.data.types import Prompt, PromptPack

CLIP = 0.2


def prompt_rows(prompts: Sequence[Prompt], pad_id: int, image_id: int) -> dict[str, Tensor]:
    """The arguments of a forward over prompts; a prompt that comes n times brings its image n times."""
    ids, mask = _pad([p.input_ids for p in prompts], pad_id, "left")
    inputs = {"input_ids": ids, "attention_mask": mask}
    images = [i for p in prompts for i in p.images]
    if images:
        inputs["mm_token_type_ids"] = (ids == image_id).long()
        for name in images[0].tensors:
            inputs[name] = torch.from_numpy(np.concatenate([i.tensors[name] for i in images]))
    return inputs


def training_rows(packs: Sequence[PromptPack], pad_id: int, image_id: int) -> dict[str, Any]:
    """The dictionary that TRL's trainer makes of sampled completions and hands to its loss."""
    pairs = [(pack, g) for pack in packs for g in range(len(pack.completions))]
    prompt = prompt_rows([pack.prompt for pack, _ in pairs], pad_id, image_id)
    completion_ids, completion_mask = _pad([p.completions[g].token_ids for p, g in pairs], pad_id, "right")
    rows: dict[str, Any] = {
        "prompt_ids": prompt.pop("input_ids"),
        "prompt_mask": prompt.pop("attention_mask"),
        "completion_ids": completion_ids,
        "completion_mask": completion_mask,
        "advantages": torch.tensor([p.advantages[g] for p, g in pairs], dtype=torch.float32),
        "num_items_in_batch": completion_mask.sum(),
        **prompt,
    }
    if "mm_token_type_ids" in rows:
        rows["mm_token_type_ids"] = torch.cat([rows["mm_token_type_ids"], torch.zeros_like(completion_ids)], 1)
        rows["num_images"] = [len(p.prompt.images) for p, _ in pairs]
    old = [None if p.old_logprobs is None else torch.from_numpy(p.old_logprobs[g]) for p, g in pairs]
    if all(o is not None for o in old):
        rows["old_per_token_logps"] = torch.nn.utils.rnn.pad_sequence(old, batch_first=True)  # type: ignore[arg-type]
    return rows


def row_logprobs(model: Any, rows: dict[str, Any], banned: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies of the completions, [rows, longest]; what stands behind a completion's end is noise."""
    images = {k: rows[k] for k in ("pixel_values", "image_grid_thw", "mm_token_type_ids") if k in rows}
    out = model.model(
        input_ids=torch.cat([rows["prompt_ids"], rows["completion_ids"]], 1),
        attention_mask=torch.cat([rows["prompt_mask"], rows["completion_mask"]], 1),
        use_cache=False,
        **images,
    )
    length = rows["completion_ids"].shape[1]
    logits = model.lm_head(out.last_hidden_state[:, -length - 1 : -1])
    if banned is not None:
        logits = logits.index_fill(-1, banned, -1e30)
    logprobs = logits.log_softmax(-1)
    with torch.no_grad():
        entropy = -(logprobs.exp() * logprobs).sum(-1)
    return logprobs.gather(-1, rows["completion_ids"][..., None])[..., 0], entropy


def clipped_loss(rows: dict[str, Any], logprobs: Tensor) -> Tensor:
    """GRPO's clipped objective, each token of the batch weighing the same."""
    mask, advantages = rows["completion_mask"], rows["advantages"][:, None]
    ratio = (logprobs - rows.get("old_per_token_logps", logprobs.detach())).exp()
    gain = torch.minimum(ratio * advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * advantages)
    return -(gain * mask).sum() / rows["num_items_in_batch"]


class RowLearner:
    """A training step on rows: forward, clipped loss, backward, clipped gradient, AdamW (fused, or one that is given)."""

    def __init__(self, model: Any, lr: float, grad_clip: float, optimizer: Any = None) -> None:
        self.model = model.train()
        self.grad_clip = grad_clip
        self.optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0, fused=True)

    def step(self, *micro_batches: dict[str, Any]) -> tuple[float, float]:
        """The loss and the gradient's norm before it was clipped."""
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for rows in micro_batches:
            logprobs, entropy = row_logprobs(self.model, rows)
            loss = clipped_loss(rows, logprobs)
            loss.backward()
            total += loss.item()
            (entropy * rows["completion_mask"]).sum().item()  # a figure that both sides log
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(trained, self.grad_clip)
        self.optimizer.step()
        return total, norm.item()


def _pad(rows: Sequence[NDArray[np.int64]], pad_id: int, side: str) -> tuple[Tensor, Tensor]:
    tensors = [torch.from_numpy(r) for r in rows]
    ids = torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=pad_id, padding_side=side)
    ones = [torch.ones_like(t) for t in tensors]
    return ids, torch.nn.utils.rnn.pad_sequence(ones, batch_first=True, padding_side=side)
