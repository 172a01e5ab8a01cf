"""The warm start: supervised fine-tuning on the first training questions, so that RL begins where rewards are found."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sharegrpo_rl.algorithms.greedy import greedy_generate
from sharegrpo_rl.algorithms.over_long import fitting_questions, keep_fitting
from sharegrpo_rl.data.seeding import derive_seed
from sharegrpo_rl.data.types import PromptPack, QuestionBank, SeedQuestion
from sharegrpo_rl.envs.bank_view import BankView
from sharegrpo_rl.envs.multimodal_qa import MultimodalQAEnv
from sharegrpo_rl.envs.registry import make_bank, make_env, make_warm_start_bank
from sharegrpo_rl.evaluation.evaluate import evaluate
from sharegrpo_rl.generation.hf import HFGenerator
from sharegrpo_rl.models.policy import Policy
from sharegrpo_rl.models.prompts import Question
from sharegrpo_rl.rewards.formats import ANSWER_FORMATS
from sharegrpo_rl.training.sft import SFTSettings, supervise, target_pack

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


def target_text(question: SeedQuestion, config: Any) -> str:
    """What supervised training teaches: the row's solution where it has one, else a fixed thought and its key steps."""
    thought = getattr(config, "thought", None) or (config.warm_start or {}).get("template") or THOUGHT
    steps = () if question.solution else tuple(phrasings[0] for phrasings in question.key_steps)
    return ANSWER_FORMATS[config.answer_format].render(question.solution or thought, question.answer, steps)


def warm_start(policy: Policy, config: Any) -> dict[str, Any]:
    """Teach the policy on `warm_start.rows` questions; returns what it can do afterwards, on test questions."""
    options = {**DEFAULTS, **config.warm_start}
    if options["data"] == "train":
        bank = make_warm_start_bank(config.env, config.env_config, options["rows"])
    else:
        bank = make_bank(
            config.env, {**config.env_config, "data": options["data"], "max_questions": options["rows"]}, "train"
        )
    bank = BankView(bank, fitting_questions(bank, policy.encoder))
    teacher = _Teacher(policy, bank, config, options)
    started = time.monotonic()
    settings = SFTSettings(steps=options["steps"], batch_size=options["batch_size"], lr=options["lr"])
    losses = supervise(policy, teacher.batch, settings)
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


def taught_accuracy(policy: Policy, config: Any) -> Any:
    """Greedy accuracy on test questions in the wording that the warm start taught: each question's own."""
    env = make_env(
        config.env,
        config.env_config,
        split="test",
        rewards=config.rewards,
        answer_format=config.answer_format,
        check=False,
    )
    keep_fitting(env, policy.encoder, REPORT_QUESTIONS)
    generate = greedy_generate(policy.encoder, HFGenerator(policy), config.max_completion_tokens)
    return evaluate(_own_wording(env), generate, limit=REPORT_QUESTIONS, batch=config.evaluation_batch)


def _own_wording(env: MultimodalQAEnv) -> MultimodalQAEnv:
    """The environment with every question in its own wording only."""
    env.bank = BankView(env.bank, range(len(env.bank)), lambda question: replace(question, variants=()))
    return env


class _Teacher:
    """Hands out batches of (prompt, target); each epoch is a seeded shuffle of the rows."""

    def __init__(self, policy: Policy, bank: QuestionBank, config: Any, options: dict[str, Any]) -> None:
        self.policy, self.bank, self.config, self.options = policy, bank, config, options
        self.seed = config.seed or 0

    def batch(self, step: int) -> Sequence[PromptPack]:
        size = self.options["batch_size"]
        rows = [self._row(step * size + i) for i in range(size)]
        questions = [self.bank[i] for i, _ in rows]
        prompts = self.policy.encoder.encode(
            [
                self._shown(q, wording, step * size + i)
                for i, (q, (_, wording)) in enumerate(zip(questions, rows, strict=True))
            ]
        )
        return [
            target_pack(self.policy, row, prompt, target_text(question, self.config))
            for row, (question, prompt) in enumerate(zip(questions, prompts, strict=True))
        ]

    def _row(self, position: int) -> tuple[int, int]:
        """(row, wording) at a position of the endless walk over the rows."""
        epoch, place = divmod(position, len(self.bank))
        order = np.random.default_rng(derive_seed("warm start", self.seed, epoch)).permutation(len(self.bank))
        index = int(order[place])
        count = len(self.bank[index].wordings) if self.options["wordings"] == "all" else 1
        return index, derive_seed("warm start wording", self.seed, position) % count

    def _shown(self, question: SeedQuestion, wording: int, position: int) -> Question:
        pictures = tuple(np.array(source.open(), dtype=np.uint8) for source in question.images)
        text = question.wordings[wording]
        if position % 2:
            text = strew(text, self.options["noise_words"], derive_seed("warm start noise", self.seed, position))
        return Question(text, pictures, tuple(s.fingerprint() for s in question.images))


def strew(text: str, most: int, seed: int) -> str:
    """The text with 0 to `most` made-up words at random places.

    A model that has seen one wording only loses the answer's form over unknown words or other lengths; this keeps it.
    """
    if most == 0:
        return text
    rng = np.random.default_rng(seed)
    words = text.split(" ")
    for _ in range(rng.integers(0, most + 1)):
        letters = rng.integers(ord("a"), ord("z") + 1, size=rng.integers(2, 8))
        words.insert(rng.integers(0, len(words) + 1), "".join(map(chr, letters)))
    return " ".join(words)
