"""Log-probs from hidden states in chunks, against the whole table of logits: values, gradients, and what is ever held."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from sharegrpo_rl.ops.logprobs import chunk_rows, head_logprobs, mask_logits, token_logprobs


def inputs(tokens, vocabulary, width=5, dtype=torch.float64, seed=0):
    rng = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, width, generator=rng, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(vocabulary, width, generator=rng, dtype=torch.float64).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(0, vocabulary - 2, (tokens,), generator=rng)


def gradients(hidden, weight, logprobs):
    slope = torch.linspace(-1, 2, len(logprobs), dtype=logprobs.dtype)
    return torch.autograd.grad((logprobs * slope).sum(), [t for t in (hidden, weight) if t.requires_grad])


@settings(max_examples=40)
@given(
    st.integers(1, 9),
    st.integers(3, 12),
    st.integers(1, 4),
    st.sampled_from([1.0, 0.7, 1.3]),
    st.booleans(),
    st.integers(0, 5),
)
def test_chunks_equal_the_whole_table(tokens, vocabulary, rows, temperature, bans, seed):
    hidden, weight, ids = inputs(tokens, vocabulary, seed=seed)
    banned = torch.tensor([vocabulary - 1, vocabulary - 2]) if bans else None
    found, entropy = head_logprobs(hidden, weight, ids, temperature, banned, rows)
    expected, expected_entropy = token_logprobs(mask_logits(hidden @ weight.T, temperature, banned), ids)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(entropy, expected_entropy, rtol=0, atol=1e-9)
    for mine, theirs in zip(gradients(hidden, weight, found), gradients(hidden, weight, expected), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)


def test_against_sums_typed_out():
    hidden, weight, ids = inputs(3, 4)
    found, entropy = head_logprobs(hidden, weight, ids, 0.5, torch.tensor([3]), 2)
    for row, token, value, spread in zip(hidden, ids.tolist(), found, entropy, strict=True):
        scores = [sum(a * b for a, b in zip(row.tolist(), w.tolist(), strict=True)) / 0.5 for w in weight[:3]]
        chances = [math.exp(s) / sum(math.exp(x) for x in scores) for s in scores]
        assert value.item() == pytest.approx(math.log(chances[token]), abs=1e-9)
        assert spread.item() == pytest.approx(-sum(p * math.log(p) for p in chances), abs=1e-9)


def test_a_frozen_head_gets_no_gradient():
    hidden, weight, ids = inputs(4, 6)
    found, entropy = head_logprobs(hidden, weight.detach(), ids)
    assert not entropy.requires_grad
    assert [g.shape for g in gradients(hidden, weight.detach(), found)] == [hidden.shape]


def test_a_banned_token_has_no_probability_and_moves_nothing():
    hidden, weight, _ = inputs(2, 5)
    found, _ = head_logprobs(hidden, weight, torch.tensor([4, 1]), 1.0, torch.tensor([4]))
    assert found[0].item() == -math.inf
    (own,) = torch.autograd.grad(found[1], weight, retain_graph=True)
    assert torch.isfinite(own).all()
    assert (own[4] == 0).all()


def test_bfloat16_weights_add_up_in_float32():
    hidden, weight, ids = inputs(64, 40, dtype=torch.bfloat16)
    wide = [t.detach().float().requires_grad_() for t in (hidden, weight)]
    found, _ = head_logprobs(hidden, weight, ids, 1.0, None, 4)
    expected, _ = head_logprobs(*wide, ids, 1.0, None, 64)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.05)
    mine, theirs = gradients(hidden, weight, found)[1].float(), gradients(*wide, expected)[1]
    assert (mine - theirs).norm() < 0.02 * theirs.norm()


class Largest(TorchDispatchMode):
    """The most values of any tensor that an operation returned."""

    values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.values = max(self.values, tensor.numel())
        return out


def test_no_table_of_tokens_times_vocabulary():
    tokens, vocabulary = 400, 500
    hidden, weight, ids = inputs(tokens, vocabulary, dtype=torch.float32)
    with Largest() as largest:
        head_logprobs(hidden, weight, ids)[0].sum().backward()
    assert largest.values <= tokens * vocabulary / 4


def test_chunks_are_bounded_in_values_and_in_share():
    assert chunk_rows(100_000, 152_064, "cpu") * 152_064 <= 1 << 24
    assert chunk_rows(1_000, 320, "cpu") == 250
    assert chunk_rows(10, 320, "cpu") == 64
    assert chunk_rows(1, 1 << 30, "cuda") == 1
