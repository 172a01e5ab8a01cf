"""Generation with the training model itself: each prompt is run once and branches into its completions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from sharegrpo_rl.data.types import Completion, Prompt
from sharegrpo_rl.generation.generator import PromptDone, Prompts, Sampling, check_finite
from sharegrpo_rl.models.decoding import Branches, start_branches
from sharegrpo_rl.models.policy import Policy
from sharegrpo_rl.models.vision import ImageBank
from sharegrpo_rl.ops.logprobs import mask_logits

# So many prompts at least, and so many batches' worth, are sorted by length together; meanwhile the next are rendered.
WINDOW_PROMPTS, WINDOW_BATCHES = 32, 4
# Removing ended rows copies the others, so it waits until this share of the rows has ended.
ENDED_SHARE = 0.25
# Sorting a whole vocabulary costs more than everything else about a token; almost always these are enough.
CANDIDATES = 1024


class HFGenerator:
    """Prefill once per distinct prompt, then decode all branches together; ended branches leave the batch."""

    def __init__(self, policy: Policy, max_tokens_per_microbatch: int = 65536) -> None:
        self.policy = policy
        self.max_tokens_per_microbatch = max_tokens_per_microbatch

    @torch.no_grad()
    def generate(
        self,
        prompts: Prompts,
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
        try:
            for window in self._windows(prompts, num_generations, sampling.max_tokens):
                batches = self._batches(window, num_generations, sampling.max_tokens)
                images = self.policy.image_bank([[window[i] for i in batch] for batch in batches])
                for batch in batches:
                    branches = self._prefill([window[i] for i in batch], num_generations, sampling.max_tokens, images)
                    for row, completions in self._decode(
                        branches, [seeds[i] for i in batch], num_generations, sampling
                    ):
                        results[batch[row]] = completions
                        if on_prompt_done is not None:
                            on_prompt_done(batch[row], completions)
        finally:
            model.train(was_training)
        return [results[i] for i in range(len(prompts))]

    def _windows(self, prompts: Prompts, n: int, max_tokens: int) -> Iterator[dict[int, Prompt]]:
        """Neighbouring prompts by their indices, some batches' worth at a time; a picture is encoded once in each.

        Which ones depends on their lengths alone, never on when they were ready: batches are the same each time.
        """
        window: dict[int, Prompt] = {}
        held = 0
        for i, prompt in enumerate(prompts):
            window[i] = prompt
            held += self._held(prompt, n, max_tokens)
            if len(window) >= WINDOW_PROMPTS and held > WINDOW_BATCHES * self.max_tokens_per_microbatch:
                yield window
                window, held = {}, 0
        if window:
            yield window

    def _held(self, prompt: Prompt, n: int, max_tokens: int) -> int:
        """Cached tokens of a prompt and its completions."""
        longest = len(prompt.input_ids)
        return longest + n * max_tokens if self.policy.shares_prefix else n * (longest + max_tokens)

    def _batches(self, prompts: Mapping[int, Prompt], n: int, max_tokens: int) -> list[list[int]]:
        """Indices of the prompts that run together: by length, so that little is padded, and equal ones in a row."""
        first: dict[tuple[bytes, tuple[str, ...]], int] = {}
        order = sorted(prompts, key=lambda i: (len(prompts[i].input_ids), first.setdefault(_identity(prompts[i]), i)))
        batches: list[list[int]] = [[]]
        for i in order:
            held = self._held(prompts[i], n, max_tokens)
            full = self.policy.rows_alone or (len(batches[-1]) + 1) * held > self.max_tokens_per_microbatch
            if batches[-1] and full:
                batches.append([])
            batches[-1].append(i)
        return [b for b in batches if b]

    def _prefill(self, prompts: Sequence[Prompt], n: int, max_tokens: int, images: ImageBank | None) -> Branches:
        distinct = {_identity(p): p for p in prompts}
        repeats = Counter(_identity(p) for p in prompts)
        counts = [n * repeats[key] for key in distinct]
        branches = start_branches(self.policy, list(distinct.values()), counts, images, max_tokens)
        if images:
            images.release(prompts)
        return branches

    def _decode(
        self, branches: Branches, seeds: Sequence[int], n: int, sampling: Sampling
    ) -> Iterator[tuple[int, tuple[Completion, ...]]]:
        """(index in the batch, completions) of each prompt, as they end."""
        device, total = branches.logits.device, len(seeds) * n
        numbers = torch.cat([uniform_numbers(seed, n, sampling.max_tokens) for seed in seeds]).T.contiguous().to(device)
        ends = torch.tensor(self.policy.end_ids, device=device)
        tokens = torch.zeros(sampling.max_tokens, total, dtype=torch.long, device=device)
        logprobs = torch.zeros(sampling.max_tokens, total, device=device)
        rows = torch.arange(total, device=device)
        alive = torch.ones(total, dtype=torch.bool, device=device)
        lengths, running = [sampling.max_tokens] * total, [n] * len(seeds)
        for step in range(sampling.max_tokens):
            chosen, values = self._choose(branches.logits, numbers[step], sampling)
            tokens[step].index_copy_(0, rows, chosen)
            logprobs[step].index_copy_(0, rows, values)
            ended = torch.isin(chosen, ends) & alive
            if bool(ended.any()):
                alive &= ~ended
                for row in rows[ended].tolist():
                    lengths[row] = step + 1
                    running[row // n] -= 1
                    if not running[row // n]:
                        yield row // n, self._completions(row // n, n, tokens, logprobs, lengths)
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
            yield prompt, self._completions(prompt, n, tokens, logprobs, lengths)

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
        self, prompt: int, n: int, tokens: Tensor, logprobs: Tensor, lengths: Sequence[int]
    ) -> tuple[Completion, ...]:
        rows = slice(prompt * n, (prompt + 1) * n)
        columns = zip(tokens[:, rows].T.cpu().numpy(), logprobs[:, rows].T.cpu().numpy(), lengths[rows], strict=True)
        return tuple(
            check_finite(
                Completion(
                    token_ids=ids[:length].copy(),
                    sampler_logprobs=values[:length].copy(),
                    text=self.policy.encoder.decode(ids[:length]),
                    truncated=int(ids[length - 1]) not in self.policy.end_ids,
                )
            )
            for ids, values, length in columns
        )


def _identity(prompt: Prompt) -> tuple[bytes, tuple[str, ...]]:
    """Equal for prompts that are equal to the model."""
    return prompt.input_ids.tobytes(), tuple(image.key for image in prompt.images)


def nucleus(probs: Tensor, top_p: float, candidates: int = CANDIDATES) -> Tensor:
    """The smallest set of ids with mass `top_p`, renormalized: the distribution that is sampled from, [B, vocabulary]."""
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

    probs: [B, vocabulary]; uniforms: [B], float64. A row that holds NaN gives the last id, whose probability is NaN.
    """
    cumulative = probs.cumsum(-1, dtype=torch.float64)
    # An id of probability 0 never has a cumulative value above both its predecessor's and the threshold.
    chosen = torch.searchsorted(cumulative, uniforms[:, None] * cumulative[:, -1:], right=True)[:, 0]
    return chosen.clamp_(max=probs.shape[-1] - 1)


def uniform_numbers(seed: int, n: int, length: int) -> Tensor:
    """[n, length] uniform numbers that depend on the request's seed only, not on what shares its batch."""
    return torch.from_numpy(np.random.default_rng(seed).random((n, length)))
