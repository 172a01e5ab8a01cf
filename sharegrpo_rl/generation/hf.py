"""From next-token distributions to tokens: nucleus, inverse-transform sampling, uniform numbers by seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sharegrpo_rl.data.types import Completion, Prompt
from sharegrpo_rl.generation.generator import PromptDone, Sampling
from sharegrpo_rl.models.batch import model_inputs, rope_positions
from sharegrpo_rl.models.decode_attention import BranchStore, decode_mode
from sharegrpo_rl.models.policy import Policy, unwrapped
from sharegrpo_rl.models.vision import Features, ImageBank, encoder_output
from sharegrpo_rl.ops.logprobs import mask_logits

# ---- The first pass over prompts, in parts of bounded size.

# Padded tokens of one pass over prompts: more at once need memory and save no time.
PREFILL_TOKENS = 16384


class Prefilled(NamedTuple):
    """What decoding goes on from: a cache of left-padded prompts, their mask [B, P], the next positions [B, 1] or
    [3, B, 1], and the next tokens' logits [B, vocabulary]."""

    cache: Any
    mask: Tensor
    positions: Tensor
    logits: Tensor


def prefill(policy: Policy, prompts: Sequence[Prompt], features: Mapping[str, Features] | None) -> Prefilled:
    """Run prompts as one left-padded batch; without `features` their images go in as pixels."""
    model, pixels = unwrapped(policy.model), features is None
    ids, images = [p.input_ids for p in prompts], [p.images for p in prompts]
    inputs: dict[str, Any] = model_inputs(model, ids, images, policy.pad_id, "left", pixels=pixels)
    positions = rope_positions(model, inputs)
    if features is not None and any(images):
        inputs["mm_encoder_outputs"] = encoder_output([features[image.key] for row in images for image in row])
    out = model(**inputs, position_ids=positions, use_cache=True, logits_to_keep=1)
    following = positions.amax(-1, keepdim=True) + 1
    if positions.ndim == 3:  # text goes on from the largest of the three coordinates
        following = following.amax(0, keepdim=True).expand(3, -1, -1)
    return Prefilled(out.past_key_values, inputs["attention_mask"], following, out.logits[:, -1])


def chunks(prompts: Sequence[Prompt]) -> Iterator[Sequence[Prompt]]:
    """Prompts in their order, at most PREFILL_TOKENS of them padded at a time."""
    start, longest = 0, 0
    for i, prompt in enumerate(prompts):
        longest = max(longest, len(prompt.input_ids))
        if i > start and (i + 1 - start) * longest > PREFILL_TOKENS:
            yield prompts[start:i]
            start, longest = i, len(prompt.input_ids)
    yield prompts[start:]


# ---- The rows still being decoded: over a shared prompt where the model's family is tested for it, over copies elsewhere.


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


# Sorting a whole vocabulary costs more than everything else about a token; almost always these are enough.
CANDIDATES = 1024


def nucleus(probs: Tensor, top_p: float, candidates: int = CANDIDATES) -> Tensor:
    """The distribution that is sampled from: the smallest set of ids with mass `top_p`, renormalized; [B, vocabulary]."""
    if top_p == 1:
        return probs
    ordered, order = probs.topk(min(candidates, probs.shape[-1]))
    masses = ordered.cumsum(-1, dtype=torch.float64)
    kept = torch.zeros_like(probs).scatter_(-1, order, ordered.masked_fill(masses - ordered >= top_p, 0))
    kept /= kept.sum(-1, keepdim=True)
    flat = masses[:, -1] < top_p  # rows whose likeliest candidates do not make up the mass
    if ordered.shape[-1] < probs.shape[-1] and bool(flat.any()):
        kept[flat] = nucleus(probs[flat], top_p, probs.shape[-1])
    return kept


def sample(probs: Tensor, uniforms: Tensor) -> Tensor:
    """Inverse-transform sampling: the first id whose cumulative probability exceeds the row's uniform number in [0, 1).

    probs: [B, vocabulary]; uniforms: [B], float64.
    """
    cumulative = probs.cumsum(-1, dtype=torch.float64)
    # An id of probability 0 never has a cumulative value above both its predecessor's and the threshold.
    return torch.searchsorted(cumulative, uniforms[:, None] * cumulative[:, -1:], right=True)[:, 0]


def uniform_numbers(seed: int, n: int, length: int) -> Tensor:
    """[n, length] uniform numbers that depend on the request's seed only, not on what shares its batch."""
    return torch.from_numpy(np.random.default_rng(seed).random((n, length)))


# ---- Generation with the training model itself: each prompt is run once and branches into its completions.

# Cutting ended rows out copies what is kept, so it waits until this share of the rows has ended.
ENDED_SHARE = 0.25


class HFGenerator:
    """Prefill once per distinct prompt, then decode all branches together; ended branches leave the batch."""

    def __init__(self, policy: Policy, max_tokens_per_microbatch: int = 65536) -> None:
        self.policy = policy
        self.max_tokens_per_microbatch = max_tokens_per_microbatch

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Prompt],
        num_generations: int,
        seeds: Sequence[int],
        sampling: Sampling,
        on_prompt_done: PromptDone | None = None,
    ) -> list[tuple[Completion, ...]]:
        """Completions of each prompt, in order; a batch of prompts holds at most `max_tokens_per_microbatch` cached tokens."""
        results: dict[int, tuple[Completion, ...]] = {}
        model = self.policy.model
        was_training = model.training
        model.eval()
        batches = self._batches(prompts, num_generations, sampling.max_tokens)
        images = self.policy.image_bank([[prompts[i] for i in batch] for batch in batches])
        try:
            for batch in batches:
                branches = self._prefill([prompts[i] for i in batch], num_generations, sampling.max_tokens, images)
                for row, completions in self._decode(branches, [seeds[i] for i in batch], num_generations, sampling):
                    results[batch[row]] = completions
                    if on_prompt_done is not None:
                        on_prompt_done(batch[row], completions)
        finally:
            model.train(was_training)
        return [results[i] for i in range(len(prompts))]

    def _batches(self, prompts: Sequence[Prompt], n: int, max_tokens: int) -> list[list[int]]:
        """Places of the prompts that run together: by length, so that little is padded, and equal ones in a row."""
        first: dict[Any, int] = {}
        order = sorted(
            range(len(prompts)),
            key=lambda i: (len(prompts[i].input_ids), first.setdefault(_identity(prompts[i]), i)),
        )
        batches: list[list[int]] = [[]]
        for i in order:
            longest = len(prompts[i].input_ids)
            held = longest + n * max_tokens if self.policy.shares_prefix else n * (longest + max_tokens)
            if batches[-1] and (len(batches[-1]) + 1) * held > self.max_tokens_per_microbatch:
                batches.append([])
            batches[-1].append(i)
        return [b for b in batches if b]

    def _prefill(self, prompts: Sequence[Prompt], n: int, max_tokens: int, images: ImageBank | None) -> Branches:
        distinct = {_identity(p): p for p in prompts}
        rows = Counter(_identity(p) for p in prompts)
        counts = [n * rows[key] for key in distinct]
        if not self.policy.shares_prefix:
            return CopiedBranches(self.policy, list(distinct.values()), counts)
        branches = SharedBranches(self.policy, list(distinct.values()), counts, images, max_tokens)
        if images:
            images.release(prompts)
        return branches

    def _decode(
        self, branches: Branches, seeds: Sequence[int], n: int, sampling: Sampling
    ) -> Iterator[tuple[int, tuple[Completion, ...]]]:
        """The prompts' places in the batch and their completions, as they end."""
        device, total = branches.logits.device, len(seeds) * n
        numbers = torch.cat([uniform_numbers(seed, n, sampling.max_tokens) for seed in seeds]).T.contiguous().to(device)
        ends = torch.tensor(self.policy.end_ids, device=device)
        said = torch.zeros(sampling.max_tokens, total, dtype=torch.long, device=device)
        logprobs = torch.zeros(sampling.max_tokens, total, device=device)
        rows = torch.arange(total, device=device)
        alive = torch.ones(total, dtype=torch.bool, device=device)
        lengths, running = [sampling.max_tokens] * total, [n] * len(seeds)
        for step in range(sampling.max_tokens):
            chosen, values = self._choose(branches.logits, numbers[step], sampling)
            said[step].index_copy_(0, rows, chosen)
            logprobs[step].index_copy_(0, rows, values)
            ended = torch.isin(chosen, ends) & alive
            if bool(ended.any()):
                alive &= ~ended
                for row in rows[ended].tolist():
                    lengths[row] = step + 1
                    running[row // n] -= 1
                    if not running[row // n]:
                        yield row // n, self._completions(row // n, n, said, logprobs, lengths)
                left = int(alive.sum())
                if not left:
                    return
                if left <= (1 - ENDED_SHARE) * len(rows):
                    index = alive.nonzero()[:, 0]
                    branches.keep(index)
                    chosen, alive, rows, numbers = chosen[index], alive[index], rows[index], numbers[:, index]
            if step + 1 < sampling.max_tokens:
                branches.step(chosen)
        for prompt in (i for i, number in enumerate(running) if number):
            yield prompt, self._completions(prompt, n, said, logprobs, lengths)

    def _choose(self, logits: Tensor, uniforms: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
        """Each row's next token and its log-prob, [rows] both."""
        logits = mask_logits(logits, self.policy.temperature, self.policy.banned.to(logits.device))
        probs = logits.softmax(-1)
        if sampling.greedy:
            chosen = logits.argmax(-1)
        else:
            probs = nucleus(probs, sampling.top_p)
            chosen = sample(probs, uniforms)
        return chosen, probs.gather(-1, chosen[:, None])[:, 0].log().float()

    def _completions(
        self, prompt: int, n: int, said: Tensor, logprobs: Tensor, lengths: Sequence[int]
    ) -> tuple[Completion, ...]:
        rows = slice(prompt * n, (prompt + 1) * n)
        pairs = zip(said[:, rows].T.cpu().numpy(), logprobs[:, rows].T.cpu().numpy(), lengths[rows], strict=True)
        return tuple(self._completion(tokens[:length], values[:length]) for tokens, values, length in pairs)

    def _completion(self, tokens: NDArray[np.int64], logprobs: NDArray[np.float32]) -> Completion:
        return Completion(
            token_ids=tokens.copy(),
            sampler_logprobs=logprobs.copy(),
            text=self.policy.encoder.decode(tokens),
            truncated=int(tokens[-1]) not in self.policy.end_ids,
        )


def _identity(prompt: Prompt) -> tuple[bytes, tuple[str, ...]]:
    """Equal for prompts that are equal to the model."""
    return prompt.input_ids.tobytes(), tuple(image.key for image in prompt.images)
