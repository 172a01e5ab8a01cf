"""Decoding many completions of few prompts: a prompt runs once, and its keys and values exist once.

The branches of a prompt are query positions over its keys, in one product without copies. Their own keys and values are in
buffers that are written in place. The two parts are joined by their log-sum-exp.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from sharegrpo_rl.data.types import Prompt
from sharegrpo_rl.models.policy import Policy, model_inputs, rope_positions, unwrapped
from sharegrpo_rl.models.recurrence import states_of_prompts, use_row_states
from sharegrpo_rl.models.vision import Features, ImageBank, features_for_pixels

NAME = "decode"
# Padded tokens of one pass over prompts: more at once need memory and save no time.
PREFILL_TOKENS = 16384


class Branches(Protocol):
    """The completions in progress: n rows for each prompt, in order."""

    logits: Tensor
    """[rows, vocabulary] of the next token."""

    def keep(self, rows: Tensor) -> None:
        """Drop all other rows."""

    def step(self, tokens: Tensor) -> None:
        """Run one more token [rows] through the model."""


def start_branches(
    policy: Policy, prompts: Sequence[Prompt], counts: Sequence[int], images: ImageBank | None, max_tokens: int
) -> Branches:
    """Run distinct prompts and branch each into `counts` rows, of at most `max_tokens` tokens.

    Rows share their prompt where the model's family is tested for it, and have copies of its cache elsewhere.
    """
    if policy.shares_prefix:
        return SharedBranches(policy, prompts, counts, images, max_tokens)
    return CopiedBranches(policy, prompts, counts)


class SharedBranches:
    """Branches over keys and values of their prompt that exist once."""

    def __init__(
        self,
        policy: Policy,
        prompts: Sequence[Prompt],
        counts: Sequence[int],
        images: ImageBank | None,
        max_tokens: int,
    ) -> None:
        model = unwrapped(policy.model)
        self.decoder, self.head, self.rule = model.get_decoder(), model.get_output_embeddings(), policy.logit_rule
        parts = [_prefill(policy, chunk, images.of(chunk) if images else None) for chunk in _chunks(prompts)]
        device = parts[0].logits.device
        owner = torch.arange(len(prompts), device=device).repeat_interleave(torch.tensor(counts, device=device))
        longest = max(p.mask.shape[1] for p in parts)
        padding = torch.cat([F.pad(p.mask == 0, (longest - p.mask.shape[1], 0), value=True) for p in parts])
        self.store = BranchStore(_prompt_layers(parts, padding), padding, owner, max_tokens)
        self.states = states_of_prompts([p.cache for p in parts], owner)
        self.positions = torch.cat([p.positions for p in parts], -2).index_select(-2, owner)
        self.logits = torch.cat([p.logits for p in parts])[owner]

    def keep(self, rows: Tensor) -> None:
        self.store.keep(rows)
        self.states = {layer: state.select(rows, record_past=False) for layer, state in self.states.items()}
        self.positions = self.positions.index_select(-2, rows)

    def step(self, tokens: Tensor) -> None:
        with self.store.token(), use_row_states(self.states), _decode_mode(self.decoder):
            out = self.decoder(input_ids=tokens[:, None], position_ids=self.positions, use_cache=False)
        self.positions = self.positions + 1
        self.logits = self.rule(self.head(out.last_hidden_state[:, -1]))


class CopiedBranches:
    """Branches that each hold a copy of their prompt's cache, by transformers' own means: for every family."""

    def __init__(self, policy: Policy, prompts: Sequence[Prompt], counts: Sequence[int]) -> None:
        self.model = policy.model
        start = _prefill(policy, prompts, None)
        owner = torch.arange(len(prompts)).repeat_interleave(torch.tensor(counts)).to(start.logits.device)
        self.cache = start.cache
        self.cache.reorder_cache(owner)
        self.mask, self.positions = start.mask[owner], start.positions.index_select(-2, owner)
        self.logits = start.logits[owner]

    def keep(self, rows: Tensor) -> None:
        self.cache.reorder_cache(rows)
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


class Prefilled(NamedTuple):
    """Where decoding starts: a cache of left-padded prompts, their mask [B, P], the next positions [B, 1] or [3, B, 1], and
    the next tokens' logits [B, vocabulary]."""

    cache: Any
    mask: Tensor
    positions: Tensor
    logits: Tensor


def _prefill(policy: Policy, prompts: Sequence[Prompt], features: Mapping[str, Features] | None) -> Prefilled:
    """Run prompts as one left-padded batch; without `features` their images go in as pixels."""
    model, pixels = unwrapped(policy.model), features is None
    ids, images = [p.input_ids for p in prompts], [p.images for p in prompts]
    inputs: dict[str, Any] = model_inputs(model, ids, images, policy.pad_id, "left", pixels=pixels)
    positions = rope_positions(model, inputs)
    shown = [] if features is None else [features[image.key] for row in images for image in row]
    with features_for_pixels(model, shown) as image_arguments:
        out = model(**inputs, **image_arguments, position_ids=positions, use_cache=True, logits_to_keep=1)
    following = positions.amax(-1, keepdim=True) + 1
    if positions.ndim == 3:  # text continues from the largest of the three coordinates
        following = following.amax(0, keepdim=True).expand(3, -1, -1)
    return Prefilled(out.past_key_values, inputs["attention_mask"], following, out.logits[:, -1])


def _chunks(prompts: Sequence[Prompt]) -> Iterator[Sequence[Prompt]]:
    """Prompts in their order, at most PREFILL_TOKENS of them padded at a time."""
    start, longest = 0, 0
    for i, prompt in enumerate(prompts):
        longest = max(longest, len(prompt.input_ids))
        if i > start and (i + 1 - start) * longest > PREFILL_TOKENS:
            yield prompts[start:i]
            start, longest = i, len(prompt.input_ids)
    yield prompts[start:]


def _prompt_layers(parts: Sequence[Prefilled], padding: Tensor) -> dict[int, tuple[Tensor, Tensor]]:
    """Keys [KV, B, D, P] and values [KV, B, P, D] of each layer that attends, left-padded with zeros."""
    layers = {}
    for index, pieces in enumerate(zip(*(p.cache.layers for p in parts), strict=True)):
        if getattr(pieces[0], "keys", None) is not None:
            keys, values = (_join([getattr(x, name) for x in pieces], padding) for name in ("keys", "values"))
            layers[index] = keys.transpose(2, 3).contiguous(), values
    return layers


def _join(parts: Sequence[Tensor], padding: Tensor) -> Tensor:
    """Parts [B, KV, P, D] -> [KV, all B, longest P, D], zeros where padding was computed: 0 times infinity is not 0."""
    prompts, longest = padding.shape
    joined = parts[0].new_zeros(parts[0].shape[1], prompts, longest, parts[0].shape[3])
    row = 0
    for part in parts:
        joined[:, row : row + len(part), longest - part.shape[2] :] = part.transpose(0, 1)
        row += len(part)
    return joined.masked_fill_(padding[:, :, None], 0)


class BranchStore:
    """Keys and values of prompts and of their branches, by layer; rows are branches, ordered by their prompt.

    KV heads come first in every tensor: prompts and rows each form one flat batch with them.
    """

    def __init__(
        self, prompts: Mapping[int, tuple[Tensor, Tensor]], padding: Tensor, owner: Tensor, max_tokens: int
    ) -> None:
        """prompts: keys [KV, B, D, P] and values [KV, B, P, D] of each layer that attends, 0 in the padding; padding [B, P]:
        True where there is no token; owner [R]: a row's prompt."""
        self._prompts = dict(prompts)
        self._branches = {}
        for layer, (keys, values) in self._prompts.items():  # layers may differ in heads and in their sizes
            shape = (values.shape[0], len(owner), max_tokens)
            self._branches[layer] = keys.new_empty(*shape, keys.shape[2]), values.new_empty(*shape, values.shape[3])
        self._tokens = 0  # of each row, run through the model
        self._given: dict[int, Tensor] = {}  # the new tokens' keys, by the layer that made them
        self._bias: Tensor | None = None  # [B, P]
        if padding.any():
            self._bias = torch.zeros_like(padding, dtype=torch.float32).masked_fill_(padding, -torch.inf)
        self._arrange(owner)

    def _arrange(self, owner: Tensor) -> None:
        """Note which rows a prompt has. A prompt with fewer rows than others has empty cells among its `most`."""
        self._owner = owner
        counts = torch.bincount(owner)
        most = int(counts.max())
        self._cells: Tensor | None = None  # [R]: each row's cell
        self._rows: Tensor | None = None  # [B * most]: each cell's row; an empty cell repeats row 0, unused
        if int(counts.min()) != most:
            rows = torch.arange(len(owner), device=owner.device)
            self._cells = owner * most + rows - (counts.cumsum(0) - counts)[owner]
            self._rows = owner.new_zeros(len(counts) * most).index_copy_(0, self._cells, rows)
        self._flat = {layer: (k.flatten(0, 1), v.flatten(0, 1)) for layer, (k, v) in self._prompts.items()}
        self._scores: dict[torch.Size, Tensor] = {}

    def keep(self, rows: Tensor) -> None:
        """Drop all other rows, and prompts that have none left."""
        alive, owner = self._owner[rows].unique_consecutive(return_inverse=True)
        if len(alive) < next(iter(self._prompts.values()))[0].shape[1]:
            self._bias = None if self._bias is None else self._bias[alive]
            kept = {
                layer: (k.index_select(1, alive), v.index_select(1, alive)) for layer, (k, v) in self._prompts.items()
            }
            self._prompts = kept
        for layer, pair in list(self._branches.items()):
            key, value = (x.new_empty(x.shape[0], len(rows), *x.shape[2:]) for x in pair)
            for new, old in zip((key, value), pair, strict=True):
                new[:, :, : self._tokens] = old[:, :, : self._tokens].index_select(1, rows)
            self._branches[layer] = (key, value)
        self._arrange(owner)

    @contextmanager
    def token(self) -> Iterator[None]:
        """Inside, the decoder runs one more token of every row. A context, so that no layer can drop it on the way."""
        self._given = {}
        reset = _store.set(self)
        try:
            yield
        finally:
            _store.reset(reset)
        if len(self._given) != len(self._prompts):
            raise RuntimeError(f"{len(self._given)} of {len(self._prompts)} layers attended to the branches' prompts")
        self._tokens += 1

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None = None
    ) -> Tensor:
        """query [R, H, 1, D], key and value [R, KV, 1, D] of the new tokens -> [R, 1, H, D].

        window: how many tokens, itself among them, a token attends to. A layer without keys of its own (Gemma 4's last
        ones) is given those of an earlier layer, and attends to that layer's.
        """
        if layer in self._prompts:
            self._given[layer] = key
        else:
            sources = [other for other, given in self._given.items() if given is key]
            if not sources:
                raise RuntimeError(f"layer {layer} has no keys in the cache of its prompts")
            layer = sources[0]
        rows, heads, _, size = query.shape
        groups = key.shape[1]
        near_k, near_v = self._branches[layer]
        near_k.select(2, self._tokens).copy_(key.squeeze(2).transpose(0, 1))
        near_v.select(2, self._tokens).copy_(value.squeeze(2).transpose(0, 1))
        hidden = 0 if window is None else max(0, self._tokens + 1 - window)  # own tokens that have left the window
        near_k, near_v = (x.narrow(2, hidden, self._tokens + 1 - hidden).flatten(0, 1) for x in (near_k, near_v))
        q = query.reshape(rows, groups, -1, size).transpose(0, 1).contiguous()
        out, mass = _weigh(_product(q.flatten(0, 1), near_k.transpose(1, 2)), near_v, scale)
        out, mass = (x.view(groups, rows, heads // groups, -1) for x in (out, mass))
        seen = None if window is None else window - 1 - self._tokens  # of a prompt's last tokens
        if seen is None or seen > 0:
            far, far_mass = self._over_prompts(layer, q, scale, seen)
            out = out.lerp_(far, (far_mass - mass).sigmoid_())
        return out.transpose(0, 1).reshape(rows, 1, heads, -1).to(query.dtype)

    def _over_prompts(self, layer: int, query: Tensor, scale: float, seen: int | None = None) -> tuple[Tensor, Tensor]:
        """Attention of [KV, R, H / KV, D] over prompts alone (their `seen` last tokens), and the log of its mass
        [KV, R, H / KV, 1]."""
        keys, values = self._flat[layer]
        bias, groups, whole = self._bias, query.shape[0], True
        if seen is not None and seen < keys.shape[2]:
            keys, values, whole = keys[:, :, -seen:], values[:, -seen:], False
            bias = None if bias is None else bias[:, -seen:]
        q = query if self._rows is None else query.index_select(1, self._rows)
        q = q.view(len(keys), -1, query.shape[3])
        # Into one buffer for all layers and steps: fresh memory of this size costs more than the product.
        shape = torch.Size((*q.shape[:2], keys.shape[2]))
        scores = _product(q, keys, self._scores.get(shape))
        if whole:
            self._scores[shape] = scores
        if bias is not None:
            scores.unflatten(0, (groups, -1)).add_(bias[:, None])
        out, mass = (x.view(groups, -1, query.shape[2], x.shape[2]) for x in _weigh(scores, values, scale))
        if self._cells is None:
            return out, mass
        return out.index_select(1, self._cells), mass.index_select(1, self._cells)


def _product(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """Batched product in float32 or wider, as in fused attention. `out`: memory to reuse (not in half precision)."""
    if a.dtype not in (torch.bfloat16, torch.float16):
        return torch.bmm(a, b, out=out)
    return torch.bmm(a, b, out_dtype=torch.float32) if a.is_cuda else torch.bmm(a.float(), b.float())


def _weigh(scores: Tensor, values: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attention by `scores` [N, Q, L], overwritten, over values [N, L, D]: [N, Q, D] and the log of its mass [N, Q, 1]."""
    top = scores.amax(-1, keepdim=True)
    mass = scores.sub_(top).mul_(scale).exp_().sum(-1, keepdim=True)
    return _product(scores.to(values.dtype), values).div_(mass), mass.log_().add_(top, alpha=scale)


_store: ContextVar[BranchStore | None] = ContextVar("branch_store", default=None)


@contextmanager
def _decode_mode(decoder: Any) -> Iterator[None]:
    """Inside, the decoder's attention is that of the store of branches."""
    AttentionInterface.register(NAME, _decode_attention)
    AttentionMaskInterface.register(NAME, _no_mask)
    usual = decoder.config._attn_implementation
    decoder.config._attn_implementation = NAME
    try:
        yield
    finally:
        decoder.config._attn_implementation = usual


def _decode_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """transformers' attention function for use inside `BranchStore.token()`."""
    store = _store.get()
    if store is None or attention_mask is not None or kwargs.get("dropout"):
        raise ValueError("the attention of branches needs their store, and takes no mask and no dropout")
    window = kwargs.get("sliding_window")
    return store.attend(module.layer_idx, query, key, value, kwargs["scaling"], window), None


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """transformers' mask function: a branch attends to all of its prompt and all of its own tokens."""
