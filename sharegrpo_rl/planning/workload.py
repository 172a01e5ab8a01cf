"""What an iteration runs over: prompts, completions and micro-batches, in tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from sharegrpo_rl.models.sizes import ModelSizes

TEXT_TOKENS = 256  # assumed for a question, the format prompt and the chat template


@dataclass(frozen=True)
class Workload:
    """Lengths in tokens and counts of one iteration. In SFT nothing is sampled: `samples` is 0, `rows` 1."""

    prompt: int  # mean tokens of a prompt, its image among them
    completion: int  # mean tokens of a completion
    prompt_limit: int
    completion_limit: int
    patches: int  # of a prompt's image; 0 for a text-only model
    prompts: int  # an iteration
    variants: int  # prompts about the same image
    samples: int  # completions sampled for each prompt
    rows: int  # completions trained under each prompt
    minibatches: int
    epochs: int
    iterations: int
    own_images: bool  # each variant may have its own image
    prompt_runs: int = (
        1  # how often a pack's prompt runs: once, or (models without the shared prefix) for each completion
    )

    @classmethod
    def from_config(
        cls,
        config: Mapping[str, Any],
        sizes: ModelSizes,
        iterations: int,
        prompt_tokens: int | None = None,
        completion_tokens: int | None = None,
    ) -> Workload:
        """Lengths and counts of a resolved config.

        Means that are not given: one image at `max_pixels` (None: as large as a prompt may be) with 256 tokens of text, at
        most `max_prompt_tokens`; completions of half their limit.
        """
        vision = sizes.vision
        room = max(1, config["max_prompt_tokens"] - TEXT_TOKENS)
        patches = image_tokens = 0
        if vision:
            pixels = config["max_pixels"]
            patches = room * vision.merge**2 if pixels is None else pixels // vision.patch**2
            image_tokens = patches // vision.merge**2
        prompt = min(config["max_prompt_tokens"], prompt_tokens or TEXT_TOKENS + image_tokens)
        if vision:
            patches = min(patches, prompt * vision.merge**2)
        limit = config["max_completion_tokens"]
        variants, samples = config.get("num_variants", 1), config.get("num_generations", 0)
        questions = config["num_questions"]
        rows = max(1, samples * (variants if config.get("pairing", "native") == "all" else 1))
        return cls(
            prompt=prompt,
            completion=min(limit, completion_tokens or ceil(limit / 2)),
            prompt_limit=config["max_prompt_tokens"],
            completion_limit=limit,
            patches=patches,
            prompts=questions * variants,
            variants=variants,
            samples=samples,
            rows=rows,
            minibatches=ceil(questions / (config["minibatch_size"] or questions)),
            epochs=config["num_epochs"],
            iterations=iterations,
            own_images=config["transform_probability"] > 0,
            prompt_runs=rows if sizes.obstacle else 1,
        )

    @property
    def pack(self) -> int:
        """Tokens that run through the model for one prompt and its completions."""
        return self.prompt_runs * self.prompt + self.rows * self.completion

    def pieces(self, max_tokens_per_microbatch: int) -> int:
        """Into how many parts a pack is cut that a micro-batch has no room for; each runs the prompt again."""
        budget = max(max_tokens_per_microbatch, self.longest)
        if self.prompt_runs > 1 or self.pack <= budget:
            return 1
        return ceil(self.rows * self.completion / max(self.completion, budget - self.prompt))

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence: prompt and completion at their limits."""
        return self.prompt_limit + self.completion_limit


@dataclass(frozen=True)
class MicroBatch:
    """The largest micro-batch of a rank."""

    tokens: int
    rows: int  # completions in it
    prompts: int  # as often as they run
    images: int  # whose features, with their graph, are in memory at once


def largest_micro_batch(work: Workload, max_tokens_per_microbatch: int, ranks: int) -> MicroBatch:
    """What a rank runs at once: up to `max_tokens_per_microbatch` tokens, but always room for the longest sequence."""
    prompts = ceil(work.prompts / work.minibatches / ranks)  # of a minibatch
    available = prompts * (work.prompt_runs * work.prompt + work.rows * work.completion_limit)
    tokens = min(max(max_tokens_per_microbatch, work.longest), available)
    if work.prompt_runs > 1:  # a row is a prompt and a completion, and encodes its own images
        rows = max(1, min(prompts * work.rows, tokens // (work.prompt + work.completion)))
        return MicroBatch(tokens, rows, rows, rows if work.patches else 0)
    if work.pack > tokens:  # a pack is cut into parts that repeat its prompt
        return MicroBatch(tokens, max(1, (tokens - work.prompt) // work.completion), 1, min(1, work.patches))
    packs = min(prompts, tokens // work.pack)
    # One question more than fits: the images of a question that straddles a boundary are held together with the next ones.
    repeats = 1 if work.own_images else work.variants  # prompts that share an image
    images = min(ceil(prompts / repeats), packs // repeats + 1)
    return MicroBatch(tokens, packs * work.rows, packs, images if work.patches else 0)
