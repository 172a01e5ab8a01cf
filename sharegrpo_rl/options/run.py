"""What every algorithm can be told."""

from __future__ import annotations

from dataclasses import dataclass

from sharegrpo_rl.options.option import option


@dataclass
class RunOptions:
    """Options that every algorithm has: model, prompt, data, optimizer, evaluation, resources."""

    # model
    model: str = option("tiny", "`tiny` (built from config), a local folder, or a hub name")
    model_config: dict = option({}, "sizes of the tiny model: hidden_size, num_layers, vision_layers, patch_size, ...")
    dtype: str = option(
        "float32",
        "type that the model computes in; the optimizer keeps bfloat16 weights in float32 too",
        choices=("float32", "bfloat16"),
    )
    freeze_vision_tower: bool = option(False, "keep the vision tower's weights fixed")
    freeze_projector: bool = option(False, "keep the projector (vision to language) fixed")
    lora: dict | None = option(None, "LoRA through peft: rank, alpha, dropout, targets (language, vision, projector)")
    warm_start: dict | None = option(
        None,
        "supervised warm start before training: data (train, or a path), rows, steps, wordings (first, all), lr, template",
    )
    # prompt
    system_prompt: str = option("", "system message; empty = none")
    format_prompt: str | None = option(None, "text after the question; null = the answer format's own")
    answer_format: str = option("think_answer", "form of a completion", choices=("think_answer", "boxed", "steps"))
    max_prompt_tokens: int = option(1024, "longer questions are left out before training", unit="tokens", minimum=1)
    max_completion_tokens: int = option(512, "longest completion", unit="tokens", minimum=1)
    min_pixels: int = option(3136, "images are enlarged to at least this area", unit="pixels", minimum=1)
    max_pixels: int = option(1_003_520, "images are shrunk to at most this area", unit="pixels", minimum=1)
    # questions
    num_questions: int = option(16, "seed questions an iteration", minimum=1)
    wording: str = option(
        "random",
        "wordings that training draws from: `random` from the bank, or only the `original`",
        choices=("random", "original"),
    )
    transform_probability: float = option(0.0, "chance of an image transform, for each slot", minimum=0, maximum=1)
    transforms: list | None = option(None, "names of allowed image transforms; null = the task's own list")
    transform_text_position: str = option(
        "before", "where the sentence about the transform stands", choices=("before", "after")
    )
    # reward
    rewards: dict = option(
        {"accuracy": 0.9, "format": 0.1}, "weight of each registered reward", source="R1-ShareVL 4.1"
    )
    # optimization
    lr: float = option(1e-6, "learning rate", minimum=0, exclusive_minimum=True)
    vision_lr: float | None = option(None, "learning rate of vision tower and projector; null = lr", minimum=0)
    lr_schedule: str = option("constant", "course of the learning rate", choices=("constant", "linear", "cosine"))
    lr_warmup_steps: int = option(0, "linear warm-up", unit="optimizer steps", minimum=0)
    total_steps: int | None = option(None, "planned optimizer steps; null = from stop.training_iteration", minimum=1)
    weight_decay: float = option(0.0, "AdamW weight decay", minimum=0)
    adam_betas: list = option([0.9, 0.999], "AdamW betas")
    grad_clip: float = option(1.0, "largest norm of the gradient; 0 = off", minimum=0)
    minibatch_size: int | None = option(
        None, "seed questions for each optimizer step; null = all of the iteration", minimum=1
    )
    num_epochs: int = option(1, "passes over an iteration's completions", minimum=1)
    token_budget: int = option(16384, "tokens of a micro-batch", unit="tokens", minimum=1)
    gradient_checkpointing: bool = option(False, "recompute activations in the backward pass")
    checkpoint_keep: str = option(
        "nothing",
        "what gradient checkpointing keeps of a layer besides its input: nothing, or the results of matrix products and "
        "attention (faster, more memory)",
        choices=("nothing", "products"),
    )
    compile: bool = option(False, "compile norms and MLPs with torch.compile: about a minute once, then faster steps")
    preset: str | None = option(None, "a named table of settings, applied before this file's own keys")
    # evaluation, checkpoints
    evaluation_interval: int = option(0, "iterations between evaluations; 0 = only before and after", minimum=0)
    evaluation_questions: int = option(500, "first questions of the test split that are evaluated", minimum=1)
    evaluation_batch: int = option(128, "questions generated at once in evaluation", minimum=1)
    checkpoint_interval: int = option(1, "iterations between checkpoints; 0 = only at the end", minimum=0)
    keep_checkpoints: int = option(2, "last checkpoints kept beside the best one", minimum=1)
    best_metric: str | None = option(
        None,
        "figure that the best checkpoint is known by, a path into result.json; null = evaluation/accuracy, or the "
        "smoothed accuracy in training where the run is not evaluated",
    )
    best_mode: str = option("max", "which direction of best_metric is better", choices=("max", "min"))
    user_callbacks: list = option([], "RLlib callbacks by the names that an `--import` file registered")
    # resources
    num_env_runners: int = option(0, "remote env runners; 0 = in the driver", minimum=0)
    num_learners: int = option(0, "remote learners, in Ray Train workers; 0 = in the driver", minimum=0)
    sharding: str = option(
        "ddp",
        "what remote learners hold: each the whole model (ddp), or a part of weights, gradients and optimizer (fsdp2)",
        choices=("ddp", "fsdp2"),
    )
    cpu_offload: bool = option(False, "with fsdp2: weights and optimizer lie in host memory while they are not used")
    num_gpus_per_learner: float = option(
        0.0, "GPUs of each learner, of the driver's where num_learners is 0", minimum=0, maximum=1
    )
    num_gpus_per_env_runner: float = option(
        0.0, "GPUs of each env runner, of the driver's where num_env_runners is 0", minimum=0
    )
    learner_timeout_s: float = option(
        1800.0,
        "longest wait for remote learners: to load the model, for an update, for a checkpoint",
        unit="seconds",
        minimum=0,
        exclusive_minimum=True,
    )
    learner_restarts: int = option(3, "times that lost remote learners are started again", minimum=0)
    commit_interval: int = option(
        1, "iterations between commits of the remote learners' state, to which a restart goes back", minimum=1
    )
    commit_folder: str | None = option(
        None, "where they commit, on a disk that every node sees; null = a temporary folder, for one node"
    )
    num_threads: int = option(
        1, "torch threads of each process; runs repeat exactly only with the same number", minimum=1
    )
    env_config: dict = option({}, "settings of the environment: data, kinds, max_questions, subset_seed, ...")
