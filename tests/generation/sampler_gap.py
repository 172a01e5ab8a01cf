"""How far a sampler's log-probs are from the trainer's, on completions of many lengths."""

from copy import copy

import numpy as np
import torch

from sharegrpo_rl.data.types import PromptPack


def with_ends(policy):
    """The policy with so many end tokens that completions have many lengths."""
    ending = copy(policy)
    ending.end_ids = tuple(range(100, 140))
    return ending


def gap(policy, prompts, answers):
    """Largest distance over all tokens of the answers."""
    packs = [
        PromptPack(i, 0, p, a, np.ones(len(a)), np.ones(len(a), bool))
        for i, (p, a) in enumerate(zip(prompts, answers, strict=True))
    ]
    with torch.no_grad():
        trained = policy.logprobs(packs).logprobs.float().numpy()
    return np.abs(np.concatenate([c.sampler_logprobs for a in answers for c in a]) - trained).max()
