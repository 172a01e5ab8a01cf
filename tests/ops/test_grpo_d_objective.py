"""O1, O2, O4 and O5 (OThink-MR1): reward, advantage, objective and KL estimator, recomputed in plain float64 loops."""

from math import exp, sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sharegrpo_rl.config import GRPOOptions
from sharegrpo_rl.ops.advantages import local_advantages
from sharegrpo_rl.ops.policy_loss import Denominator
from sharegrpo_rl.training.loss import Rows, clipped, weighted_loss

NUMBER = st.floats(-1, 1).map(lambda x: round(x, 4))


@st.composite
def groups(draw):
    """(alpha, beta, [(accuracy, format, [(new, old, reference) of each token])]) of 2..4 completions."""
    completions = [
        (
            draw(st.sampled_from([0.0, 1.0])),
            draw(st.sampled_from([0.0, 1.0])),
            [(draw(NUMBER), draw(NUMBER), draw(NUMBER)) for _ in range(draw(st.integers(1, 4)))],
        )
        for _ in range(draw(st.integers(2, 4)))
    ]
    return draw(st.sampled_from([0.25, 0.5, 1.0])), draw(st.sampled_from([0.0, 0.04, 0.1])), completions


def objective(alpha, beta, completions, low=0.2, high=0.2):
    """J of O4 for one group: mean over completions of the mean over tokens of (clipped term - beta KL)."""
    rewards = [accuracy + alpha * form for accuracy, form, _ in completions]  # O1
    mean = sum(rewards) / len(rewards)
    spread = sqrt(sum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1))
    total = 0.0
    for reward, (_, _, tokens) in zip(rewards, completions, strict=True):
        advantage = (reward - mean) / spread if max(rewards) > min(rewards) else 0.0  # O2
        inner = 0.0
        for new, old, reference in tokens:
            ratio = exp(new - old)
            clipped = min(max(ratio, 1 - low), 1 + high)
            kl = exp(reference - new) - (reference - new) - 1  # O5
            inner += min(ratio * advantage, clipped * advantage) - beta * kl
        total += inner / len(tokens)
    return total / len(completions)


@given(groups())
def test_the_loss_is_minus_the_objective(group):
    alpha, beta, completions = group
    rewards = torch.tensor([[a + alpha * f for a, f, _ in completions]], dtype=torch.float64)
    advantages = local_advantages(rewards)[0]
    lengths = [len(tokens) for _, _, tokens in completions]
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    rows = Rows(lengths, [0] * len(lengths), mask, advantages, torch.ones(len(lengths), dtype=torch.bool))
    new, old, reference = (
        torch.tensor([t[i] for _, _, tokens in completions for t in tokens], dtype=torch.float64) for i in range(3)
    )
    settings = GRPOOptions(loss_aggregation="sequence_mean", kl_coeff=beta)
    denominator = Denominator(len(lengths), sum(lengths), max(lengths))
    loss, _ = weighted_loss(
        clipped,
        rows,
        new,
        old,
        denominator,
        settings,
        ref_logprobs=reference,
        kl_denominator=denominator,
        kl_weight=beta,
    )
    assert loss.item() == pytest.approx(-objective(alpha, beta, completions), abs=1e-9)
