"""The shared-prefix forward against the padded one and against plain transformers: log-probs, entropies, gradients."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_families import qwen2_vl, text_only
from transformers import LlamaForCausalLM

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.models.branch_attention import Layout, use_layout
from sharegrpo_rl.models.loading import ModelSettings, load_policy, save_pretrained
from sharegrpo_rl.models.policy import Policy, branch_logprobs, padded_logprobs, unwrapped
from sharegrpo_rl.models.prompts import PromptSettings
from sharegrpo_rl.training.batching import micro_batches

SETTINGS = PromptSettings(max_prompt_tokens=512, min_pixels=784, max_pixels=3136)
SHAPES = {
    "one picture": [((3, 1, 4), 1)],
    "one completion": [((5,), 1)],
    "equal lengths": [((3, 3, 3), 2)],
    "text only": [((2, 5), 0)],
    "three pictures": [((4, 2), 3)],
    "several packs": [((3, 1), 1), ((2, 6, 1), 0), ((4,), 3), ((2, 2), 2)],
    "text between pictures": [((1, 2), 0), ((3,), 1), ((2,), 0)],
}


def packs_of(policy, tiny, shape):
    return [tiny.pack(policy, lengths, group=g, pictures=n, seed=g) for g, (lengths, n) in enumerate(shape)]


def branches(policy, packs):
    return branch_logprobs(unwrapped(policy.model), packs, policy.temperature, policy.banned)


def padded(policy, packs):
    return padded_logprobs(unwrapped(policy.model), packs, policy.temperature, policy.banned, policy.pad_id)


def assert_same(policy, tiny, packs):
    one, other = branches(policy, packs), padded(policy, packs)
    torch.testing.assert_close(one.logprobs, other.logprobs, rtol=0, atol=1e-5)
    torch.testing.assert_close(one.entropy, other.entropy, rtol=0, atol=1e-5)
    weights = torch.linspace(-1, 1, len(one.logprobs))
    mine, theirs = (tiny.gradients(policy, (v.logprobs * weights).mean()) for v in (one, other))
    assert mine.keys() == theirs.keys()
    for name in mine:
        torch.testing.assert_close(mine[name], theirs[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_branches_equal_padding(policy, tiny, shape):
    assert_same(policy, tiny, packs_of(policy, tiny, shape))


@settings(max_examples=12)
@given(
    st.lists(
        st.tuples(st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple), st.integers(0, 3)),
        min_size=1,
        max_size=3,
    )
)
def test_branches_equal_padding_for_any_shape(policy, tiny, shape):
    packs = packs_of(policy, tiny, shape)
    with torch.no_grad():
        torch.testing.assert_close(branches(policy, packs).logprobs, padded(policy, packs).logprobs, rtol=0, atol=1e-5)


def plain_transformers(model, pack, temperature, banned):
    """Completion log-probs by the model's own forward, one unpadded row at a time, positions left to transformers."""
    found = []
    for completion in pack.completions:
        ids = torch.tensor([[*pack.prompt.input_ids, *completion.token_ids]])
        inputs = {"input_ids": ids}
        if pack.prompt.images:
            inputs["mm_token_type_ids"] = (ids == model.config.image_token_id).long()
            for key in ("pixel_values", "image_grid_thw"):
                inputs[key] = torch.cat([torch.from_numpy(np.asarray(i.tensors[key])) for i in pack.prompt.images])
        logits = model(**inputs).logits[0] / temperature
        logits[:, banned] = float("-inf")
        first = len(pack.prompt.input_ids) - 1
        rows = logits[first : first + len(completion.token_ids)].log_softmax(-1)
        found.append(rows.gather(1, torch.from_numpy(completion.token_ids)[:, None])[:, 0])
    return torch.cat(found)


@pytest.mark.parametrize("pictures", [0, 1, 3])
def test_both_paths_equal_plain_transformers(make_policy, tiny, pictures):
    policy, untouched = make_policy(temperature=0.7), make_policy().model
    untouched.set_attn_implementation("eager")
    pack = tiny.pack(policy, (4, 1, 3), pictures=pictures)
    with torch.no_grad():
        expected = plain_transformers(untouched, pack, 0.7, policy.banned)
        torch.testing.assert_close(branches(policy, [pack]).logprobs, expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(padded(policy, [pack]).logprobs, expected, rtol=0, atol=1e-5)


def test_cut_packs_add_up(policy, tiny):
    packs = packs_of(policy, tiny, [((3, 1, 4, 2), 1), ((2, 3), 0)])
    whole = branches(policy, packs).logprobs
    parts = torch.cat([branches(policy, m).logprobs for m in micro_batches(packs, 35)])
    assert len(micro_batches(packs, 35)) > 2
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-5)


def test_frozen_vision_tower(make_policy, tiny):
    policy = make_policy()
    for parameter in policy.model.model.visual.parameters():
        parameter.requires_grad_(False)
    packs = packs_of(policy, tiny, SHAPES["several packs"])
    assert_same(policy, tiny, packs)
    found = tiny.gradients(policy, branches(policy, packs).logprobs.mean())
    assert found
    assert not any("visual" in name for name in found)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradient_checkpointing_keeps_the_layout(make_policy, tiny, tmp_path, checkpointing):
    """Layers run again in the backward pass, after the layout's context has ended."""
    untouched = make_policy()
    save_pretrained(untouched, tmp_path)
    policy = load_policy(
        ModelSettings(str(tmp_path), activation_checkpointing="full" if checkpointing else "none", prompts=SETTINGS)
    )
    policy.model.train()
    packs = packs_of(policy, tiny, SHAPES["several packs"])
    mine = tiny.gradients(policy, policy.logprobs(packs).logprobs.mean())
    expected = tiny.gradients(untouched, untouched.logprobs(packs).logprobs.mean())
    assert policy.model.is_gradient_checkpointing == checkpointing
    for name in expected:
        torch.testing.assert_close(mine[name], expected[name], rtol=1e-4, atol=1e-6, msg=name)


def test_a_picture_shared_by_packs_is_encoded_once(policy, tiny, monkeypatch):
    packs = [tiny.pack(policy, (2,), group=0, pictures=1, seed=5, text=t) for t in ("How many?", "Count them.")]
    assert packs[0].prompt.images[0].key == packs[1].prompt.images[0].key
    seen = []
    hook = policy.model.model.visual.register_forward_pre_hook(
        lambda m, args, kwargs: seen.append(kwargs), with_kwargs=True
    )
    try:
        one = branches(policy, packs)
    finally:
        hook.remove()
    assert len(seen) == 1
    torch.testing.assert_close(one.logprobs, padded(policy, packs).logprobs, rtol=0, atol=1e-5)


def test_a_wrong_layout_raises(policy):
    embeds = torch.zeros(1, 9, 32)
    decoder, options = policy.model.model.language_model, {"use_cache": False}
    with use_layout(Layout([(4, [2, 1])])), pytest.raises(ValueError, match="9 tokens, its layout 7"):
        decoder(inputs_embeds=embeds, **options)
    with use_layout(Layout([(5, [2, 2])])), pytest.raises(ValueError, match="no attention mask"):
        decoder(inputs_embeds=embeds, attention_mask=torch.tensor([[0] * 3 + [1] * 6]), **options)


def test_outside_a_layout_padding_masks_are_respected(policy):
    decoder = policy.model.model.language_model
    row = torch.randn(1, 6, 32)
    junk = torch.cat([100 * torch.ones(1, 3, 32), row], 1)
    mask = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 1]])
    positions = torch.arange(6)[None]
    with torch.no_grad():
        alone = decoder(inputs_embeds=row, position_ids=positions).last_hidden_state
        behind = decoder(
            inputs_embeds=junk, attention_mask=mask, position_ids=torch.cat([torch.zeros(1, 3).long(), positions], 1)
        ).last_hidden_state
    torch.testing.assert_close(behind[:, 3:], alone, rtol=0, atol=1e-5)


def test_an_image_token_in_a_completion_raises(policy, tiny):
    pack = tiny.pack(policy, (3,), (1.0,))
    pack.completions[0].token_ids[1] = policy.model.config.image_token_id
    with pytest.raises(ValueError, match="a completion holds an image token"):
        policy.logprobs([pack])


def test_qwen2_vl_takes_the_shared_prefix_path(tiny):
    policy = Policy(*qwen2_vl(), SETTINGS)
    assert policy.shares_prefix
    assert_same(policy, tiny, packs_of(policy, tiny, SHAPES["several packs"]))


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_text_only_models(tiny, family):
    model, tokenizer = text_only(family)
    policy = Policy(model, tokenizer, SETTINGS)
    packs = [tiny.pack(policy, lengths, group=g, pictures=0) for g, lengths in enumerate([(3, 1), (2, 4, 1)])]
    assert_same(policy, tiny, packs)
    untouched, _ = text_only(family)
    with torch.no_grad():
        expected = plain_transformers(untouched, packs[1], 1.0, policy.banned)
        torch.testing.assert_close(branches(policy, packs[1:]).logprobs, expected, rtol=0, atol=1e-5)


class MadeUp(LlamaForCausalLM):
    """A family of tomorrow: logits after a rule of its own."""

    rule = staticmethod(lambda logits: logits)

    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        out.logits = self.rule(out.logits)
        return out


@pytest.mark.parametrize(
    ("rule", "measured"),
    [
        (lambda x: x * 0.3, (0.3, None)),
        (lambda x: -2 * x, (-2.0, None)),
        (lambda x: 7 * torch.tanh(x / 7), (1.0, 7.0)),
        (lambda x: 7 * torch.tanh(x * 0.3 / 7), (0.3, 7.0)),
    ],
)
def test_an_unknown_rule_of_logits_is_measured(rule, measured, tiny, monkeypatch):
    monkeypatch.setattr(MadeUp, "rule", staticmethod(rule))
    model, tokenizer = text_only("llama")
    made_up = MadeUp(model.config)
    policy = Policy(made_up, tokenizer, SETTINGS)
    assert (policy.logit_rule.scale, policy.logit_rule.cap) == pytest.approx(measured, rel=1e-5)
    pack = tiny.pack(policy, (3, 2), pictures=0)
    with torch.no_grad():
        expected = plain_transformers(made_up, pack, 1.0, policy.banned)
        torch.testing.assert_close(policy.logprobs([pack]).logprobs, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rule", [lambda x: x + x**3, lambda x: x.relu(), lambda x: x.softmax(-1), lambda x: x * 0])
def test_a_rule_of_logits_that_is_no_scale_and_no_cap_is_refused(rule, monkeypatch):
    monkeypatch.setattr(MadeUp, "rule", staticmethod(rule))
    model, tokenizer = text_only("llama")
    with pytest.raises(
        UserError, match="model: llama changes its logits in a way that is neither a scale nor a soft cap"
    ):
        Policy(MadeUp(model.config), tokenizer, SETTINGS)


def test_another_family_says_why_it_runs_row_by_row():
    model, tokenizer = text_only("llama")
    model.config.model_type = "unheard_of"
    policy = Policy(model, tokenizer, SETTINGS)
    assert not policy.shares_prefix
    assert policy.obstacle == "the family unheard_of is not among those it is tested for"
