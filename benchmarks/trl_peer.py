"""The peer `trl`: a GRPOTrainer whose own loss, backward, clipping and optimizer run on rows that are ready."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from PIL import Image
from transformers import PrinterCallback
from trl import GRPOConfig, GRPOTrainer
from workload import Work

from sharegrpo_rl.files import cache_folder
from sharegrpo_rl.models.prompts import Question


class _ReadyRows(GRPOTrainer):
    """A trainer that takes its batches as they come, instead of sampling completions for them."""

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        return generation_batch


class TrlLearner:
    """One optimizer step of TRL's trainer, in the order of its own training loop."""

    def __init__(self, model: Any, lr: float, grad_clip: float, processor: Any = None, **arguments: Any) -> None:
        """model: a folder, or a model with its processor; arguments: more of the trainer's own."""
        one_group = Work(group=2, completions=2)  # of no consequence: the rows bring their own number
        self.trainer = trainer(
            model, lr, grad_clip, one_group, _unused_data(), _constant, _ReadyRows, processor=processor, **arguments
        )
        self.trainer.create_optimizer()
        prepare = self.trainer.accelerator.prepare
        self.model, self.trainer.optimizer = prepare(self.trainer.model, self.trainer.optimizer)
        self.trainer.current_gradient_accumulation_steps = 1

    def step(self, *micro_batches: dict[str, Any]) -> tuple[float, float]:
        """The loss and the gradient's norm before it was clipped."""
        self.model.zero_grad()
        loss = 0.0
        for rows in micro_batches:
            loss += float(self.trainer.training_step(self.model, rows, rows["num_items_in_batch"]))
        norm = self.trainer._clip_grad_norm(self.model)
        self.trainer.optimizer.step()
        return loss, float(norm)


def trainer(
    model: Any,
    lr: float,
    grad_clip: float,
    work: Work,
    data: Dataset,
    reward: Callable[..., list[float]],
    kind: type[GRPOTrainer] = GRPOTrainer,
    steps: int = 1,
    processor: Any = None,
    **more: Any,
) -> Any:
    """A trainer of a folder (on a CPU, in float32) or of a model with its processor; every completion has `work.tokens`
    tokens, all of one weight. more: arguments instead of those below."""
    loaded = isinstance(model, Path)
    given: dict[str, Any] = dict(
        output_dir=str(cache_folder("benchmarks") / "trl"),  # stays empty
        use_cpu=loaded,
        bf16=False,
        fp16=False,
        gradient_checkpointing=False,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        logging_steps=1,
        max_steps=steps,
        per_device_train_batch_size=work.questions * work.group,
        num_generations=work.group,
        max_completion_length=work.tokens,
        generation_kwargs={"min_new_tokens": work.tokens},
        loss_type="dapo",
        beta=0.0,
        learning_rate=lr,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=grad_clip,
        optim="adamw_torch_fused",
        shuffle_dataset=False,
        seed=work.seed,
        model_init_kwargs={"dtype": torch.float32} if loaded else None,
    )
    made = kind(
        model=str(model) if loaded else model,
        reward_funcs=reward,
        args=GRPOConfig(**(given | more)),
        train_dataset=data,
        processing_class=processor,
    )
    made.remove_callback(PrinterCallback)
    return made


def trl_prompts(asked: Sequence[Question], group: int) -> list[list[dict[str, Any]]]:
    """The questions as messages with their images inside, each `group` times, as its trainer lines them up."""
    messages = [
        [
            {
                "role": "user",
                "content": [
                    *({"type": "image", "image": Image.fromarray(p)} for p in q.pictures),
                    {"type": "text", "text": q.text},
                ],
            }
        ]
        for q in asked
    ]
    return [m for m in messages for _ in range(group)]


def sampling_trainer(folder: Path, work: Work) -> Any:
    """A trainer that is asked for completions only."""
    return trainer(folder, 0.0, 1.0, work, _unused_data(), _constant)


def _unused_data() -> Dataset:
    return Dataset.from_list([{"prompt": [{"role": "user", "content": "How many?"}]}])


def _constant(completions: list[Any], **columns: Any) -> list[float]:
    return [0.0] * len(completions)
