"""Builders of tiny real models, prompts and hand-made packs; tests get them from fixtures, processes of theirs import them."""

from typing import Any

import numpy as np

CORPUS = ("How many red circles are there? 0 1 2 3 4 5 6 7 8 9", "<think>I look.</think><answer>blue</answer>")


def tiny_policy(temperature: float = 1.0, dtype: str = "float32", seed: int = 0, **limits: int) -> Any:
    import torch

    from sharegrpo_rl.config.run import TinyModelOptions
    from sharegrpo_rl.models.policy import Policy
    from sharegrpo_rl.models.prompts import PromptSettings
    from sharegrpo_rl.models.tiny import build_tiny

    torch.set_num_threads(1)
    sizes = TinyModelOptions(hidden_size=32, num_layers=2, num_heads=2, num_kv_heads=1, vision_layers=1, vocab_size=300)
    model, processor = build_tiny(sizes, CORPUS, seed, 784, 3136)
    settings = PromptSettings(**{"max_prompt_tokens": 512, "min_pixels": 784, "max_pixels": 3136, **limits})
    return Policy(model.to(getattr(torch, dtype)), processor, settings, temperature)


def make_prompt(policy: Any, text: str = "How many?", pictures: int = 1, seed: int = 0) -> Any:
    from sharegrpo_rl.models.prompts import Question

    rng = np.random.default_rng(seed)
    shapes = [(28, 28), (42, 28), (28, 56)]
    drawn = tuple(rng.integers(0, 255, (*shapes[i % 3], 3), dtype=np.uint8) for i in range(pictures))
    return policy.encoder.encode([Question(text, drawn)])[0]


def make_pack(
    policy: Any,
    lengths: tuple[int, ...] = (3, 1, 4),
    advantages: tuple[float, ...] | None = None,
    *,
    group: int = 0,
    slot: int = 0,
    pictures: int = 1,
    seed: int = 0,
    text: str = "How many?",
    native: tuple[bool, ...] | None = None,
    truncated: tuple[int, ...] = (),
) -> Any:
    from sharegrpo_rl.data.types import Completion, PromptPack

    rng = np.random.default_rng(seed + 1000)
    legal = np.setdiff1d(np.arange(len(policy.encoder.tokenizer)), policy.banned.numpy())
    completions = tuple(
        Completion(rng.choice(legal, n).astype(np.int64), np.zeros(n, np.float32), "", i in truncated)
        for i, n in enumerate(lengths)
    )
    credit = rng.normal(size=len(lengths)) if advantages is None else np.array(advantages, np.float64)
    own = np.ones(len(lengths), bool) if native is None else np.array(native)
    return PromptPack(group, slot, make_prompt(policy, text, pictures, seed), completions, credit, own)


def gradients(policy: Any, loss: Any) -> dict[str, Any]:
    policy.model.zero_grad(set_to_none=True)
    loss.backward()
    found = {n: p.grad.clone() for n, p in policy.model.named_parameters() if p.grad is not None}
    policy.model.zero_grad(set_to_none=True)
    return found
