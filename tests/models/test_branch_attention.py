"""All ways of branch attention against a dense tree mask, typed out: outputs and gradients."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sharegrpo_rl.models import branch_attention as joined_module
from sharegrpo_rl.models.branch_attention import (
    Layout,
    PromptMasks,
    attend,
    branch_attention,
    joined_attention,
    merged_attention,
    private_operator,
    use_layout,
)

WAYS = {"merged": merged_attention, "portable": attend, "joined": joined_attention}
HEADS, KEYS, SIZE = 4, 2, 8


def slow_forward(query, key, value, asking, asked, causal, scale):
    """What the CUDA kernels of `joined_attention` compute, in plain steps; tests/models/test_cuda.py runs the real ones."""
    outs, totals = [], []
    for q, k, v in parts(asking, asked, query, key, value):
        scores = slow_scores(q, k, causal, scale)
        outs.append((scores.softmax(-1) @ wide(v)).transpose(0, 1))
        totals.append(scores.logsumexp(-1))
    return torch.cat(outs), torch.cat(totals, 1)


def slow_backward(gradient, inputs, out, total, asking, asked, causal, scale):
    """As a flash kernel: probabilities from the given normalizer; keys that nobody asked are left as they were."""
    found = [torch.full_like(x, torch.nan) for x in inputs]
    queries, keys = asking.ends.tolist(), asked.ends.tolist()
    for i in range(len(queries) - 1):
        rows, columns = slice(queries[i], queries[i + 1]), slice(keys[i], keys[i + 1])
        if rows.start == rows.stop:
            continue
        q, k, v = inputs[0][rows], inputs[1][columns], inputs[2][columns]
        p = (slow_scores(q, k, causal, scale) - total[:, rows, None]).exp()
        upstream, mine = (x[rows].transpose(0, 1) for x in (gradient, out))
        d = p * (upstream @ wide(v).transpose(1, 2) - (upstream * mine).sum(-1, keepdim=True)) * scale
        found[0][rows] = (d @ wide(k)).transpose(0, 1)
        for place, full in ((1, d.transpose(1, 2) @ q.transpose(0, 1)), (2, p.transpose(1, 2) @ upstream)):
            found[place][columns] = full.unflatten(0, (KEYS, -1)).sum(1).transpose(0, 1)
    return tuple(found)


def parts(asking, asked, query, key, value):
    rows, columns = asking.ends.diff().tolist(), asked.ends.diff().tolist()
    return zip(query.split(rows), key.split(columns), value.split(columns), strict=True)


def wide(x):
    """[K, KV, D] -> [H, K, D]."""
    return x.transpose(0, 1).repeat_interleave(HEADS // KEYS, 0)


def slow_scores(q, k, causal, scale):
    scores = q.transpose(0, 1) @ wide(k).transpose(1, 2) * scale
    return scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf) if causal else scores


@pytest.fixture(autouse=True, scope="module")
def _kernels_on_the_cpu():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(joined_module, "varlen_forward", slow_forward)
        patch.setattr(joined_module, "varlen_backward", slow_backward)
        yield


def allowed(layout, window=10**9):
    """[L, L]: a prompt token sees its prompt up to itself, a branch token its prompt and its branch up to itself; of these
    the last `window`, itself among them."""
    table = torch.zeros(layout.length, layout.length, dtype=torch.bool)
    for prompt, each in zip(layout.prompts, layout.each, strict=True):
        for i in range(prompt.start, prompt.stop):
            table[i, list(range(prompt.start, i + 1))[-window:]] = True
        for branch in each:
            for i in range(branch.start, branch.stop):
                table[i, [*range(prompt.start, prompt.stop), *range(branch.start, i + 1)][-window:]] = True
    return table


def dense(query, key, value, layout, scale, table=None):
    key, value = (x.repeat_interleave(HEADS // KEYS, 1) for x in (key, value))
    table = allowed(layout) if table is None else table
    scores = (query @ key.transpose(-1, -2) * scale).masked_fill(~table, -torch.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2)


def tensors(length, dtype, seed=0):
    """Query, key and value as a model has them: [1, heads, L, size], views of [1, L, heads, size]."""
    rng = torch.Generator().manual_seed(seed)
    return [
        torch.randn(1, length, heads, SIZE, generator=rng, dtype=torch.float64).to(dtype).transpose(1, 2)
        for heads in (HEADS, KEYS, KEYS)
    ]


def run(way, layout, dtype, seed=0):
    """Output and the three gradients."""
    inputs = [t.detach().requires_grad_() for t in tensors(layout.length, dtype, seed)]
    out = way(*inputs, layout, 0.3)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), inputs)]


SHAPES = {
    "one branch": [(3, [4])],
    "equal": [(5, [6, 6, 6])],
    "ragged": [(5, [1, 17, 3, 30])],
    "several packs": [(2, [9, 9]), (7, [4, 1, 33]), (1, [2])],
    "empty branches": [(4, [0, 3, 0]), (3, [0, 0])],
    "nothing but prompts": [(4, [0]), (3, []), (5, [0, 0])],
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_equal_to_a_dense_mask(way, shape):
    layout = Layout(shape)
    for mine, theirs in zip(run(way, layout, torch.float64), run(dense, layout, torch.float64), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.integers(1, 12), st.lists(st.integers(0, 40), max_size=5)), min_size=1, max_size=3),
    st.integers(0, 9),
)
def test_equal_to_a_dense_mask_for_any_shape(shape, seed):
    layout = Layout(shape)
    expected = run(dense, layout, torch.float64, seed)
    for way in WAYS.values():
        for mine, theirs in zip(run(way, layout, torch.float64, seed), expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9)


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.integers(1, 12), st.lists(st.integers(0, 20), max_size=4)), min_size=1, max_size=3),
    st.integers(1, 40),
)
def test_windows_equal_a_dense_mask(shape, window):
    layout = Layout(shape)
    mine = run(partial(attend, window=window), layout, torch.float64)
    expected = run(partial(dense, table=allowed(layout, window)), layout, torch.float64)
    for one, other in zip(mine, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_prompts_whose_tokens_see_later_ones_equal_a_dense_mask():
    """The second and third token of each prompt are a picture's and see each other; mask functions get places in the row."""
    layout = Layout([(5, [3, 1]), (4, [2])])
    picture = torch.zeros(layout.length, dtype=torch.bool)
    picture[[1, 2, 6, 7]] = True

    def attends(batch, head, asking, asked):
        return (asked <= asking) | (picture[asking] & picture[asked])

    masks = PromptMasks.of(layout, attends)
    table = allowed(layout)
    table[1, 2] = table[6, 7] = True
    mine = run(partial(attend, masks=masks), layout, torch.float64)
    for one, other in zip(mine, run(partial(dense, table=table), layout, torch.float64), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)
    assert PromptMasks.of(layout, lambda batch, head, asking, asked: asked <= asking) is None


def test_a_torch_without_the_kernels_takes_the_portable_way(monkeypatch):
    """Unknown to this torch, or with other arguments: the operator is not used."""
    name = "_scaled_dot_product_flash_attention_for_cpu"
    assert private_operator(name, "query key value dropout_p is_causal") is not None
    assert private_operator(name, "query key value dropout_p causal") is None
    assert private_operator("_no_such_attention", "query") is None
    layout = Layout([(5, [1, 17, 3])])
    query, key, value = tensors(layout.length, torch.float64)
    monkeypatch.setattr(joined_module, "_cpu_backward", None)
    monkeypatch.setattr(joined_module, "merged_attention", lambda *_: pytest.fail("its backward pass is missing"))
    with use_layout(layout):
        out, _ = branch_attention(None, query, key, value, None, scaling=0.3)
    torch.testing.assert_close(out, dense(query, key, value, layout, 0.3), rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shorter_types(dtype):
    layout = Layout(SHAPES["several packs"])
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 0.05}[dtype]
    for mine, theirs in zip(run(merged_attention, layout, dtype), run(dense, layout, torch.float64), strict=True):
        assert mine.dtype == dtype
        torch.testing.assert_close(mine.double(), theirs, rtol=tolerance, atol=tolerance)


def test_buckets_hold_every_token_once_and_pad_little():
    lengths = [1, 7, 8, 9, 31, 64, 64, 100, 127, 500, 512]
    layout = Layout([(3, lengths), (5, lengths)])
    row = torch.zeros(layout.length, 1, 1)
    for bucket in layout.buckets:
        assert bucket.size * bucket.width <= 1.25 * sum(n for n in lengths * 2 if n <= bucket.width) + 16 * bucket.size
        bucket.write(bucket.pad(torch.ones(layout.length, 1, 1)), row)
    assert row[:8].sum() == 0
    assert row[8:].sum() == 2 * sum(lengths)
    assert len(layout.buckets) < len(lengths)
