"""Families that nobody here has heard of: they train as they are, or end in one line. Real classes, changed in one way each."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from families_by_rows import deepseek_vl, lfm2_vl, llava_onevision, minicpmv4_6, mllama, more_text_only
from families_with_windows import aya_vision, gemma3, gemma4, glm4v, glm46v, paligemma
from small_families import internvl, llava, llava_next, mistral3, qwen2_vl, qwen3_5, qwen3_vl, text_only
from transformers import (
    LlamaForCausalLM,
    LlavaForConditionalGeneration,
    Mistral3ForConditionalGeneration,
    PixtralProcessor,
    Qwen2VLForConditionalGeneration,
    Qwen2VLProcessor,
)

from sharegrpo_rl.config import GRPOOptions
from sharegrpo_rl.data.types import PromptPack
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.generation.generator import Sampling
from sharegrpo_rl.generation.hf import HFGenerator
from sharegrpo_rl.models.policy import Policy
from sharegrpo_rl.models.probe import check_policy
from sharegrpo_rl.models.prompts import PromptEncoder, PromptSettings, Question
from sharegrpo_rl.training.step import TrainingStep

SETTINGS = PromptSettings(max_prompt_tokens=512, min_pixels=784, max_pixels=3136)
KNOWN: dict[str, tuple[Callable[[], tuple[Any, Any]], bool]] = {  # and whether they share prompts
    "internvl": (internvl, True),
    "llava": (llava, True),
    "llava_next": (llava_next, True),
    "mistral3": (mistral3, True),
    "qwen2_vl": (qwen2_vl, True),
    "qwen3_vl": (qwen3_vl, True),
    "qwen3_5": (qwen3_5, True),
    "llama": (lambda: text_only("llama"), True),
    "cohere": (lambda: text_only("cohere"), True),  # not in the list of those that are tested
    "granite": (lambda: text_only("granite"), True),
    "lfm2": (lambda: text_only("lfm2"), True),
    "gemma2": (lambda: text_only("gemma2"), False),
    "falcon_h1": (lambda: text_only("falcon_h1"), False),
    "gemma3": (gemma3, True),
    "gemma4": (gemma4, True),
    "gemma4 small": (lambda: gemma4(small=True), True),
    "glm4v": (glm4v, True),
    "glm46v": (glm46v, True),
    "aya_vision": (aya_vision, True),
    "llava_onevision": (llava_onevision, True),
    "deepseek_vl": (deepseek_vl, True),
    "lfm2_vl": (lfm2_vl, True),
    "mixtral": (lambda: more_text_only("mixtral"), True),
    "olmo2": (lambda: more_text_only("olmo2"), True),
    "glm4": (lambda: more_text_only("glm4"), True),
    "gemma": (lambda: more_text_only("gemma"), True),
    "ernie4_5": (lambda: more_text_only("ernie4_5"), True),
}


def checked(model: Any, processor: Any) -> Policy:
    policy = Policy(model, processor, SETTINGS)
    check_policy(policy)
    return policy


def agrees(policy: Policy) -> None:
    """What it samples has the trainer's log-probs, and a training step runs."""
    rng = np.random.default_rng(3)
    pictures = [rng.integers(0, 255, shape, dtype=np.uint8) for shape in ((40, 28, 3), (56, 70, 3), (28, 28, 3))]
    sees = policy.encoder.image_processor is not None
    shown = [tuple(pictures[:n]) if sees else () for n in (1, 2, 0, 1)]
    prompts = policy.encoder.encode([Question(f"How many in number {i}?", s) for i, s in enumerate(shown)])
    answers = HFGenerator(policy).generate(prompts, 3, [1, 2, 3, 4], Sampling(6))
    packs = [
        PromptPack(i, 0, p, a, np.array([1.0, -1.0, 0.5]), np.ones(3, bool))
        for i, (p, a) in enumerate(zip(prompts, answers, strict=True))
    ]
    with torch.no_grad():
        trained = policy.logprobs(packs).logprobs.numpy()
    np.testing.assert_allclose(trained, np.concatenate([c.sampler_logprobs for a in answers for c in a]), atol=3e-5)
    assert TrainingStep(policy, GRPOOptions(lr=1e-3)).update(packs)["grad_norm"] > 0


@pytest.mark.parametrize("family", KNOWN)
def test_known_families_pass(family):
    build, shares = KNOWN[family]
    policy = checked(*build())
    assert policy.shares_prefix == shares
    assert not policy.rows_alone


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", KNOWN)
def test_rounding_is_no_difference(family, dtype, caplog):
    """A model in half precision runs as it does in float32: rounding must neither refuse nor slow it."""
    build, shares = KNOWN[family]
    model, processor = build()
    with caplog.at_level(logging.WARNING):
        policy = checked(model.to(dtype), processor)
    assert policy.shares_prefix == shares
    assert not policy.rows_alone
    assert "apart" not in caplog.text


def test_an_unheard_of_family_shares_where_that_is_exact(caplog):
    model, tokenizer = text_only("llama")
    model.config.model_type = "unheard_of"
    assert not Policy(model, tokenizer, SETTINGS).shares_prefix
    with caplog.at_level(logging.WARNING):
        policy = checked(model, tokenizer)
    assert policy.shares_prefix
    assert not caplog.text
    agrees(policy)


class LooksBack(LlamaForCausalLM):
    """Each token takes a share of the one before it in the row, as convolutions and recurrences do."""

    def __init__(self, config):
        super().__init__(config)
        self.model.embed_tokens.register_forward_hook(lambda m, args, out: out + 0.5 * torch.roll(out, 1, 1))


def test_a_model_that_does_not_generate_what_it_computes_is_refused():
    model, tokenizer = text_only("llama")
    with pytest.raises(UserError, match=r"does not compute what llama does itself: its log-probs are .* apart"):
        checked(LooksBack(model.config), tokenizer)


@pytest.mark.parametrize("family", ["deepseek_v3", "glm4_moe_lite"])
def test_where_sharing_fails_prompts_are_repeated(family, caplog):
    """Their caches hold latents, of which keys are made: the trainer could share, the second's sampler could not."""
    with caplog.at_level(logging.WARNING):
        policy = checked(*more_text_only(family))
    assert not policy.shares_prefix
    assert not policy.rows_alone
    assert "with the prompt shared it fails" in caplog.text
    agrees(policy)


@pytest.mark.parametrize("cross", [1, 3])
def test_what_a_processor_says_of_each_token_is_refused(cross):
    with pytest.raises(UserError, match="its processor gives cross_attention_mask for each token"):
        checked(*mllama(cross))


def test_another_kind_of_token_after_the_prompt_is_refused():
    """PaliGemma's prompt is of type 0 and attends in both directions, its completion of type 1."""
    with pytest.raises(UserError, match=r"does not compute what paligemma does itself: its log-probs are .* apart"):
        checked(*paligemma())


def test_a_tower_whose_entries_are_no_pictures_runs_one_at_a_time(caplog):
    """MiniCPM-V: a picture is a number of slices in one row of patches, which do not stack."""
    with caplog.at_level(logging.WARNING):
        policy = checked(*minicpmv4_6())
    assert policy.rows_alone
    assert "one row at a time" in caplog.text
    agrees(policy)


def test_a_window_that_attention_is_not_told_of_is_noticed(caplog):
    """The texts of the check are shorter than any real window: it tries a short one."""
    model, tokenizer = text_only("gemma3", sliding_window=512)
    assert checked(model, tokenizer).shares_prefix
    for layer in model.model.layers:
        layer.self_attn.sliding_window = None  # its masks know of the window still
    with caplog.at_level(logging.WARNING):
        policy = checked(model, tokenizer)
    assert not policy.shares_prefix
    assert "with the prompt shared its log-probs are" in caplog.text
    assert model.config.sliding_window == 512


class AddsToLogits(LlamaForCausalLM):
    """What its own forward adds after the inner model stays unknown to whoever runs the inner model."""

    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        steps = torch.arange(out.logits.shape[-1]) / 50
        return type(out)(logits=out.logits + (steps if kwargs["input_ids"].shape[1] > 12 else 0))


class SwallowsPictures(LlavaForConditionalGeneration):
    """Pictures go in outside the inner model, which takes them for one of its many arguments."""

    def __init__(self, config):
        super().__init__(config)
        whole, self.seen = self.model.forward, False
        shown = ("pixel_values", "mm_encoder_outputs")
        self.model.forward = lambda *a, **k: whole(*a, **{n: v for n, v in k.items() if self.seen or n not in shown})

    def forward(self, *args, **kwargs):
        self.seen = True
        out = super().forward(*args, **kwargs)
        self.seen = False
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("kind", "build"),
    [(AddsToLogits, lambda: text_only("llama")), (SwallowsPictures, llava)],
    ids=["logits", "pictures"],
)
def test_a_model_that_the_trainer_would_not_compute_is_refused(kind, build, dtype):
    model, processor = build()
    with pytest.raises(
        UserError, match=r"model: the trainer does not compute what llam?\w* does itself: its log-probs are .* apart"
    ):
        checked(kind(model.config).to(dtype), processor)


class OwnShapes(Mistral3ForConditionalGeneration):
    """Pictures of any size, whose shape is all that is known of them."""

    def forward(self, *args, pixel_values=None, **kwargs):
        kwargs |= self.sizes(pixel_values)
        return super().forward(*args, pixel_values=pixel_values, **kwargs)

    @staticmethod
    def sizes(pixels):
        return {} if pixels is None else {"image_sizes": torch.tensor([p.shape[-2:] for p in pixels])}


class WithoutSizes(PixtralProcessor):
    def __call__(self, *args, **kwargs):
        out = super().__call__(*args, **kwargs)
        out.pop("image_sizes", None)
        return out


def test_pictures_that_cannot_be_joined_run_alone(caplog):
    model, p = mistral3()
    made_up = OwnShapes(model.config)
    inner = made_up.model.forward
    made_up.model.forward = lambda *a, pixel_values=None, **k: inner(
        *a, pixel_values=pixel_values, **{**k, **OwnShapes.sizes(pixel_values)}
    )
    processor = WithoutSizes(
        p.image_processor, p.tokenizer, patch_size=7, spatial_merge_size=2, chat_template=p.chat_template
    )
    with caplog.at_level(logging.WARNING):
        policy = checked(made_up, processor)
    assert policy.rows_alone
    assert not policy.shares_prefix
    assert "one row at a time: several together" in caplog.text
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (size, 28, 3), dtype=np.uint8) for size in (28, 56)]
    prompts = policy.encoder.encode([Question("How many?", (picture,)) for picture in pictures])
    answers = HFGenerator(policy).generate(prompts, 2, [1, 2], Sampling(5))
    packs = [
        PromptPack(i, 0, p, a, np.array([1.0, -1.0]), np.ones(2, bool))
        for i, (p, a) in enumerate(zip(prompts, answers, strict=True))
    ]
    with torch.no_grad():
        trained = policy.logprobs(packs).logprobs.numpy()
    np.testing.assert_allclose(trained, np.concatenate([c.sampler_logprobs for a in answers for c in a]), atol=1e-5)
    assert TrainingStep(policy, GRPOOptions(lr=1e-3)).update(packs)["grad_norm"] > 0


class Frames(Qwen2VLProcessor):
    """Grids and a `merge_size`, and yet other tokens than one for each merged patch."""

    def __call__(self, images=None, text=None, **kwargs):
        return super().__call__(images=images, text=[f"{t}\n" for t in text], **kwargs)


class OtherLimits(Qwen2VLProcessor):
    """Has a `merge_size`, and knows no `size` of two edges."""

    def __call__(self, images=None, text=None, **kwargs):
        if "size" in kwargs:
            raise ValueError("size wants max_height and max_width")
        return super().__call__(images=images, text=text, **kwargs)


@pytest.mark.parametrize("kind", [Frames, OtherLimits])
def test_a_merge_size_alone_does_not_make_a_grid(kind):
    model, p = qwen2_vl()
    processor = kind(p.image_processor, p.tokenizer, p.video_processor, chat_template=p.chat_template)
    assert PromptEncoder(p, SETTINGS).picture_limits
    assert not PromptEncoder(processor, SETTINGS).picture_limits
    policy = checked(Qwen2VLForConditionalGeneration(model.config), processor)
    picture = np.random.default_rng(0).integers(0, 255, (56, 84, 3), dtype=np.uint8)
    question = Question("How many?", (picture,))
    (prompt,) = policy.encoder.encode([question])
    own = processor(text=[policy.encoder.template(question)], **policy.encoder.picture_inputs(question))
    assert prompt.input_ids.tolist() == own["input_ids"][0]
    agrees(policy)
