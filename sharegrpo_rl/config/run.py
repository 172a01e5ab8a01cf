"""Typed tables for the options that are tables themselves: warm start, LoRA, the tiny model, vLLM, rewards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from sharegrpo_rl.config.names import suggestion
from sharegrpo_rl.config.option import check_option, option
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.ops.schedules import kl_weight

# ---- What every algorithm can be told.


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
    lora: dict | None = option(
        None, "LoRA through peft: r, alpha, dropout, target_modules (language, vision, projector)"
    )
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
    max_tokens_per_microbatch: int = option(16384, "tokens of a micro-batch", unit="tokens", minimum=1)
    activation_checkpointing: str = option(
        "none",
        "recompute activations in the backward pass: all of them (full), or only what is cheap to recompute, keeping the "
        "results of matrix products and attention (selective: faster, more memory)",
        choices=("none", "selective", "full"),
    )
    compile: bool = option(False, "compile norms and MLPs with torch.compile: about a minute once, then faster steps")
    preset: str | None = option(None, "a named table of settings, applied before this file's own keys")
    # evaluation, checkpoints
    evaluation_interval: int = option(0, "iterations between evaluations; 0 = only before and after", minimum=0)
    evaluation_questions: int = option(500, "first questions of the test split that are evaluated", minimum=1)
    evaluation_batch: int = option(128, "questions generated at once in evaluation", minimum=1)
    checkpoint_interval: int = option(1, "iterations between checkpoints; 0 = only at the end", minimum=0)
    checkpoints_to_keep: int = option(2, "last checkpoints kept beside the best one", minimum=1)
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
    learner_commit_interval: int = option(
        1, "iterations between commits of the remote learners' state, to which a restart goes back", minimum=1
    )
    commit_folder: str | None = option(
        None, "where they commit, on a disk that every node sees; null = a temporary folder, for one node"
    )
    num_threads: int = option(
        1, "torch threads of each process; runs repeat exactly only with the same number", minimum=1
    )
    env_config: dict = option({}, "settings of the environment: data, kinds, max_questions, subset_seed, ...")


# ---- What the training step needs to know; field names are the option names.


@dataclass(frozen=True)
class TrainingSettings:
    """Optimization and loss settings; see `options.py` for meaning, units and sources."""

    lr: float = 1e-6
    vision_lr: float | None = None
    lr_schedule: str = "constant"
    lr_warmup_steps: int = 0
    total_steps: int | None = None
    weight_decay: float = 0.0
    adam_betas: tuple[float, float] = (0.9, 0.999)
    grad_clip: float = 1.0
    minibatch_size: int | None = None
    num_epochs: int = 1
    max_tokens_per_microbatch: int = 16384
    max_completion_tokens: int = 512
    ratio_level: str = "token"
    loss_aggregation: str = "token_mean"
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = None
    kl_coeff: float = 0.0
    kl_estimator: str = "k3"
    kl_in_reward: bool = False
    kl_on_shared: bool = False
    kl_schedule: str = "constant"
    kl_min: float = 0.0
    kl_max: float = 0.0
    kl_turn: float = 0.3
    kl_schedule_steps: int | None = None
    top_p: float = 1.0
    max_staleness: int = 0
    rollout_correction: str = "auto"
    rollout_correction_level: str = "token"
    rollout_correction_cap: float = 2.0
    exclude_zero_advantage: bool = False
    mask_truncated: bool = False
    objective: str = "policy"  # or `supervised`: the negative log-likelihood of the completions

    @property
    def uses_reference(self) -> bool:
        """Does a KL to the reference policy take part, at any step?"""
        return self.kl_coeff > 0 if self.kl_schedule == "constant" else max(self.kl_min, self.kl_max) > 0

    @property
    def kl_in_loss(self) -> bool:
        return self.uses_reference and not self.kl_in_reward

    @property
    def correction(self) -> str:
        """The importance correction that is meant: `auto` is on where sampler and trainer are known to differ."""
        if self.rollout_correction != "auto":
            return self.rollout_correction
        return "truncate" if self.top_p < 1 or self.max_staleness else "none"

    def kl_weight(self, step: int) -> float:
        """Weight of the KL at an optimizer step (0 = the first)."""
        if self.kl_schedule == "constant":
            return self.kl_coeff
        total = self.kl_schedule_steps or self.total_steps
        if total is None:
            raise ValueError("a KL schedule needs kl_schedule_steps or total_steps")
        return kl_weight(step, self.kl_schedule, total, self.kl_min, self.kl_max, self.kl_turn)

    @classmethod
    def pick(cls, options: Mapping[str, Any]) -> TrainingSettings:
        """The settings among a run's options."""
        chosen = {f.name: options[f.name] for f in fields(cls) if f.name in options}
        chosen["adam_betas"] = tuple(chosen.get("adam_betas", cls.adam_betas))
        return cls(**chosen)


@dataclass
class WarmStartOptions:
    """`config.warm_start`: supervised fine-tuning before RL."""

    data: str = option(
        "train", "`train` (the first rows of the run's own train split, which RL then leaves out), or a path"
    )
    rows: int = option(4000, "questions that are taught", minimum=1)
    steps: int = option(500, "optimizer steps; 0 = none", minimum=0)
    batch_size: int = option(32, "questions a step", minimum=1)
    wordings: str = option("first", "each question's own wording only, or all of them", choices=("first", "all"))
    lr: float = option(2e-3, "learning rate", minimum=0, exclusive_minimum=True)
    noise_words: int = option(
        0, "most made-up words strewn into every other question, so that unknown words do not break the form", minimum=0
    )
    template: str | None = option(None, "the thought in front of the answer; null = one fixed line")


@dataclass
class LoraOptions:
    """`config.lora`: low-rank adapters through peft."""

    r: int = option(16, "rank of the adapters", minimum=1)
    alpha: float = option(32.0, "scale: alpha / r", minimum=0, exclusive_minimum=True)
    dropout: float = option(0.0, "dropout inside the adapters", minimum=0, maximum=1)
    target_modules: list = option(["language"], "parts that get adapters: language, vision, projector")


@dataclass
class TinyModelOptions:
    """`config.model_config`: sizes of the model that `model: tiny` builds (`sharegrpo_rl.models.tiny.TinyConfig`)."""

    hidden_size: int = option(96, "width of language model and vision tower", minimum=8)
    num_layers: int = option(3, "language layers", minimum=1)
    num_heads: int = option(4, "attention heads", minimum=1)
    num_kv_heads: int = option(2, "key-value heads", minimum=1)
    vision_layers: int = option(2, "vision layers", minimum=1)
    patch_size: int = option(7, "side of an image patch", unit="pixels", minimum=1)
    vocab_size: int = option(512, "entries of the tokenizer that is trained on the data", minimum=264)
    max_positions: int = option(4096, "longest sequence", unit="tokens", minimum=64)


@dataclass
class VLLMOptions:
    """`config.vllm`: how `engine: vllm` runs (`sharegrpo_rl.generation.vllm.engine.VLLMSettings`)."""

    tensor_parallel_size: int = option(1, "GPUs that each engine is spread over", minimum=1)
    gpu_memory_utilization: float = option(
        0.5, "share of a GPU's memory that the engine may use", minimum=0, maximum=1, exclusive_minimum=True
    )
    kv_cache_gb: float | None = option(
        None,
        "size of the KV cache; null = what that share leaves on a GPU, 1 without one",
        unit="GiB",
        minimum=0,
        exclusive_minimum=True,
    )
    enforce_eager: bool | None = option(None, "no CUDA graphs and no torch.compile; null = true only without a GPU")
    lora: str = option(
        "auto",
        "how a LoRA run's engine is given new weights: the adapter alone, under a new id each time, or merged into the "
        "layers; auto = adapter where lora.target_modules is the language model only",
        choices=("auto", "adapter", "merged"),
    )
    sleep: bool = option(False, "hand the engine's GPU memory to the learner between generations")


TABLES: dict[str, type] = {
    "warm_start": WarmStartOptions,
    "lora": LoraOptions,
    "model_config": TinyModelOptions,
    "vllm": VLLMOptions,
}


def check_table(key: str, value: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A nested table with keys and types checked; only the given keys are kept. `key`: its name under `config`."""
    if value is None:
        return None
    if key == "rewards":
        return _check_rewards(value)
    known = [f.name for f in fields(TABLES[key])]
    checked = {}
    for name, inner in value.items():
        if name not in known:
            raise UserError(f"config.{key}.{name}: no such key{suggestion(name, known)} (known: {', '.join(known)})")
        try:
            checked[name] = check_option(TABLES[key], name, inner)
        except UserError as error:
            raise UserError(f"config.{key}.{error}") from None
    if key == "lora":
        _check_targets(checked.get("target_modules", []))
    if key == "model_config":
        _check_heads(checked)
    return checked


def with_defaults(key: str, value: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A checked table with the defaults of the keys that were not given; null stays null."""
    if value is None or key not in TABLES:
        return None if value is None else dict(value)
    return vars(TABLES[key]()) | dict(value)


def _check_rewards(value: Mapping[str, Any]) -> dict[str, float]:
    from sharegrpo_rl.rewards.rubric import REWARDS

    weights = {}
    for name, weight in value.items():
        if name not in REWARDS:
            raise UserError(
                f"config.rewards.{name}: no such reward{suggestion(name, REWARDS)} (registered: {', '.join(REWARDS)})"
            )
        if not isinstance(weight, int | float) or isinstance(weight, bool) or not -1e9 < weight < 1e9:
            raise UserError(f"config.rewards.{name}: expected a number, got {weight!r}")
        weights[name] = float(weight)
    if not any(weights.values()):
        raise UserError("config.rewards: no reward has a weight, so there is nothing to learn from")
    return weights


def _check_targets(targets: list[Any]) -> None:
    parts = ("language", "vision", "projector")
    for target in targets:
        if target not in parts:
            raise UserError(f"config.lora.target_modules: {target!r} is not one of {', '.join(parts)}")


def _check_heads(sizes: dict[str, Any]) -> None:
    full = vars(TinyModelOptions()) | sizes
    hidden, heads, kv_heads = full["hidden_size"], full["num_heads"], full["num_kv_heads"]
    if hidden % (2 * heads):
        raise UserError(f"config.model_config.hidden_size: {hidden} is not divisible by 2 x num_heads ({heads})")
    if heads % kv_heads:
        raise UserError(f"config.model_config.num_heads: {heads} is not divisible by num_kv_heads ({kv_heads})")
