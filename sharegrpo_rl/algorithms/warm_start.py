"""The warm start: supervised fine-tuning on the first training questions, so that RL begins where rewards are found.

Its loop is not `TrainingStep`, which SFT runs through: the loss is the plain sum over tokens at temperature 1, and its
figures are kept to the last bit, because every run starts from a warm-started model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from sharegrpo_rl.config import SFTOptions
from sharegrpo_rl.data.bank_check import question_location
from sharegrpo_rl.data.types import Completion, Prompt, PromptPack, QuestionBank, SeedQuestion
from sharegrpo_rl.data.variants import derive_seed
from sharegrpo_rl.envs.bank_view import BankView
from sharegrpo_rl.envs.registry import make_env, make_warm_start_bank
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.evaluation.evaluate import evaluate, greedy_generate
from sharegrpo_rl.evaluation.prompt_check import PromptCheck
from sharegrpo_rl.evaluation.report import EvaluationReport
from sharegrpo_rl.generation.hf import HFGenerator
from sharegrpo_rl.grader import ANSWER_FORMATS, question_key
from sharegrpo_rl.models.policy import Policy
from sharegrpo_rl.models.prompts import Question
from sharegrpo_rl.ops.schedules import lr_multiplier
from sharegrpo_rl.rewards.rubric import grade_completion
from sharegrpo_rl.rollouts.groups import fitting_questions, keep_fitting
from sharegrpo_rl.training.batching import micro_batches
from sharegrpo_rl.training.optimizer import build_optimizer

THOUGHT = "I look at the picture."
REPORT_QUESTIONS = 500
DEFAULTS = {
    "data": "train",
    "rows": 4000,
    "steps": 500,
    "batch_size": 32,
    "wordings": "first",
    "lr": 2e-3,
    "template": None,
    "noise_words": 0,
}


def warm_start(policy: Policy, config: AlgorithmConfig) -> dict[str, Any]:
    """Train the policy on `warm_start.rows` questions; returns how it does on test questions afterwards."""
    options = {**DEFAULTS, **config.warm_start}
    if options["data"] == "train":
        bank = make_warm_start_bank(config.env, config.env_config, options["rows"])
    else:
        env_config = {**config.env_config, "data": options["data"], "max_questions": options["rows"]}
        env = make_env(config.env, env_config, answer_format=config.answer_format, check=False)
        env.check_rows(PromptCheck(env, policy.encoder))
        bank = env.bank
    bank = BankView(bank, fitting_questions(bank, policy.encoder))
    check_targets(bank, config)
    batches = _TargetBatches(policy, bank, config, options)
    started = time.monotonic()
    settings = SupervisedSettings(steps=options["steps"], batch_size=options["batch_size"], lr=options["lr"])
    losses = run_sft(policy, batches.batch, settings)
    taught = taught_accuracy(policy, config)
    return {
        "rows": len(bank),
        "steps": options["steps"],
        "seconds": time.monotonic() - started,
        "loss": float(np.mean(losses[-20:])),
        "accuracy_taught_wording": taught.accuracy,
        "format_rate_taught_wording": taught.format_rate,
        "questions": taught.questions,
    }


def taught_accuracy(policy: Policy, config: AlgorithmConfig) -> EvaluationReport:
    """Greedy accuracy on test questions in the wording that the warm start taught: each question's original one."""
    env = make_env(
        config.env,
        config.env_config,
        split="test",
        rewards=config.rewards,
        answer_format=config.answer_format,
        check=False,
    )
    keep_fitting(env, policy.encoder, REPORT_QUESTIONS)
    env.bank = BankView(env.bank, range(len(env.bank)), lambda question: replace(question, variants=()))
    generate = greedy_generate(policy.encoder, HFGenerator(policy), config.max_completion_tokens)
    return evaluate(env, generate, limit=REPORT_QUESTIONS, batch=config.evaluation_batch)


def target_text(question: SeedQuestion, config: AlgorithmConfig) -> str:
    """What supervised training teaches: the row's solution where it has one, else a fixed thought and its key steps."""
    thought = getattr(config, "thought", None) or (config.warm_start or {}).get("template") or THOUGHT
    steps = () if question.solution else tuple(phrasings[0] for phrasings in question.key_steps)
    return ANSWER_FORMATS[config.answer_format].render(question.solution or thought, question.answer, steps)


def check_targets(bank: QuestionBank, config: AlgorithmConfig) -> None:
    """UserError for the first question whose target would not earn its own reward: it would teach another format, or
    another answer."""
    form = ANSWER_FORMATS[config.answer_format]
    right: set[tuple[str, str, tuple[str, ...]]] = set()
    for index in range(len(bank)):
        question = bank[index]
        target = target_text(question, config)
        key = (target, question.answer, question.choices)
        if key in right:
            continue
        if form.matches(target) and grade_completion(target, question_key(question), form).score >= 1:
            right.add(key)
            continue
        raise UserError(
            f"{question_location(bank, index)}, id {question.id}: the target that supervised training would teach earns "
            f"nothing in the format {form.name}: {target[:160]!r}; correct the row's solution and answer, or leave it out"
        )


def target_pack(policy: Policy, row: int, prompt: Prompt, target: str) -> PromptPack:
    """One row as a pack of one completion: the target's tokens and the end token.

    A tag that the prompt has already opened is not taught again; a thought is taught in the model's own marks.
    """
    if opening := policy.encoder.opening:
        target = target.removeprefix(opening.strip())
    said = policy.encoder.in_own_marks(target)
    ids = [*policy.encoder.tokenizer(said, add_special_tokens=False)["input_ids"], policy.end_ids[0]]
    tokens = np.asarray(ids, np.int64)
    completion = Completion(tokens, np.zeros(len(tokens), np.float32), target)
    return PromptPack(row, 0, prompt, (completion,), np.ones(1), np.ones(1, bool), sampled=False)


@dataclass(frozen=True)
class SupervisedSettings:
    """`steps` optimizer steps of `batch_size` rows, with linear warm-up and linear decay to 0."""

    steps: int = 500
    batch_size: int = 32
    lr: float = 2e-3
    warmup_steps: int = 50
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    max_tokens_per_microbatch: int = 16384


def run_sft(policy: Policy, batch: Callable[[int], Sequence[PromptPack]], settings: SupervisedSettings) -> list[float]:
    """Minimise the mean negative log-likelihood of the target tokens; `batch(step)` returns a step's rows. Returns losses."""
    optimizer = build_optimizer(policy.model, SFTOptions(lr=settings.lr, weight_decay=settings.weight_decay))
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    policy.model.train()
    losses = []
    for step in range(settings.steps):
        factor = lr_multiplier(step, "linear", min(settings.warmup_steps, settings.steps // 2), settings.steps)
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        packs = batch(step)
        tokens = sum(len(c.token_ids) for p in packs for c in p.completions)
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for micro in micro_batches(packs, settings.max_tokens_per_microbatch, not policy.shares_prefix):
            loss = -policy.target_logprobs(micro).sum() / tokens
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(parameters, settings.grad_clip)
        optimizer.step()
        losses.append(total)
    return losses


class _TargetBatches:
    """Batches of (prompt, target); each epoch is a seeded shuffle of the rows."""

    def __init__(self, policy: Policy, bank: QuestionBank, config: AlgorithmConfig, options: dict[str, Any]) -> None:
        self.policy, self.bank, self.config, self.options = policy, bank, config, options
        self.seed = config.seed or 0

    def batch(self, step: int) -> list[PromptPack]:
        """The packs of an optimizer step."""
        size = self.options["batch_size"]
        positions = range(step * size, (step + 1) * size)
        rows = [self._row(position) for position in positions]
        questions = [self.bank[index] for index, _ in rows]
        shown = zip(questions, rows, positions, strict=True)
        prompts = self.policy.encoder.encode([self._shown(q, wording, at) for q, (_, wording), at in shown])
        return [
            target_pack(self.policy, row, prompt, target_text(question, self.config))
            for row, (question, prompt) in enumerate(zip(questions, prompts, strict=True))
        ]

    def _row(self, position: int) -> tuple[int, int]:
        """(index of the question, wording) at a position of the endless walk over the rows."""
        epoch, offset = divmod(position, len(self.bank))
        order = np.random.default_rng(derive_seed("warm start", self.seed, epoch)).permutation(len(self.bank))
        index = int(order[offset])
        count = len(self.bank[index].wordings) if self.options["wordings"] == "all" else 1
        return index, derive_seed("warm start wording", self.seed, position) % count

    def _shown(self, question: SeedQuestion, wording: int, position: int) -> Question:
        images = tuple(np.array(source.open(), dtype=np.uint8) for source in question.images)
        text = question.wordings[wording]
        if position % 2:
            seed = derive_seed("warm start noise", self.seed, position)
            text = insert_noise_words(text, self.options["noise_words"], seed)
        return Question(text, images, tuple(s.fingerprint() for s in question.images))


def insert_noise_words(text: str, limit: int, seed: int) -> str:
    """The text with 0 to `limit` made-up words at random places.

    A model that has seen only one wording loses the answer format at unknown words or other lengths; this prevents that.
    """
    if limit == 0:
        return text
    rng = np.random.default_rng(seed)
    words = text.split(" ")
    for _ in range(rng.integers(0, limit + 1)):
        letters = rng.integers(ord("a"), ord("z") + 1, size=rng.integers(2, 8))
        words.insert(rng.integers(0, len(words) + 1), "".join(map(chr, letters)))
    return " ".join(words)
