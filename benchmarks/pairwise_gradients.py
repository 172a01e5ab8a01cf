"""The packed learner's gradient against plain transformers with one (prompt, completion) pair at a time.

    uv run python benchmarks/pairwise_gradients.py --algorithm ShareGRPO --preset paper
    uv run python benchmarks/pairwise_gradients.py --model FOLDER --algorithm GRPO --preset dapo --image 448

Questions about drawn shapes, random completions, advantages and old log-probs, so that clips are active. The other side
shares nothing with ours but the prompts' ids and pixels: its log-probs, ratios, clips and means are typed out here. The JSON
line has the relative error of the whole gradient; above 1e-5 the exit code is 1. In float32, on a model folder or hub name.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import numpy as np
import torch
from arguments import one_thread, report
from checkpoint import checkpoint, plain_model
from torch import Tensor

from sharegrpo_rl.config import resolve
from sharegrpo_rl.config.run import GRPOOptions
from sharegrpo_rl.data.types import Completion, PromptPack
from sharegrpo_rl.envs.registry import make_env
from sharegrpo_rl.models.loading import ModelSettings, load_policy
from sharegrpo_rl.models.policy import Policy, model_inputs
from sharegrpo_rl.models.prompts import PromptSettings
from sharegrpo_rl.rollouts.env_runner import render
from sharegrpo_rl.rollouts.groups import plan_requests
from sharegrpo_rl.training.step import TrainingStep

TOLERANCE = 1e-5
SHIFT = 0.3  # nats: spread of a token's old log-prob around the current one
NOISE = 0.02  # of the reference model's weights, relative to their own spread


@dataclass(frozen=True)
class Pair:
    """One completion under one prompt, with its credit. P: the pairs of its question."""

    pack: PromptPack
    index: int
    question_pairs: int

    @property
    def completion(self) -> Completion:
        return self.pack.completions[self.index]

    @property
    def advantage(self) -> float:
        return float(self.pack.advantages[self.index])

    @property
    def native(self) -> bool:
        return bool(self.pack.native[self.index])


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Both gradients and their distance, as JSON fields."""
    options = options_of(arguments)
    folder = arguments.model or str(checkpoint(small=True))
    policy, plain = load(folder, options), plain_model(folder)
    random = np.random.default_rng(arguments.seed)
    packs = random_packs(arguments, options, policy, plain, random)
    reference = perturbed(load(folder, options).model) if options.kl_in_loss else None
    ours, loss = packed_gradient(policy, reference, options, packs)
    theirs, plain_loss, clipped = plain_gradient(
        plain, perturbed(plain_model(folder)) if options.kl_in_loss else None, policy, options, packs
    )
    distance = sum(((ours[n] - theirs[n]) ** 2).sum().item() for n in ours) ** 0.5
    size = sum((theirs[n] ** 2).sum().item() for n in ours) ** 0.5
    return {
        "measurement": "pairwise_gradients",
        "model": folder if arguments.model else "tiny",
        "algorithm": arguments.algorithm,
        "preset": arguments.preset,
        "pairs": sum(len(p.completions) for p in packs),
        "parameters": sum(p.numel() for p in ours.values()),
        "loss": [loss, plain_loss],
        "clipped": clipped,
        "relative_error": distance / size if size else float("nan"),
    }


def options_of(arguments: argparse.Namespace) -> GRPOOptions:
    """The method's options in one optimizer step of few questions; whatever decides the loss stays as it is."""
    given = {"preset": arguments.preset} if arguments.preset else {}
    found = resolve(arguments.algorithm, given)
    if not isinstance(found, GRPOOptions):
        raise SystemExit(
            f"--algorithm {arguments.algorithm}: it has no ratios and no advantages; give a method of GRPO's family"
        )
    size = {"num_questions": arguments.questions, "minibatch_size": None, "num_epochs": 1, "overlong_buffer": 0}
    step = {
        "lr": 1e-12,
        "grad_clip": 0.0,
        "weight_decay": 0.0,
        "lr_warmup_steps": 0,
        "lr_warmup_ratio": 0.0,
        "lr_schedule": "constant",
    }
    left_out = {"rollout_correction": "none", "replay_size": 0, "kl_in_reward": False, "total_steps": 100}
    lengths = {"max_prompt_tokens": 100_000, "max_completion_tokens": arguments.tokens}
    return found.model_copy(update={**size, **step, **left_out, **lengths})


def load(folder: str, options: GRPOOptions) -> Policy:
    """The model as our learner has it, in float32."""
    prompts = PromptSettings("", "", options.max_prompt_tokens, options.min_pixels, options.max_pixels)
    settings = ModelSettings(
        folder,
        freeze_vision_tower=options.freeze_vision_tower,
        freeze_projector=options.freeze_projector,
        temperature=options.temperature,
        logprob_temperature=options.logprob_temperature,
        prompts=prompts,
    )
    return load_policy(settings)


def perturbed(model: Any) -> Any:
    """The model with a little noise on its weights, the same for both sides: a reference that is not the policy."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            spread = weight.std() if weight.numel() > 1 else weight.abs().max()
            weight.add_(torch.randn(weight.shape, generator=draw) * spread * NOISE)
    return model


def random_packs(
    arguments: argparse.Namespace, options: GRPOOptions, policy: Policy, plain: Any, random: np.random.Generator
) -> list[PromptPack]:
    """For each question a pack for each of its variants: its own completions, and its siblings' where they are shared."""
    env = make_env("DrawnShapes-v0", {"image_size": arguments.image, "num_wordings": 6}, check=False)
    requests = plan_requests(env.bank, [(0, i) for i in range(arguments.questions)], options, arguments.seed, 0)
    prompts = render(env, policy.encoder, requests)
    words = np.setdiff1d(np.arange(len(policy.encoder.tokenizer)), [*policy.banned.tolist(), *policy.end_ids])

    def completion() -> Completion:
        length = int(random.integers(1, arguments.tokens))
        ids = np.append(random.choice(words, length), policy.end_ids[0])
        return Completion(ids.astype(np.int64), np.zeros(length + 1, np.float32), "")

    native = [tuple(completion() for _ in range(arguments.samples)) for _ in requests]
    packs = []
    for k, request in enumerate(requests):
        shares = options.completions_per_prompt() > options.num_generations
        sources = [j for j, r in enumerate(requests) if r.group == request.group] if shares else [k]
        completions = tuple(c for j in sources for c in native[j])
        pack = PromptPack(
            group=request.group,
            slot=request.slot.slot,
            prompt=prompts[k],
            completions=completions,
            advantages=random.normal(size=len(completions)),
            native=np.repeat([j == k for j in sources], arguments.samples),
        )
        with torch.no_grad():
            current = [plain_logprobs(plain, policy, Pair(pack, i, 1)).numpy() for i in range(len(completions))]
        old = tuple((c + random.normal(0, SHIFT, c.shape)).astype(np.float32) for c in current)
        packs.append(replace(pack, old_logprobs=old))
    return packs


def packed_gradient(
    policy: Policy, reference: Any, options: GRPOOptions, packs: list[PromptPack]
) -> tuple[dict[str, Tensor], float]:
    """What our learner leaves in `.grad` after one step, and its loss."""
    same = (policy.processor, policy.encoder.settings, policy.temperature, policy.logprob_temperature)
    frozen = Policy(reference, *same) if reference else None
    step = TrainingStep(policy, options, frozen)
    metrics = step.update(packs)
    gradients = {n: p.grad.detach().clone() for n, p in policy.model.named_parameters() if p.grad is not None}
    return gradients, metrics["policy_loss"] + (step.options.kl_weight(0) * metrics["kl"] if frozen else 0.0)


def plain_gradient(
    model: Any, reference: Any, policy: Policy, options: GRPOOptions, packs: list[PromptPack]
) -> tuple[dict[str, Tensor], float, float]:
    """The same by loops over pairs: the gradient, the loss, and the share of tokens whose ratio a clip decides."""
    found = list(pairs(packs))
    total = clipped = tokens = 0.0
    carriers = [p for p in found if p.native or options.kl_on_shared]
    for pair in found:
        logprobs = plain_logprobs(model, policy, pair)
        length = len(logprobs)
        values, decided = objective(logprobs, pair, options)
        loss = -values.sum() * weight(pair, found, options)
        if reference is not None and pair in carriers:
            with torch.no_grad():
                frozen = plain_logprobs(reference, policy, pair)
            loss = loss + options.kl_weight(0) * kl(logprobs, frozen, options).sum() * weight(pair, carriers, options)
        loss.backward()
        total += loss.item()
        clipped, tokens = clipped + decided, tokens + length
    gradients = {n: p.grad if p.grad is not None else torch.zeros_like(p) for n, p in model.named_parameters()}
    return gradients, total, clipped / tokens


def pairs(packs: list[PromptPack]) -> Iterator[Pair]:
    """Every pair, with the number of pairs of its question."""
    sizes = {p.group: sum(len(q.completions) for q in packs if q.group == p.group) for p in packs}
    for pack in packs:
        for index in range(len(pack.completions)):
            yield Pair(pack, index, sizes[pack.group])


def plain_logprobs(model: Any, policy: Policy, pair: Pair) -> Tensor:
    """Log-probs [T] of the completion's tokens by a plain forward over prompt and completion."""
    prompt, ids = pair.pack.prompt, torch.from_numpy(pair.completion.token_ids)
    row = np.concatenate([prompt.input_ids, pair.completion.token_ids])
    logits = model(**model_inputs(model, [row], [prompt.images], policy.pad_id, "right")).logits[0]
    logits = logits[len(prompt.input_ids) - 1 : -1] / (policy.logprob_temperature or policy.temperature)
    allowed = torch.ones(logits.shape[-1], dtype=torch.bool)
    allowed[policy.banned] = False
    logits = logits.masked_fill(~allowed, float("-inf"))
    return logits.gather(-1, ids[:, None])[:, 0] - logits.logsumexp(-1)


def objective(logprobs: Tensor, pair: Pair, options: GRPOOptions) -> tuple[Tensor, float]:
    """The clipped objective [T] of each token, and of how many a clip decides."""
    assert pair.pack.old_logprobs is not None
    difference = logprobs - torch.from_numpy(pair.pack.old_logprobs[pair.index])
    if options.ratio_level == "sequence_product":
        difference = difference.sum().expand(len(logprobs))
    elif options.ratio_level == "sequence":
        difference = difference.mean().expand(len(logprobs))
    ratio, credit = difference.exp(), pair.advantage
    bounded = ratio.clamp(1 - options.clip_low, 1 + options.clip_high) * credit
    values = torch.minimum(ratio * credit, bounded)
    if options.dual_clip is not None and credit < 0:
        values = torch.maximum(values, torch.full_like(values, options.dual_clip * credit))
    return values, float((values.detach() != (ratio * credit).detach()).sum())


def kl(logprobs: Tensor, reference: Tensor, options: GRPOOptions) -> Tensor:
    """The estimate [T] of the KL to the reference."""
    difference = logprobs - reference
    estimates = {
        "k1": difference,
        "k2": difference**2 / 2,
        "k3": torch.exp(-difference) - 1 + difference,
    }
    return estimates[options.kl_estimator]


def weight(pair: Pair, counted: list[Pair], options: GRPOOptions) -> float:
    """What each token of the pair weighs in a mean over the pairs that are counted."""
    length, sequences = len(pair.completion.token_ids), len(counted)
    if options.loss_aggregation == "token_mean":
        return 1 / sum(len(p.completion.token_ids) for p in counted)
    if options.loss_aggregation == "max_length":
        return 1 / (sequences * options.max_completion_tokens)
    terms = 1 if options.loss_aggregation == "question_mean" and options.ratio_level == "token" else length
    if options.loss_aggregation == "sequence_mean":
        return 1 / (length * sequences)
    questions = {p.pack.group for p in counted}
    own = sum(p.pack.group == pair.pack.group for p in counted)
    return 1 / (terms * len(questions) * own)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--model", help="a Hugging Face folder or hub name; default: a random Qwen2.5-VL")
    add("--algorithm", default="ShareGRPO", help="GRPO, ShareGRPO, GRPOD or StepGRPO")
    add("--preset", help="one of the algorithm's presets (`sharegrpo-rl list presets`)")
    add("--questions", type=int, default=2)
    add("--samples", type=int, default=2, help="completions of each prompt")
    add("--tokens", type=int, default=8, help="most tokens of a completion")
    add("--image", type=int, default=56, metavar="PX", help="edge of the pictures")
    add("--seed", type=int, default=0)
    arguments = parser.parse_args()
    one_thread()
    errors: list[float] = []

    def measured(given: argparse.Namespace) -> dict[str, Any]:
        result = measure(given)
        errors.append(result["relative_error"])
        return result

    report(measured, arguments)
    if not isfinite(errors[0]) or errors[0] > TOLERANCE:
        sys.exit(f"the gradients differ by {errors[0]:.1e}, more than {TOLERANCE:g}")


if __name__ == "__main__":
    main()
