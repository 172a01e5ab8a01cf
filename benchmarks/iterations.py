"""Whole iterations on fresh questions: pictures decoded, completions sampled, graded and learned from."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checkpoint import plain_model
from learners import GRAD_CLIP, LR, SETTINGS
from PIL import Image
from row_generation import generate_rows, repeated_rows
from rows import RowLearner, training_rows
from workload import Work, questions

from sharegrpo_rl.data.types import Completion, Prompt, PromptPack
from sharegrpo_rl.data.variants import derive_seed
from sharegrpo_rl.generation.generator import Sampling
from sharegrpo_rl.generation.hf import HFGenerator
from sharegrpo_rl.models.policy import Policy
from sharegrpo_rl.models.prompts import Question
from sharegrpo_rl.ops.advantages import local_advantages
from sharegrpo_rl.training.step import TrainingStep


@dataclass(frozen=True)
class Stored:
    """A question as a data set holds it, its picture compressed."""

    text: str
    png: bytes | None

    def question(self) -> Question:
        if self.png is None:
            return Question(self.text)
        return Question(self.text, (np.asarray(Image.open(io.BytesIO(self.png)).convert("RGB")),))


def stored_batches(policy: Policy, work: Work, batches: int) -> list[list[Stored]]:
    """The questions of each iteration; no question comes twice."""
    asked = [q for v in questions(policy, replace(work, completions=batches * work.completions)) for q in v]
    stored = [Stored(q.text, _png(q.pictures[0]) if q.pictures else None) for q in asked]
    return [stored[i : i + work.questions] for i in range(0, len(stored), work.questions)]


def reward(text: str) -> float:
    """Something that differs between random completions: the share of distinct characters."""
    return len(set(text)) / max(1, len(text))


def our_iteration(policy: Policy, work: Work) -> Callable[[Sequence[Stored]], None]:
    """Sample with our generator, grade, update with our training step."""
    generator, training, sampling = HFGenerator(policy), TrainingStep(policy, SETTINGS), Sampling(work.tokens)

    def iterate(batch: Sequence[Stored]) -> None:
        prompts = policy.encoder.encode([s.question() for s in batch])
        seeds = [derive_seed(work.seed, s.text) for s in batch]
        training.update(graded(prompts, generator.generate(prompts, work.group, seeds, sampling)))

    return iterate


def row_iteration(folder: Path, policy: Policy, work: Work) -> Callable[[Sequence[Stored]], None]:
    """The same with one row for each completion, sampled by transformers; prompts come from the same encoder."""
    model: Any = plain_model(folder)
    learner = RowLearner(model, LR, GRAD_CLIP)
    pad_id, image_id = model.config.text_config.pad_token_id, model.config.image_token_id

    def iterate(batch: Sequence[Stored]) -> None:
        prompts = policy.encoder.encode([s.question() for s in batch])
        tokens = generate_rows(model, repeated_rows(model, prompts, work.group), work.tokens).numpy()
        completions = [Completion(t, np.zeros(len(t), np.float32), policy.encoder.decode(t), True) for t in tokens]
        groups = [tuple(completions[i : i + work.group]) for i in range(0, len(completions), work.group)]
        learner.step(training_rows(graded(prompts, groups), pad_id, image_id))

    return iterate


def graded(prompts: Sequence[Prompt], groups: Sequence[tuple[Completion, ...]]) -> list[PromptPack]:
    """Packs with the group-relative advantages of the rewards, TRL's epsilon included."""
    rewards = torch.tensor([[reward(c.text) for c in group] for group in groups], dtype=torch.float64)
    advantages = local_advantages(rewards, eps=1e-4).numpy()
    return [
        PromptPack(i, 0, prompt, group, advantages[i], np.ones(len(group), bool))
        for i, (prompt, group) in enumerate(zip(prompts, groups, strict=True))
    ]


def _png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()
