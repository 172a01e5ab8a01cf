"""Generation with the training model itself: each prompt is run once and branches into its completions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharegrpo_rl.data.types import Completion, Prompt
from sharegrpo_rl.generation.branches import Branches, CopiedBranches, SharedBranches
from sharegrpo_rl.generation.generator import PromptDone, Sampling
from sharegrpo_rl.generation.sampling import nucleus, sample, uniform_numbers
from sharegrpo_rl.models.image_features import ImageBank
from sharegrpo_rl.models.policy import Policy
from sharegrpo_rl.ops.token_logprobs import mask_logits

# Cutting ended rows out copies what is kept, so it waits until this share of the rows has ended.
ENDED_SHARE = 0.25


class HFGenerator:
    """Prefill once per distinct prompt, then decode all branches together; ended branches leave the batch."""

    def __init__(self, policy: Policy, token_budget: int = 65536) -> None:
        self.policy = policy
        self.token_budget = token_budget

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[Prompt],
        num_samples: int,
        seeds: Sequence[int],
        sampling: Sampling,
        on_prompt_done: PromptDone | None = None,
    ) -> list[tuple[Completion, ...]]:
        """Completions of each prompt, in order; prompts run in batches that hold at most `token_budget` cached tokens."""
        results: dict[int, tuple[Completion, ...]] = {}
        model = self.policy.model
        was_training = model.training
        model.eval()
        batches = self._batches(prompts, num_samples, sampling.max_tokens)
        images = self.policy.image_bank([[prompts[i] for i in batch] for batch in batches])
        try:
            for batch in batches:
                branches = self._prefill([prompts[i] for i in batch], num_samples, sampling.max_tokens, images)
                for row, completions in self._decode(branches, [seeds[i] for i in batch], num_samples, sampling):
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
            if batches[-1] and (len(batches[-1]) + 1) * held > self.token_budget:
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
