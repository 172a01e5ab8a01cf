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
    patches: int  # of the image of a prompt; 0 for a text-only model
    prompts: int  # an iteration
    variants: int  # prompts about the same image
    samples: int  # completions sampled for each prompt
    rows: int  # completions trained under each prompt
    minibatches: int
    epochs: int
    iterations: int
    own_images: bool  # may each variant have an image of its own

    @property
    def pack(self) -> int:
        """Tokens that run through the model for one prompt and its completions."""
        return self.prompt + self.rows * self.completion

    @property
    def longest(self) -> int:
        return self.prompt_limit + self.completion_limit


@dataclass(frozen=True)
class MicroBatch:
    """The largest micro-batch of a rank."""

    tokens: int
    rows: int  # completions in it
    prompts: int
    images: int  # whose features, with their graph, are held at once


def workload(
    config: Mapping[str, Any],
    sizes: ModelSizes,
    iterations: int,
    prompt_tokens: int | None = None,
    completion_tokens: int | None = None,
) -> Workload:
    """The lengths and counts of a resolved config. Means that are not given: one image at `max_pixels` with 256 tokens of
    text, at most `max_prompt_tokens`; completions of half their limit."""
    vision = sizes.vision
    pixels = 0 if vision is None else vision.patch**2
    patches = config["max_pixels"] // pixels if pixels else 0
    image_tokens = patches // vision.merge**2 if vision else 0
    longest = config["max_prompt_tokens"]
    prompt = min(longest, prompt_tokens or TEXT_TOKENS + image_tokens)
    if vision:
        patches = min(patches, prompt * vision.merge**2)
    limit = config["max_completion_tokens"]
    variants, samples = config.get("num_variants", 1), config.get("num_samples", 0)
    shared = variants if config.get("pairing", "native") == "all" else 1
    questions = config["num_questions"]
    return Workload(
        prompt=prompt,
        completion=min(limit, completion_tokens or ceil(limit / 2)),
        prompt_limit=longest,
        completion_limit=limit,
        patches=patches,
        prompts=questions * variants,
        variants=variants,
        samples=samples,
        rows=max(1, samples * shared),
        minibatches=ceil(questions / (config["minibatch_size"] or questions)),
        epochs=config["num_epochs"],
        iterations=iterations,
        own_images=config["transform_probability"] > 0,
    )


def largest_micro_batch(work: Workload, token_budget: int, ranks: int) -> MicroBatch:
    """What a rank runs at once: `token_budget` tokens where it has so many, at least the longest sequence."""
    prompts = ceil(work.prompts / work.minibatches / ranks)  # of a minibatch
    have = prompts * (work.prompt + work.rows * work.completion_limit)
    tokens = min(max(token_budget, work.longest), have)
    if work.pack > tokens:  # a pack is cut into parts that repeat its prompt
        return MicroBatch(tokens, max(1, (tokens - work.prompt) // work.completion), 1, min(1, work.patches))
    whole = min(prompts, tokens // work.pack)
    # One question more than fits: the images of a question that lies across a boundary are held beside the next ones.
    images = (
        min(prompts, whole + 1) if work.own_images else min(ceil(prompts / work.variants), whole // work.variants + 1)
    )
    return MicroBatch(tokens, whole * work.rows, whole, images if work.patches else 0)
