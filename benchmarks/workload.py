"""What is measured on: questions about textured images, random completions of given lengths, packs of both."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

from sharegrpo_rl.data.types import Completion, Prompt, PromptPack
from sharegrpo_rl.models.policy import Policy
from sharegrpo_rl.models.prompts import Question

TEXT_ONLY_TOKENS = 64  # length of a prompt without image; with one, the image makes the length


@dataclass(frozen=True)
class Work:
    """The size of a measurement. `share`: Share-GRPO's update, so many variants of each question (0: GRPO)."""

    image: int = 448  # pixels of each edge; 0: text only
    group: int = 8  # completions sampled from each prompt
    tokens: int = 64  # of each completion
    completions: int = 16  # sampled in all
    ragged: tuple[int, int] | None = None  # shortest and longest completion, instead of `tokens`
    share: int = 0
    transform_probability: float = 0.0  # share of the variants with an image of their own
    seed: int = 0

    @property
    def variants(self) -> int:
        return max(1, self.share)

    @property
    def questions(self) -> int:
        return max(1, self.completions // (self.group * self.variants))


def questions(policy: Policy, work: Work) -> list[list[Question]]:
    """[questions][variants], all of the same length in tokens: the best case of padded rows."""
    rng = np.random.default_rng(work.seed)
    own = _own_image(work, rng)
    result = []
    for q in range(work.questions):
        shared, variants = _noise(rng, work.image), []
        for v in range(work.variants):
            text = f"How many red squares are there? {q:03d}{v:02d}"
            if not work.image:
                missing = TEXT_ONLY_TOKENS - len(policy.encoder.encode([Question(text)])[0].input_ids)
                text += "".join(str(d) for d in rng.integers(0, 10, max(0, missing)))  # a digit is a token
                variants.append(Question(text))
            else:
                variants.append(Question(text, (_noise(rng, work.image) if own[q, v] else shared,)))
        result.append(variants)
    return result


def prompts(policy: Policy, work: Work) -> list[Prompt]:
    """The encoded prompts, questions in order and variants in order inside them."""
    return policy.encoder.encode([v for variants in questions(policy, work) for v in variants])


def packs(policy: Policy, work: Work, shared: bool | None = None) -> list[PromptPack]:
    """One pack for each prompt: with its own completions or, shared, with those of all variants of its question."""
    rng = np.random.default_rng(work.seed + 1)
    encoded = prompts(policy, work)
    sampled = [_completions(policy, work, rng) for _ in encoded]
    shared = work.share > 0 if shared is None else shared
    result = []
    for i, prompt in enumerate(encoded):
        first = i // work.variants * work.variants
        sources = range(first, first + work.variants) if shared else [i]
        completions = [c for s in sources for c in sampled[s]]
        native = np.array([s == i for s in sources for _ in sampled[s]])
        credit = rng.normal(0.5, 1, len(completions))  # around 0 the loss would be a small difference of large sums
        result.append(PromptPack(i // work.variants, i - first, prompt, tuple(completions), credit, native))
    return result


def off_policy(given: list[PromptPack], vocabulary: int, seed: int = 0) -> list[PromptPack]:
    """The packs with old log-probs near those of an untrained model: the loss then depends on every new log-prob."""
    rng = np.random.default_rng(seed + 2)
    level = -np.log(vocabulary)
    return [
        replace(
            p,
            old_logprobs=tuple(rng.normal(level, 0.1, len(c.token_ids)).astype(np.float32) for c in p.completions),
        )
        for p in given
    ]


def counts(given: list[PromptPack]) -> dict[str, int]:
    """What a step runs over, with each prompt, completion and image counted once for each pack or in all."""
    images = {i.key: int(i.tensors["image_grid_thw"].prod()) for p in given for i in p.prompt.images}
    completion = sum(len(c.token_ids) for p in given for c in p.completions)
    packed = sum(len(p.prompt.input_ids) for p in given) + completion
    longest = max(len(c.token_ids) for p in given for c in p.completions)
    return {
        "packs": len(given),
        "pairs": sum(len(p.completions) for p in given),
        "prompt_tokens": max(len(p.prompt.input_ids) for p in given),
        "completion_tokens": completion,
        "packed_tokens": packed,
        "padded_tokens": sum((len(p.prompt.input_ids) + longest) * len(p.completions) for p in given),
        "images": len(images),
        "image_patches": sum(images.values()),
    }


def legal_ids(policy: Policy) -> np.ndarray:
    """Ids that a completion may hold: no special token."""
    tokenizer = policy.encoder.tokenizer
    return np.setdiff1d(np.arange(len(tokenizer)), np.array(tokenizer.all_special_ids))


def _completions(policy: Policy, work: Work, rng: Generator) -> list[Completion]:
    legal = legal_ids(policy)
    low, high = work.ragged or (work.tokens, work.tokens)
    lengths = rng.integers(low, high + 1, work.group)
    return [Completion(rng.choice(legal, n).astype(np.int64), np.zeros(n, np.float32), "", True) for n in lengths]


def _noise(rng: Generator, edge: int) -> np.ndarray:
    return rng.integers(0, 256, (edge, edge, 3), dtype=np.uint8)


def _own_image(work: Work, rng: Generator) -> np.ndarray:
    """[questions, variants] bool; the asked share of the slots, drawn without replacement."""
    slots = work.questions * work.variants
    own = np.zeros(slots, bool)
    own[rng.permutation(slots)[: round(work.transform_probability * slots)]] = True
    return own.reshape(work.questions, work.variants)
