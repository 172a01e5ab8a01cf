"""Every family with the shared-prefix forward: against padding, against plain transformers, sampled from and trained."""

import inspect
from collections.abc import Callable, Sequence
from copy import copy, deepcopy
from dataclasses import replace
from functools import cache, partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families_by_rows import deepseek_vl, lfm2_vl, llava_onevision, more_text_only
from families_with_windows import aya_vision, gemma3, gemma4, glm4v, glm46v
from small_families import (
    idefics3,
    internvl,
    llava,
    llava_next,
    mistral3,
    qwen2_vl,
    qwen3_5,
    qwen3_vl,
    smolvlm,
    text_only,
)
from torch import Tensor

from sharegrpo_rl.config import GRPOOptions
from sharegrpo_rl.data.types import PromptPack
from sharegrpo_rl.generation.generator import Sampling
from sharegrpo_rl.generation.hf import HFGenerator
from sharegrpo_rl.models.loading import ModelSettings, Parts, load_policy, save_pretrained
from sharegrpo_rl.models.policy import Policy, TokenValues, branch_logprobs, padded_logprobs, unwrapped
from sharegrpo_rl.models.prompts import PromptSettings, Question
from sharegrpo_rl.training.batching import micro_batches
from sharegrpo_rl.training.step import TrainingStep

SETTINGS = PromptSettings(max_prompt_tokens=512, min_pixels=784, max_pixels=3136)
TEMPERATURE = 0.7
SEEING: dict[str, Callable[[], tuple[Any, Any]]] = {
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": lambda: pytest.fail("conftest builds it"),
    "qwen3_vl": qwen3_vl,
    "qwen3_vl_moe": lambda: qwen3_vl(experts=True),
    "qwen3_5": qwen3_5,
    "qwen3_5_moe": lambda: qwen3_5(experts=True),
    "llava": llava,
    "llava_next": llava_next,
    "mistral3": mistral3,
    "internvl": internvl,
    "idefics3": idefics3,
    "idefics3 without crops": lambda: idefics3(splitting=False),
    "smolvlm": smolvlm,
    "glm4v": glm4v,
    "glm46v": glm46v,
    "llava_onevision": llava_onevision,
    "deepseek_vl": deepseek_vl,
    "lfm2_vl": lfm2_vl,
    "gemma3": gemma3,
    "gemma4": gemma4,
    "gemma4 small": lambda: gemma4(small=True),
    "aya_vision": aya_vision,
}
TEXTS: dict[str, Callable[[], tuple[Any, Any]]] = {
    **{f: partial(text_only, f) for f in ("llama", "qwen2", "qwen3", "qwen3_moe", "smollm3", "mistral", "lfm2")},
    "gemma3_text": partial(text_only, "gemma3"),
    "mistral, window": partial(text_only, "mistral", sliding_window=8),
    **{f: partial(text_only, f) for f in ("cohere", "granite")},
    **{f: partial(more_text_only, f) for f in ("phi3", "cohere2", "mixtral", "olmo2", "glm4", "gemma", "ernie4_5")},
}
TEXT_ONLY = tuple(TEXTS)
FAMILIES = (*SEEING, *TEXT_ONLY)
# Their whole matrix is in the slow set; tests/models/test_probe.py has them in the fast one.
SLOW = (
    "glm4v", "glm46v", "llava_onevision", "deepseek_vl", "lfm2_vl", "gemma4", "gemma4 small", "aya_vision",
    "phi3", "cohere2", "cohere", "granite", "mixtral", "olmo2", "glm4", "gemma", "ernie4_5",
)  # fmt: skip
# (lengths of the completions, pictures, seed) of each pack; equal seeds show equal pictures, the first ones first
Shape = Sequence[tuple[tuple[int, ...], int, int]]
SHAPES: dict[str, Shape] = {
    "ragged": [((3, 1, 4), 1, 0)],
    "one token": [((1,), 2, 0)],
    "equal lengths": [((3, 3, 3), 3, 0)],
    "no picture": [((2, 5), 0, 0)],
    "several packs": [((3, 1), 1, 0), ((2, 6, 1), 0, 1), ((4,), 3, 2), ((1, 1), 2, 3)],
    "no picture at the ends": [((1, 2), 0, 0), ((3,), 1, 1), ((2,), 0, 2)],
    "pictures of several packs": [((2, 1), 2, 5), ((3,), 1, 5), ((1, 2), 2, 5)],
}


def among(families: Sequence[str]) -> pytest.MarkDecorator:
    marked = [pytest.param(f, marks=[pytest.mark.slow] if f in SLOW else []) for f in families]
    return pytest.mark.parametrize("family", marked)


seeing, every = among(list(SEEING)), among(FAMILIES)


@pytest.fixture(scope="module")
def build(make_policy: Any) -> Callable[[str], tuple[Any, Any]]:
    """build(family): the family's model and processor, a copy for each caller."""

    @cache
    def built(family: str) -> tuple[Any, Any]:
        if family == "qwen2_5_vl":
            policy = make_policy()
            return policy.model, policy.processor
        return (SEEING | TEXTS)[family]()

    def copied(family: str) -> tuple[Any, Any]:
        model, processor = built(family)
        return deepcopy(model), processor

    return copied


@pytest.fixture(scope="module")
def of(build: Any) -> Callable[[str], Policy]:
    """of(family): the one policy for tests that leave its weights alone."""
    return cache(lambda family: Policy(*build(family), SETTINGS, TEMPERATURE))


@pytest.fixture(scope="module")
def folder_of(of: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """folder_of(family): the model as a Hugging Face folder."""

    @cache
    def saved(family: str) -> Path:
        path = tmp_path_factory.mktemp("family")
        save_pretrained(of(family), path)
        return path

    return saved


def load(folder: Path, **settings: Any) -> Policy:
    return load_policy(ModelSettings(str(folder), prompts=SETTINGS, temperature=TEMPERATURE, **settings))


def packs_of(policy: Policy, tiny: Any, shape: Shape) -> list[PromptPack]:
    """Text-only models get the same packs without pictures."""
    sees = policy.encoder.image_processor is not None
    return [tiny.pack(policy, n, group=g, pictures=i * sees, seed=seed) for g, (n, i, seed) in enumerate(shape)]


def packed(policy: Policy, packs: Sequence[PromptPack]) -> TokenValues:
    assert policy.shares_prefix
    model, rule = unwrapped(policy.model), policy.logit_rule
    return branch_logprobs(model, packs, policy.temperature, policy.banned, None, rule)


def padded(policy: Policy, packs: Sequence[PromptPack]) -> TokenValues:
    model, rule = unwrapped(policy.model), policy.logit_rule
    return padded_logprobs(model, packs, policy.temperature, policy.banned, policy.pad_id, rule)


def plain(model: Any, pack: PromptPack, banned: Tensor) -> Tensor:
    """Log-probs by the model's own forward on one unpadded row at a time, positions and masks left to transformers."""
    found = []
    for completion in pack.completions:
        ids = torch.tensor([[*pack.prompt.input_ids, *completion.token_ids]])
        inputs = {"input_ids": ids}
        if pack.prompt.images:
            for key in pack.prompt.images[0].tensors:
                inputs[key] = torch.cat([torch.from_numpy(np.asarray(i.tensors[key])) for i in pack.prompt.images])
            for name in {"mm_token_type_ids", "token_type_ids"} & inspect.signature(model.forward).parameters.keys():
                inputs[name] = (ids == model.config.image_token_id).long()
        logits = model(**inputs, use_cache=False).logits[0, len(pack.prompt.input_ids) - 1 : -1] / TEMPERATURE
        logits[:, banned] = float("-inf")
        found.append(logits.log_softmax(-1).gather(1, torch.from_numpy(completion.token_ids)[:, None])[:, 0])
    return torch.cat(found)


def assert_same_gradients(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """To 1e-5 of the whole gradient's norm, and of every single number."""
    assert mine.keys() == theirs.keys()
    assert norm_of(theirs) > 0
    assert norm_of({n: mine[n] - g for n, g in theirs.items()}) <= 1e-5 * norm_of(theirs)
    for name, gradient in theirs.items():
        torch.testing.assert_close(mine[name], gradient, rtol=0, atol=1e-5, msg=name)


def norm_of(gradients: dict[str, Tensor]) -> float:
    return float(torch.stack([g.norm() for g in gradients.values()]).norm())


def assert_same(policy: Policy, tiny: Any, packs: Sequence[PromptPack]) -> dict[str, Tensor]:
    """The shared-prefix forward equals the padded one; returns its gradients."""
    one, other = packed(policy, packs), padded(policy, packs)
    torch.testing.assert_close(one.logprobs, other.logprobs, rtol=0, atol=1e-5)
    torch.testing.assert_close(one.entropy, other.entropy, rtol=0, atol=1e-5)
    mine, theirs = (tiny.gradients(policy, weighted(v.logprobs, len(v.logprobs))) for v in (one, other))
    assert_same_gradients(mine, theirs)
    return mine


def weighted(logprobs: Tensor, total: int, first: int = 0) -> Tensor:
    """Weighted mean over `total` tokens, of which these begin at `first`; no two weights are equal."""
    weights = torch.linspace(-1, 1.5, total)[first : first + len(logprobs)]
    return (logprobs * weights).sum() / total


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@every
def test_branches_equal_padding(family, shape, of, tiny):
    policy = of(family)
    assert_same(policy, tiny, packs_of(policy, tiny, shape))


@pytest.mark.parametrize("path", [padded, packed], ids=["padded", "packed"])
@every
def test_plain_transformers_agrees(family, path, of, build, tiny):
    policy, (untouched, _) = of(family), build(family)
    untouched.set_attn_implementation("eager")
    packs = packs_of(policy, tiny, [((4, 1, 3), 2, 0), ((2, 1), 0, 1), ((1, 3), 3, 2)])
    with torch.no_grad():
        expected = torch.cat([plain(untouched, pack, policy.banned) for pack in packs])
        torch.testing.assert_close(path(policy, packs).logprobs, expected, rtol=0, atol=1e-5)


@every
def test_cut_packs_add_up(family, of, tiny):
    policy = of(family)
    packs = packs_of(policy, tiny, [((3, 1, 4, 2), 2, 0), ((2, 3), 0, 1), ((1, 2), 1, 0)])
    whole = packed(policy, packs).logprobs
    cuts = micro_batches(packs, max(len(p.prompt.input_ids) for p in packs) + 5)
    assert len(cuts) > 2
    parts = [packed(policy, micro).logprobs for micro in cuts]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-5)
    firsts = np.cumsum([0, *(len(p) for p in parts)])
    total = sum(weighted(p, len(whole), int(first)) for p, first in zip(parts, firsts, strict=False))
    expected = tiny.gradients(policy, weighted(whole, len(whole)))
    assert_same_gradients(tiny.gradients(policy, total), expected)


@seeing
def test_frozen_vision_tower(family, folder_of, tiny):
    policy = load(folder_of(family), freeze_vision_tower=True)
    found = assert_same(policy, tiny, packs_of(policy, tiny, SHAPES["several packs"]))
    parts = {Parts(policy.model).of(name) for name in found}
    assert parts == {"projector", "language model"}


def lora(family: str) -> dict[str, Any]:
    return {
        "r": 2,
        "alpha": 4,
        "target_modules": ["language", "vision", "projector"] if family in SEEING else ["language"],
    }


def wake_adapters(policy: Policy) -> None:
    """B is 0 at the start, and an adapter with B = 0 changes nothing."""
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1, generator=random)


@every
def test_lora(family, of, folder_of, tiny):
    policy = load(folder_of(family), lora=lora(family))
    packs = packs_of(policy, tiny, SHAPES["several packs"])
    with torch.no_grad():
        before = packed(of(family), packs).logprobs
        torch.testing.assert_close(packed(policy, packs).logprobs, before, rtol=0, atol=1e-5)
    wake_adapters(policy)
    found = assert_same(policy, tiny, packs)
    assert all("lora_" in name for name in found)
    linear = {
        Parts(policy.model).of(name) for name, m in unwrapped(policy.model).named_modules() if hasattr(m, "lora_A")
    }
    assert {Parts(policy.model).of(name) for name in found} == linear
    assert len(linear) == len(lora(family)["target_modules"]) - (family == "gemma3")  # its projector is a bare matrix
    assert not torch.allclose(packed(policy, packs).logprobs, before, atol=1e-2)


@pytest.mark.parametrize("path", [padded, packed], ids=["padded", "packed"])
@seeing
def test_pictures_are_seen(family, path, of, tiny):
    """Either picture of a prompt changes what is said after it."""
    policy = of(family)
    pack = tiny.pack(policy, (3, 2))
    one, other, third = np.random.default_rng(0).integers(0, 255, (3, 28, 42, 3), dtype=np.uint8)
    shown = [(one, other), (third, other), (one, third), (other, one)]
    prompts = policy.encoder.encode([Question("How many?", pictures) for pictures in shown])
    with torch.no_grad():
        values = [path(policy, [replace(pack, prompt=prompt)]).logprobs for prompt in prompts]
    for i, j in combinations(range(len(values)), 2):
        assert not torch.allclose(values[i], values[j], atol=1e-3)


@every
def test_sampler_and_trainer_agree(family, of, tiny):
    policy = of(family)
    prompts = [p.prompt for p in packs_of(policy, tiny, [((1,), 1, 0), ((1,), 2, 1), ((1,), 0, 2)])]
    answers = HFGenerator(policy).generate(prompts, 3, [1, 2, 3], Sampling(6))
    packs = [
        PromptPack(i, 0, p, a, np.ones(3), np.ones(3, bool))
        for i, (p, a) in enumerate(zip(prompts, answers, strict=True))
    ]
    sampled = np.concatenate([c.sampler_logprobs for a in answers for c in a])
    with torch.no_grad():
        np.testing.assert_allclose(policy.logprobs(packs).logprobs.numpy(), sampled, rtol=0, atol=1e-5)


@every
def test_gradient_checkpointing(family, of, folder_of, tiny):
    """Layers run again in the backward pass, after the packed forward has ended."""
    policy = load(folder_of(family), activation_checkpointing="full")
    policy.model.train()
    packs = packs_of(policy, tiny, SHAPES["several packs"])
    mine = tiny.gradients(policy, packed(policy, packs).logprobs.mean())
    assert policy.model.is_gradient_checkpointing
    assert_same_gradients(mine, tiny.gradients(of(family), packed(of(family), packs).logprobs.mean()))


TRAINED: dict[str, dict[str, Any]] = {
    "whole": {},
    "frozen tower": {"freeze_vision_tower": True},
    "language model": {"freeze_vision_tower": True, "freeze_projector": True},
    "lora": {"lora": lora},
}


# In the fast set: whole models, and all cases of one with crops and one with deeper features. Gemma 4's small form is left
# out: its gradients over whole steps are so large that float32 rounds single numbers by more than 1e-5.
CASES = [
    pytest.param(
        f,
        p,
        marks=[] if f not in SLOW and (p == "whole" or f in ("idefics3", "qwen3_vl")) else pytest.mark.slow,
        id=f"{f}-{p}",
    )
    for f in FAMILIES
    for p in TRAINED
    if "without" not in f and f != "gemma4 small" and (f in SEEING or p in ("whole", "lora"))
]


@pytest.mark.parametrize(("family", "part"), CASES)
def test_training_steps_agree(family, part, folder_of, tiny):
    """One step from whole packs, from packs cut into sub-packs and from padded rows takes the loss's own gradient."""
    settings = {k: v(family) if callable(v) else v for k, v in TRAINED[part].items()}
    loaded = load(folder_of(family), **settings)
    wake_adapters(loaded)
    assert loaded.shares_prefix
    expected: dict[str, Tensor] = {}
    for shares, budget in ((True, 10_000), (True, 1), (False, 40)):
        policy = copy(loaded)
        policy.model, policy.shares_prefix = deepcopy(loaded.model), shares
        packs = packs_of(policy, tiny, [((3, 1, 2), 2, 0), ((2, 1), 0, 1), ((1, 3), 1, 0)])
        credit = torch.tensor(
            [a for p in packs for a, c in zip(p.advantages, p.completions, strict=True) for _ in c.token_ids]
        )
        expected = expected or tiny.gradients(policy, -(credit * padded(policy, packs).logprobs).mean())
        before = {n: p.detach().clone() for n, p in policy.model.named_parameters()}
        metrics = TrainingStep(policy, GRPOOptions(lr=1e-3, grad_clip=0, max_tokens_per_microbatch=budget)).update(
            packs
        )
        assert metrics["optimizer_steps"] == 1
        assert metrics["grad_norm"] == pytest.approx(norm_of(expected), rel=1e-4)
        trained = {n: p for n, p in policy.model.named_parameters() if p.requires_grad}
        moved = {n for n, p in policy.model.named_parameters() if not torch.equal(p, before[n])}
        assert moved
        assert moved <= trained.keys()
        idle = trained.keys() - expected.keys()  # the step gives what got no gradient one of 0
        assert not any(trained[n].grad.any() for n in idle)
        assert_same_gradients({n: p.grad for n, p in trained.items() if n not in idle}, expected)


def test_crops_differ_in_number(of, tiny):
    """The cropping families' tests cover prompts of several crops, not of an equal number."""
    for family in ("idefics3", "smolvlm"):
        images = [tiny.prompt(of(family), pictures=n).images[0] for n in (1, 2, 3)]
        assert [i.tensors["pixel_values"].shape[1] for i in images] == [5, 10, 13]
