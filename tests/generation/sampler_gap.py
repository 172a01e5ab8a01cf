"""How far a sampler's log-probs are from the trainer's."""

import numpy as np
import torch

from sharegrpo_rl.data.types import PromptPack


def gap(policy, prompts, answers):
    """Largest distance over all tokens of the answers."""
    packs = [
        PromptPack(i, 0, p, a, np.ones(len(a)), np.ones(len(a), bool))
        for i, (p, a) in enumerate(zip(prompts, answers, strict=True))
    ]
    with torch.no_grad():
        trained = policy.logprobs(packs).logprobs.float().numpy()
    return np.abs(np.concatenate([c.sampler_logprobs for a in answers for c in a]) - trained).max()
