"""Families that run one row a completion: hybrid caches, sliding windows, logits that are scaled or capped. Log-probs and
gradients are those of plain transformers, the sampler's are the trainer's."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from typing import Any

import pytest
import torch
from sampler_gap import gap
from small_families import qwen3_5, text_only
from torch import Tensor

from sharegrpo_rl.generation.generator import Sampling
from sharegrpo_rl.generation.hf import HFGenerator
from sharegrpo_rl.models.policy import Policy
from sharegrpo_rl.models.prompts import PromptSettings

SETTINGS = PromptSettings(max_prompt_tokens=512, min_pixels=784, max_pixels=3136)
RULES = {"cohere": (0.0625, None), "falcon_h1": (0.4, None), "gemma2": (1.0, 2.5), "granite": (1 / 8, None)}
FAMILIES = (*RULES, "gemma3", "lfm2", "qwen3_5")


@cache
def built(family: str) -> tuple[Any, Any]:
    return qwen3_5() if family == "qwen3_5" else text_only(family)


def fresh(family: str) -> Policy:
    model, processor = built(family)
    return Policy(deepcopy(model), processor, SETTINGS, 0.7)


@pytest.fixture(scope="module")
def of() -> Callable[[str], Policy]:
    return cache(fresh)


def plain(policy: Policy, model: Any, packs: Any) -> Tensor:
    """Log-probs by the model's own forward on one row at a time, everything but ids and pictures left to transformers."""
    found = []
    for pack in packs:
        for completion in pack.completions:
            ids = torch.tensor([[*pack.prompt.input_ids, *completion.token_ids]])
            inputs = {"input_ids": ids}
            for key in pack.prompt.images[0].tensors if pack.prompt.images else ():
                inputs[key] = torch.cat([torch.from_numpy(i.tensors[key]) for i in pack.prompt.images])
            if "mm_token_type_ids" in inspect.signature(model.forward).parameters:
                inputs["mm_token_type_ids"] = (ids == model.config.image_token_id).long()
            logits = (
                model(**inputs, use_cache=False).logits[0, len(pack.prompt.input_ids) - 1 : -1] / policy.temperature
            )
            logits = logits.index_fill(1, policy.banned, float("-inf"))
            found.append(logits.log_softmax(-1).gather(1, torch.from_numpy(completion.token_ids)[:, None])[:, 0])
    return torch.cat(found)


def packs_of(policy: Policy, tiny: Any) -> list[Any]:
    sees = policy.encoder.image_processor is not None
    shapes = [((4, 1, 3), 2), ((2, 7), 0), ((1, 3), 1)]
    return [tiny.pack(policy, n, group=g, pictures=i * sees, seed=g) for g, (n, i) in enumerate(shapes)]


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probs_and_gradients_are_those_of_plain_transformers(family, of, tiny):
    policy, (model, _) = of(family), built(family)
    model.set_attn_implementation("eager")
    packs = packs_of(policy, tiny)
    mine, theirs = policy.logprobs(packs).logprobs, plain(policy, model, packs)
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)
    weights = torch.linspace(-1, 1.5, len(mine)) / len(mine)
    for loss, parameters in ((mine @ weights, policy.model.parameters()), (theirs @ weights, model.parameters())):
        for parameter in parameters:
            parameter.grad = None
        loss.backward()
    for (name, one), other in zip(policy.model.named_parameters(), model.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_sampler_s_log_probs_are_the_trainer_s(family, of, tiny):
    policy = of(family)
    prompts = [pack.prompt for pack in packs_of(policy, tiny)]
    ending = copy_with_ends(policy)
    answers = HFGenerator(ending).generate(prompts, 4, [1, 2, 3], Sampling(9))
    assert len({len(c.token_ids) for a in answers for c in a}) > 1  # rows left the batch at different times
    assert gap(policy, prompts, answers) < 3e-5


def copy_with_ends(policy: Policy) -> Policy:
    """The policy with so many end tokens that completions have many lengths."""
    from copy import copy

    ending = copy(policy)
    ending.end_ids = tuple(range(100, 140))
    return ending


@pytest.mark.parametrize(("family", "rule"), RULES.items())
def test_the_rule_of_logits_is_measured(family, rule, of):
    assert (of(family).logit_rule.scale, of(family).logit_rule.cap) == rule


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("family", "rule"), [*RULES.items(), ("lfm2", (1.0, None))])
def test_the_rule_is_measured_in_half_precision_too(family, rule, dtype):
    model, processor = built(family)
    policy = Policy(deepcopy(model).to(dtype), processor, SETTINGS)
    assert (policy.logit_rule.scale, policy.logit_rule.cap) == rule
