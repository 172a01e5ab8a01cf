"""Log-probabilities of every completion of some packs: the shared-prefix forward, and the padded one it must equal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sharegrpo_rl.data.types import PixelInput, PromptPack
from sharegrpo_rl.models.batch import model_inputs, rope_positions, stack_images
from sharegrpo_rl.models.branch_attention import NAME, Span, layout, register
from sharegrpo_rl.ops.token_logprobs import mask_logits, token_logprobs

# Logits of more values than this are computed in chunks and again in the backward pass.
LOGITS_AT_ONCE = 32_000_000
BRANCH_FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen2", "qwen3", "llama")


class TokenValues(NamedTuple):
    """Per completion token, flat `[N]`, packs in order and completions in order inside them."""

    logprobs: Tensor
    entropy: Tensor


def supports_branches(model: Any) -> bool:
    """Is the shared-prefix forward tested for this model family? Others, and sliding windows, take the padded path."""
    layers = getattr(model.config.get_text_config(), "layer_types", None) or ["full_attention"]
    return model.config.model_type in BRANCH_FAMILIES and set(layers) == {"full_attention"}


def use_branch_attention(model: Any) -> None:
    """Switch the language model (not the vision tower) to branch attention."""
    register()
    model.set_attn_implementation({"text_config": NAME} if hasattr(model.config, "text_config") else NAME)


def language_model(model: Any) -> Any:
    """The decoder inside a vision-language model, or inside a causal language model."""
    base = model.model
    return getattr(base, "language_model", base)


def branch_logprobs(model: Any, packs: Sequence[PromptPack], temperature: float, banned: Tensor | None) -> TokenValues:
    """Each distinct image encoded once, each prompt run once, each completion token once."""
    device = model.device
    spans, start, sources = [], 0, []
    for pack in packs:
        span = Span(start, len(pack.prompt.input_ids), [len(c.token_ids) for c in pack.completions])
        spans.append(span)
        for branch in span.each:  # a token is predicted by the one before it, the first by the end of the prompt
            sources += [span.prompt.stop - 1, *range(branch.start, branch.stop - 1)]
        start = span.branches.stop
    ids = torch.from_numpy(np.concatenate([x for p in packs for x in (p.prompt.input_ids, *_tokens(p))])).to(device)
    embeds = _embed(model, ids, packs)
    with layout(spans):
        out = language_model(model)(
            inputs_embeds=embeds[None],
            position_ids=_branch_positions(model, packs, spans),
            attention_mask=None,
            use_cache=False,
        )
    hidden = out.last_hidden_state[0][torch.tensor(sources, device=device)]
    return _head(model, hidden, _labels(packs).to(device), temperature, banned)


def padded_logprobs(
    model: Any, packs: Sequence[PromptPack], temperature: float, banned: Tensor | None, pad_id: int
) -> TokenValues:
    """One right-padded row for each completion, images repeated: the reference, and the path of other families."""
    rows, images = [], []
    for pack in packs:
        for tokens in _tokens(pack):
            rows.append(np.concatenate([pack.prompt.input_ids, tokens]))
            images.append(pack.prompt.images)
    inputs = model_inputs(model, rows, images, pad_id, "right")
    positions = rope_positions(model, inputs)
    hidden = model.model(**inputs, position_ids=positions, use_cache=False).last_hidden_state
    picked, row = [], 0
    for pack in packs:
        first = len(pack.prompt.input_ids) - 1
        for tokens in _tokens(pack):
            picked.append(hidden[row, first : first + len(tokens)])
            row += 1
    return _head(model, torch.cat(picked), _labels(packs).to(model.device), temperature, banned)


def _tokens(pack: PromptPack) -> list[Any]:
    return [c.token_ids for c in pack.completions]


def _labels(packs: Sequence[PromptPack]) -> Tensor:
    """All completion tokens, flat."""
    return torch.from_numpy(np.concatenate([t for p in packs for t in _tokens(p)]))


def _embed(model: Any, ids: Tensor, packs: Sequence[PromptPack]) -> Tensor:
    """Token embeddings of the row, image places filled with features; equal images share one encode, gradient included."""
    embeds = model.get_input_embeddings()(ids)
    distinct: dict[str, PixelInput] = {image.key: image for p in packs for image in p.prompt.images}
    if not distinct:
        return embeds
    stacked = stack_images(list(distinct.values()))
    pixels = stacked["pixel_values"].to(model.device, model.dtype)
    features = model.model.get_image_features(pixels, stacked["image_grid_thw"].to(model.device)).pooler_output
    by_key = dict(zip(distinct, features, strict=True))
    in_order = torch.cat([by_key[image.key] for p in packs for image in p.prompt.images]).to(embeds.dtype)
    places = ids == model.config.image_token_id
    if int(places.sum()) != len(in_order):
        raise ValueError(
            f"{int(places.sum())} image places for {len(in_order)} image features; a completion holds an image token"
        )
    return embeds.masked_scatter(places[:, None], in_order)


def _branch_positions(model: Any, packs: Sequence[PromptPack], spans: list[Span]) -> Tensor:
    """[3, 1, L] (or [1, L]): every completion goes on from its prompt's largest position + 1, not from its length."""
    prompts = [p.prompt for p in packs]
    inputs = model_inputs(model, [p.input_ids for p in prompts], [p.images for p in prompts], 0, "right")
    padded = rope_positions(model, inputs)
    grids = padded if padded.ndim == 3 else padded[None]
    parts = []
    for i, span in enumerate(spans):
        own = grids[:, i, : span.prompt.stop - span.prompt.start]
        parts.append(own)
        following = own.max() + 1 + torch.cat([torch.arange(n, device=own.device) for n in span.lengths])
        parts.append(following.expand(len(grids), -1))
    flat = torch.cat(parts, 1)
    return flat[:, None] if padded.ndim == 3 else flat


def _head(model: Any, hidden: Tensor, labels: Tensor, temperature: float, banned: Tensor | None) -> TokenValues:
    """Log-probs and entropies from hidden states [N, D], the logits never whole where they would be large."""
    head = model.get_output_embeddings()

    def some(h: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return token_logprobs(mask_logits(head(h), temperature, banned), y)

    size = max(1, LOGITS_AT_ONCE // head.weight.shape[0])
    if len(hidden) <= size:
        return TokenValues(*some(hidden, labels))
    parts = [
        checkpoint(some, h, y, use_reentrant=False) for h, y in zip(hidden.split(size), labels.split(size), strict=True)
    ]
    return TokenValues(torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]))
