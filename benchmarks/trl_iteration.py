"""The peer `trl` of whole iterations: GRPOTrainer.train() with a clock that stops after each optimizer step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import Dataset
from datasets import Image as ImageColumn
from iterations import Stored, reward
from learners import GRAD_CLIP, LR
from peak import since, start_peak
from timing import Sample, Stopwatch
from transformers import TrainerCallback
from trl_peer import trainer
from workload import Work

AfterStep = Callable[[int, Sample, float | None], None]


class _Clock(TrainerCallback):
    """From the end of one step to the end of the next: loading, sampling, grading, learning and logging."""

    def __init__(self, after_step: AfterStep, steps: int) -> None:
        self.after_step, self.steps = after_step, steps
        self.turn = 0
        self.before: float | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.watch = Stopwatch()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        sample, last = self.watch.stop(), self.turn == self.steps - 1
        self.after_step(self.turn, sample, since(self.before) if last else None)
        self.turn += 1
        if self.turn == self.steps - 1:
            self.before = start_peak()
        self.watch = Stopwatch()


def train(folder: Path, work: Work, batches: list[list[Stored]], steps: int, after_step: AfterStep) -> float:
    """Train for `steps`; returns the length of the shortest completion that was sampled."""
    stored = [s for batch in batches for s in batch]
    columns: dict[str, list[Any]] = {"prompt": [[{"role": "user", "content": s.text}] for s in stored]}
    if work.image:
        columns["image"] = [{"bytes": s.png, "path": None} for s in stored]
    data = Dataset.from_dict(columns)
    if work.image:
        data = data.cast_column("image", ImageColumn())
    made = trainer(folder, LR, GRAD_CLIP, work, data, _rewards, steps=steps)
    made.add_callback(_Clock(after_step, steps))
    made.train()
    return min(log["completions/min_length"] for log in made.state.log_history if "completions/min_length" in log)


def _rewards(completions: list[list[dict[str, str]]], **columns: Any) -> list[float]:
    return [reward(c[-1]["content"]) for c in completions]
