"""Log-probabilities of every completion of some packs: the shared-prefix forward, and the padded one it must equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sharegrpo_rl.data.types import Prompt, PromptPack
from sharegrpo_rl.models.batch import model_inputs, rope_positions
from sharegrpo_rl.models.branch_attention import Layout, use_layout
from sharegrpo_rl.models.vision import Features, encode_prompts, encoder_output
from sharegrpo_rl.ops.logprobs import chunk_rows, head_logprobs, mask_logits, token_logprobs


class TokenValues(NamedTuple):
    """Per completion token, flat `[N]`, packs in order and completions in order inside them."""

    logprobs: Tensor
    entropy: Tensor


def branch_logprobs(
    model: Any,
    packs: Sequence[PromptPack],
    temperature: float,
    banned: Tensor | None,
    images: Mapping[str, Features] | None = None,
) -> TokenValues:
    """Each prompt run once and each completion token once; images by their key, encoded here where they are not given."""
    # Under FSDP most weights rest elsewhere while this runs: the head's are where the model computes.
    device, prompts = model.get_output_embeddings().weight.device, [p.prompt for p in packs]
    trunks, branches = zip(*(_trunk_and_branches(p) for p in packs), strict=True)
    layout = Layout([(len(t), [len(b) for b in own]) for t, own in zip(trunks, branches, strict=True)], device)
    ids = torch.from_numpy(np.concatenate([*trunks, *(b for own in branches for b in own)])).to(device)
    shown = _show_images(model, ids, prompts, images)
    with use_layout(layout):
        out = model.model(
            input_ids=ids[None],
            position_ids=_row_positions(model, prompts, layout).to(device),
            attention_mask=None,
            use_cache=False,
            **shown,
        )
    hidden = out.last_hidden_state[0].index_select(0, _predictors(prompts, layout).to(device))
    return _head(model, hidden, _labels(packs).to(device), temperature, banned)


def padded_logprobs(
    model: Any, packs: Sequence[PromptPack], temperature: float, banned: Tensor | None, pad_id: int
) -> TokenValues:
    """One right-padded row for each completion, images repeated: the reference, and the path of other families."""
    rows = [np.concatenate([p.prompt.input_ids, tokens]) for p in packs for tokens in _tokens(p)]
    prompts = [p.prompt for p in packs for _ in p.completions]
    inputs = model_inputs(model, rows, [p.images for p in prompts], pad_id, "right")
    positions = rope_positions(model, inputs)
    hidden = model.model(**inputs, position_ids=positions, use_cache=False).last_hidden_state
    picked = []
    for row, prompt, tokens in zip(hidden, prompts, (t for p in packs for t in _tokens(p)), strict=True):
        first = len(prompt.input_ids) - 1
        picked.append(row[first : first + len(tokens)])
    return _head(model, torch.cat(picked), _labels(packs).to(model.device), temperature, banned)


def _tokens(pack: PromptPack) -> list[Any]:
    return [c.token_ids for c in pack.completions]


def _labels(packs: Sequence[PromptPack]) -> Tensor:
    """All completion tokens, flat."""
    return torch.from_numpy(np.concatenate([t for p in packs for t in _tokens(p)]))


def _show_images(
    model: Any, ids: Tensor, prompts: Sequence[Prompt], images: Mapping[str, Features] | None
) -> dict[str, Any]:
    """The forward's argument with the features of every image that the prompts show, in their order; {} without any."""
    if not any(p.images for p in prompts):
        return {}
    images = encode_prompts(model, prompts) if images is None else images
    features = [images[image.key] for p in prompts for image in p.images]
    places, count = int((ids == model.config.image_token_id).sum()), sum(f.count for f in features)
    if places != count:
        raise ValueError(f"{places} image places for {count} image features; a completion holds an image token")
    return {"mm_encoder_outputs": encoder_output(features)}


def _trunk_and_branches(pack: PromptPack) -> tuple[Any, list[Any]]:
    """Tokens that run once for all, and those of each completion: a single completion simply goes on from its prompt.

    A completion's last token predicts nothing and stays out.
    """
    prompt, own = pack.prompt.input_ids, [t[:-1] for t in _tokens(pack)]
    return (np.concatenate([prompt, own[0]]), []) if len(own) == 1 else (prompt, own)


def _predictors(prompts: Sequence[Prompt], layout: Layout) -> Tensor:
    """[N] places in the row that predict the completion tokens: the one before each, the end of the prompt for a first."""
    found: list[int] = []
    for prompt, trunk, each in zip(prompts, layout.prompts, layout.each, strict=True):
        end = trunk.start + len(prompt.input_ids)
        found += [] if each else range(end - 1, trunk.stop)
        for branch in each:
            found += [end - 1, *range(branch.start, branch.stop)]
    return torch.tensor(found)


def _row_positions(model: Any, prompts: Sequence[Prompt], layout: Layout) -> Tensor:
    """[3, 1, L] (or [1, L]): every completion goes on from its prompt's largest position + 1, not from its length."""
    ids, images = [p.input_ids for p in prompts], [p.images for p in prompts]
    # transformers reads the grids number by number, which a GPU would have to be waited for.
    inputs = model_inputs(model, ids, images, 0, "right", pixels=False, device=torch.device("cpu"))
    padded = rope_positions(model, inputs)
    grids = padded if padded.ndim == 3 else padded[None]
    trunks, branches = [], []
    for i, (prompt, trunk, each) in enumerate(zip(prompts, layout.prompts, layout.each, strict=True)):
        own = grids[:, i, : len(prompt.input_ids)]
        longest = max([trunk.stop - trunk.start - own.shape[1], *(b.stop - b.start for b in each)])
        following = (own.max() + 1 + torch.arange(longest, device=own.device)).expand(len(grids), -1)
        trunks += [own] if each else [own, following]
        branches += [following[:, : b.stop - b.start] for b in each]
    flat = torch.cat([*trunks, *branches], 1)
    return flat[:, None] if padded.ndim == 3 else flat


def _head(model: Any, hidden: Tensor, labels: Tensor, temperature: float, banned: Tensor | None) -> TokenValues:
    """Log-probs and entropies from hidden states [N, D], the logits in chunks."""
    head = model.get_output_embeddings()
    banned = None if banned is None else banned.to(hidden.device)
    if type(head) is nn.Linear and head.bias is None:
        return TokenValues(*head_logprobs(hidden, head.weight, labels, temperature, banned))

    def some(h: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return token_logprobs(mask_logits(head(h), temperature, banned), y)

    size = chunk_rows(len(hidden), head.weight.shape[0], hidden.device.type)
    parts = [
        checkpoint(some, h, y, use_reentrant=False) for h, y in zip(hidden.split(size), labels.split(size), strict=True)
    ]
    return TokenValues(torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]))
