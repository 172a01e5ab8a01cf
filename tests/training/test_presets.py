"""No preset trains like plain GRPO: each moves the weights elsewhere on the same completions, at sizes of its own ratio."""

import numpy as np
import pytest
import torch

from sharegrpo_rl.config import resolve
from sharegrpo_rl.config.presets import GRPO_PRESETS
from sharegrpo_rl.ops.advantages import local_advantages
from sharegrpo_rl.training.step import TrainingStep

QUESTIONS, SAMPLES = 8, 4
REWARDS = torch.tensor([[1.0, 0.0, 0.9, 0.1]], dtype=torch.float64)


def options_of(preset):
    """A preset's options with few questions, its number of optimizer steps kept, and what only sets the scale left out."""
    own = resolve("GRPO", {"preset": preset} if preset else {})
    size = own.minibatch_size and max(1, QUESTIONS * own.minibatch_size // own.num_questions)
    same = {
        "lr": 1e-3,
        "lr_warmup_steps": 0,
        "lr_warmup_ratio": 0.0,
        "lr_schedule": "constant",
        "weight_decay": 0.0,
        "adam_betas": [0.9, 0.999],
    }
    return own.model_copy(update={**same, "num_questions": QUESTIONS, "minibatch_size": size, "temperature": 1.0})


def trained(make_policy, tiny, options):
    """The weights after two updates on completions whose rewards are the same for all presets."""
    policy = make_policy()
    advantages = local_advantages(REWARDS, options.scale_rewards, options.advantage_eps)[0].tolist()
    step = TrainingStep(policy, options, make_policy() if options.uses_reference else None)
    for update in range(2):
        groups = range(update * QUESTIONS, (update + 1) * QUESTIONS)
        step.update([tiny.pack(policy, (2, 5, 3, 4), advantages, group=g, seed=g) for g in groups])
    return torch.cat([p.detach().flatten() for p in policy.model.parameters()])


@pytest.mark.parametrize("name", [name for name in GRPO_PRESETS])
def test_no_preset_is_plain_grpo(make_policy, tiny, name):
    start = torch.cat([p.detach().flatten() for p in make_policy().model.parameters()])
    plain, other = (trained(make_policy, tiny, options_of(preset)) for preset in (None, name))
    moved = (plain - start).norm()
    assert (other - plain).norm() > 1e-3 * moved


def test_dapo_ranks_long_answers_as_its_rewards_of_one_and_minus_one_do():
    """Right but cut off against wrong but short: 0.5 and 0 here, as 0 and -1 there."""
    options = resolve("GRPO", {"preset": "dapo"})
    assert dict(options.rewards) == {"accuracy": 1.0}
    theirs = np.array(
        [1.0 - 1.0, -1.0, 1.0, -1.0 - 1.0]
    )  # right and long, wrong and short, right and short, wrong and long
    ours = np.array([1.0, 0.0, 1.0, 0.0]) - options.overlong_weight * np.array([1.0, 0.0, 0.0, 1.0])
    np.testing.assert_allclose(ours, (theirs + 1) / 2, atol=1e-12)
