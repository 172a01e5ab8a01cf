"""Text models that run one row a completion or change their logits: state spaces, sliding windows, scales and soft caps.
Log-probs and gradients are those of plain transformers, the sampler's are the trainer's."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import cache
from typing import Any

import pytest
import torch
from sampler_gap import gap, with_ends
from small_families import text_only
from torch import Tensor

from sharegrpo_rl.generation.generator import Sampling
from sharegrpo_rl.generation.hf import HFGenerator
from sharegrpo_rl.models.policy import Policy
from sharegrpo_rl.models.prompts import PromptSettings

RULES = {"cohere": (0.0625, None), "falcon_h1": (0.4, None), "gemma2": (1.0, 2.5), "granite": (1 / 8, None)}
FAMILIES = (*RULES, "gemma3")
built = cache(text_only)


@pytest.fixture(scope="module")
def of() -> Callable[[str], Policy]:
    """of(family): its one policy, which runs rows."""
    return cache(lambda family: made(deepcopy(built(family)[0]), built(family)[1]))


def made(model: Any, tokenizer: Any) -> Policy:
    policy = Policy(model, tokenizer, PromptSettings(max_prompt_tokens=512), 0.7)
    policy.repeat_prompts("rows are what is tried here")
    return policy


def plain(policy: Policy, model: Any, packs: Any) -> Tensor:
    """Log-probs by the model's own forward on one row at a time, everything but ids left to transformers."""
    found = []
    for pack, completion in ((p, c) for p in packs for c in p.completions):
        ids = torch.tensor([[*pack.prompt.input_ids, *completion.token_ids]])
        logits = (
            model(input_ids=ids, use_cache=False).logits[0, len(pack.prompt.input_ids) - 1 : -1] / policy.temperature
        )
        logits = logits.index_fill(1, policy.banned, float("-inf"))
        found.append(logits.log_softmax(-1).gather(1, torch.from_numpy(completion.token_ids)[:, None])[:, 0])
    return torch.cat(found)


def packs_of(policy: Policy, tiny: Any) -> list[Any]:
    lengths = [(4, 1, 3), (2, 7), (1, 3)]
    return [
        tiny.pack(policy, n, group=g, pictures=0, seed=g, text="How many? " * (g + 1)) for g, n in enumerate(lengths)
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probs_and_gradients_are_those_of_plain_transformers(family, of, tiny):
    policy, (model, _) = of(family), built(family)
    model.set_attn_implementation("eager")
    packs = packs_of(policy, tiny)
    mine, theirs = policy.logprobs(packs).logprobs, plain(policy, model, packs)
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)
    weights = torch.linspace(-1, 1.5, len(mine)) / len(mine)
    mine, theirs = (tiny.gradients(p, loss @ weights) for p, loss in ((policy, mine), (made(*built(family)), theirs)))
    assert mine.keys() == theirs.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(mine[name], gradient, rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_sampler_s_log_probs_are_the_trainer_s(family, of, tiny):
    policy = of(family)
    prompts = [pack.prompt for pack in packs_of(policy, tiny)]
    answers = HFGenerator(with_ends(policy)).generate(prompts, 4, [1, 2, 3], Sampling(9))
    assert len({len(c.token_ids) for a in answers for c in a}) > 1  # rows left the batch at different times
    assert gap(policy, prompts, answers) < 3e-5


@pytest.mark.parametrize(("family", "rule"), RULES.items())
def test_the_rule_of_logits_is_measured(family, rule, of):
    assert (of(family).logit_rule.scale, of(family).logit_rule.cap) == rule


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("family", "rule"), [*RULES.items(), ("lfm2", (1.0, None))])
def test_the_rule_is_measured_in_half_precision_too(family, rule, dtype):
    model, tokenizer = built(family)
    policy = made(deepcopy(model).to(dtype), tokenizer)
    assert (policy.logit_rule.scale, policy.logit_rule.cap) == rule
