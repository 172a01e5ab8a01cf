"""The options of every run and of GRPO, and the tables among them: warm start, LoRA, the tiny model, vLLM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, Literal, Self

from pydantic import ValidationInfo, field_validator, model_validator

from sharegrpo_rl.config.option import Options, option
from sharegrpo_rl.config.registry import CALLBACKS, LOSSES, REWARDS, SELECTIONS
from sharegrpo_rl.data.transforms import TransformName
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.ops.schedules import kl_weight

AnswerFormat = Literal["think_answer", "boxed", "steps"]
KLSchedule = Literal["constant", "v_shape", "linear_increase"]
LossAggregation = Literal["token_mean", "sequence_mean", "question_mean", "max_length"]


class WarmStartOptions(Options):
    """`config.warm_start`: supervised fine-tuning before RL."""

    data: str = option(
        "train", "`train` (the first rows of the run's own training split, which RL then leaves out), or a path"
    )
    rows: int = option(4000, "questions to teach", ge=1)
    steps: int = option(500, "optimizer steps; 0 = none", ge=0)
    batch_size: int = option(32, "questions per step", ge=1)
    wordings: Literal["first", "all"] = option("first", "each question's own wording only, or all of them")
    lr: float = option(2e-3, "learning rate", gt=0)
    noise_words: int = option(
        0, "up to this many made-up words in every other question, so that unknown words do not break the format", ge=0
    )
    template: str | None = option(None, "the thought before the answer; null = one fixed line")

    @property
    def rows_from_train(self) -> int:
        """Training questions that the warm start uses up."""
        return self.rows if self.data == "train" and self.steps > 0 else 0


class LoraOptions(Options):
    """`config.lora`: low-rank adapters through peft."""

    r: int = option(16, "rank of the adapters", ge=1)
    alpha: float = option(32.0, "scale: alpha / r", gt=0)
    dropout: float = option(0.0, "dropout inside the adapters", ge=0, le=1)
    target_modules: list[Literal["language", "vision", "projector"]] = option(
        ["language"], "parts that get adapters: language, vision, projector"
    )


class TinyModelOptions(Options):
    """`config.model_config`: sizes of the model that `model: tiny` builds."""

    hidden_size: int = option(96, "width of language model and vision tower", ge=8)
    num_layers: int = option(3, "language layers", ge=1)
    num_heads: int = option(4, "attention heads", ge=1)
    num_kv_heads: int = option(2, "key-value heads", ge=1)
    vision_layers: int = option(2, "vision layers", ge=1)
    patch_size: int = option(7, "side of an image patch", unit="pixels", ge=1)
    vocab_size: int = option(512, "entries of the tokenizer, which is trained on the data", ge=264)
    max_positions: int = option(4096, "longest sequence", unit="tokens", ge=64)

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        if self.hidden_size % (2 * self.num_heads):
            raise UserError(
                f"model_config.hidden_size: {self.hidden_size} is not divisible by 2 x num_heads ({self.num_heads})"
            )
        if self.num_heads % self.num_kv_heads:
            raise UserError(
                f"model_config.num_heads: {self.num_heads} is not divisible by num_kv_heads ({self.num_kv_heads})"
            )
        return self


class VLLMOptions(Options):
    """`config.vllm`: how `engine: vllm` runs."""

    tensor_parallel_size: int = option(1, "GPUs per engine", ge=1)
    gpu_memory_utilization: float = option(0.5, "share of a GPU's memory that the engine may use", gt=0, le=1)
    kv_cache_gb: float | None = option(
        None, "size of the KV cache; null = what gpu_memory_utilization leaves, or 1 without a GPU", unit="GiB", gt=0
    )
    start_timeout_s: float = option(3600.0, "longest wait for remote engines to start", unit="seconds", gt=0)
    enforce_eager: bool | None = option(None, "no CUDA graphs and no torch.compile; null = true only without a GPU")
    lora: Literal["auto", "adapter", "merged"] = option(
        "auto",
        "how the engine of a LoRA run gets new weights: the adapter alone, under a new id each time, or merged into the "
        "layers; auto = adapter if lora.target_modules is the language model only",
    )
    sleep: bool = option(False, "hand the engine's GPU memory to the learner between generations")


@dataclass(frozen=True)
class Work:
    """How much work a run is. If nothing is sampled, each question is one target and the counts of completions are 0.

    A group that shrinks for lack of transforms has less; selection samples more, up to max_generation_batches times.
    """

    questions_per_iteration: int
    steps_per_iteration: int
    iterations: int
    longest_sequence: int  # tokens
    packs_per_iteration: int = 0  # a prompt with the completions that are trained under it
    completions_per_iteration: int = 0
    pairs_per_iteration: int = 0  # of prompt and completion

    @property
    def completions(self) -> int:
        return self.completions_per_iteration * self.iterations

    @property
    def optimizer_steps(self) -> int:
        return self.steps_per_iteration * self.iterations

    def counts(self) -> dict[str, int]:
        """Each count by the words that `--dry-run` prints."""
        samples = self.completions_per_iteration > 0
        per_iteration = {
            "completions an iteration": self.completions_per_iteration,
            "prompt packs an iteration": self.packs_per_iteration,
            "pairs of prompt and completion an iteration": self.pairs_per_iteration,
        }
        return {
            "seed questions an iteration": self.questions_per_iteration,
            **(per_iteration if samples else {}),
            "optimizer steps an iteration": self.steps_per_iteration,
            "iterations": self.iterations,
            **({} if samples else {"taught targets": self.questions_per_iteration * self.iterations}),
            **({"completions": self.completions} if samples else {}),
            "optimizer steps": self.optimizer_steps,
            "longest sequence in tokens": self.longest_sequence,
        }


class RunOptions(Options):
    """Options that every algorithm has: model, prompt, data, optimizer, evaluation, resources."""

    # model
    model: str = option("tiny", "`tiny` (built from config), a local folder, or a hub name")
    tiny_model: TinyModelOptions = option(
        TinyModelOptions(),
        "sizes of the tiny model: hidden_size, num_layers, vision_layers, patch_size, ...",
        alias="model_config",
    )
    dtype: Literal["float32", "bfloat16"] = option(
        "float32", "type that the model computes in; the optimizer also keeps bfloat16 weights in float32"
    )
    freeze_vision_tower: bool = option(False, "keep the vision tower's weights fixed")
    freeze_projector: bool = option(False, "keep the projector (vision to language) fixed")
    lora: LoraOptions | None = option(
        None, "LoRA through peft: r, alpha, dropout, target_modules (language, vision, projector)"
    )
    warm_start: WarmStartOptions | None = option(
        None,
        "supervised warm start before training: data (train, or a path), rows, steps, wordings (first, all), lr, template",
    )
    # prompt
    system_prompt: str = option("", "system message; empty = none")
    format_prompt: str | None = option(None, "text after the question; null = the answer format's own")
    answer_format: AnswerFormat = option("think_answer", "format of a completion")
    chat_template_kwargs: dict[str, bool | int | float | str] = option(
        {}, "variables for the model's chat template, such as {enable_thinking: false}"
    )
    escape_special_tokens: bool = option(
        False,
        "write the model's special tokens in questions so that they are read as plain text, instead of refusing the rows",
    )
    max_prompt_tokens: int = option(1024, "longer questions are left out before training", unit="tokens", ge=1)
    max_completion_tokens: int = option(512, "longest completion", unit="tokens", ge=1)
    min_pixels: int | None = option(None, "smaller images are enlarged to this area; null = the checkpoint's own", ge=1)
    max_pixels: int | None = option(None, "larger images are shrunk to this area; null = the checkpoint's own", ge=1)
    # questions
    num_questions: int = option(16, "seed questions per iteration", ge=1)
    wording: Literal["random", "original"] = option(
        "random", "wordings to train on: `random` from the bank, or only the `original`"
    )
    transform_probability: float = option(0.0, "chance of an image transform in each slot", ge=0, le=1)
    transforms: list[TransformName] | None = option(
        None, "names of allowed image transforms; null = the task's own list"
    )
    transform_text_position: Literal["before", "after"] = option(
        "before", "the sentence about the transform comes before or after the question"
    )
    # reward
    rewards: dict[str, float] = option(
        {"accuracy": 0.9, "format": 0.1}, "weight of each registered reward", source="R1-ShareVL's code"
    )
    # optimization
    lr: float = option(1e-6, "learning rate", gt=0)
    vision_lr: float | None = option(None, "learning rate of vision tower and projector; null = lr", ge=0)
    lr_schedule: Literal["constant", "linear", "cosine"] = option("constant", "learning rate schedule")
    lr_warmup_steps: int = option(0, "linear warm-up", unit="optimizer steps", ge=0)
    lr_warmup_ratio: float = option(0.0, "linear warm-up as a share of total_steps, for lr_warmup_steps 0", ge=0, le=1)
    lr_min_ratio: float = option(0.0, "where lr_schedule linear or cosine ends, as a share of lr", ge=0, le=1)
    total_steps: int | None = option(None, "planned optimizer steps; null = from stop.training_iteration", ge=1)
    weight_decay: float = option(0.0, "AdamW weight decay", ge=0)
    adam_betas: list[float] = option([0.9, 0.999], "AdamW betas")
    grad_clip: float = option(1.0, "maximum gradient norm; 0 = off", ge=0)
    minibatch_size: int | None = option(None, "seed questions per optimizer step; null = all of the iteration", ge=1)
    num_epochs: int = option(1, "passes over an iteration's completions", ge=1)
    max_tokens_per_microbatch: int = option(16384, "tokens of a micro-batch", unit="tokens", ge=1)
    activation_checkpointing: Literal["none", "selective", "full"] = option(
        "none",
        "recompute activations in the backward pass: all of them (full), or only what is cheap to recompute, keeping the "
        "results of matrix products and attention (selective: faster, more memory)",
    )
    compile: bool = option(False, "compile norms and MLPs with torch.compile: about a minute once, then faster steps")
    loss: str = option("likelihood", "loss of a token: the negative log-likelihood, or a registered one")
    loss_aggregation: LossAggregation = option(
        "token_mean",
        "how token losses become one number: token_mean (TRL dapo, verl token-mean), sequence_mean (TRL grpo, verl "
        "seq-mean-token-mean), question_mean (verl seq-mean-token-sum), max_length (TRL dr_grpo, verl seq-mean-token-sum-norm)",
    )
    preset: str | None = option(None, "a named table of settings, applied before this file's own keys")
    # evaluation, checkpoints
    evaluation_interval: int = option(0, "iterations between evaluations; 0 = only before and after", ge=0)
    evaluation_questions: int = option(500, "how many questions of the test split to evaluate on, from the first", ge=1)
    evaluation_batch: int = option(128, "questions generated at once in evaluation", ge=1)
    checkpoint_interval: int = option(1, "iterations between checkpoints; 0 = only at the end", ge=0)
    checkpoints_to_keep: int = option(2, "most recent checkpoints to keep, besides the best one", ge=1)
    best_metric: str | None = option(
        None,
        "metric that ranks checkpoints, a path into result.json; null = evaluation/accuracy, or the smoothed training "
        "accuracy if the run is not evaluated",
    )
    best_mode: Literal["max", "min"] = option("max", "whether a higher or lower best_metric is better")
    user_callbacks: list[str] = option([], "RLlib callbacks, by the names that an `--import` file registered")
    # resources
    num_env_runners: int = option(0, "remote env runners; 0 = in the driver", ge=0)
    num_learners: int = option(0, "remote learners, in Ray Train workers; 0 = in the driver", ge=0)
    sharding: Literal["ddp", "fsdp2"] = option(
        "ddp",
        "what each remote learner holds: the whole model (ddp), or a shard of weights, gradients and optimizer (fsdp2)",
    )
    fsdp_size: int | None = option(None, "with fsdp2: learners to a copy of the model (HSDP); null = all", ge=2)
    cpu_offload: bool = option(False, "with fsdp2: keep weights and optimizer in host memory while they are not in use")
    num_gpus_per_learner: float = option(
        0.0, "GPUs per learner; of the driver's learner if num_learners is 0", ge=0, le=1
    )
    num_gpus_per_env_runner: float = option(
        0.0, "GPUs per env runner; of the driver's env runner where num_env_runners is 0", ge=0
    )
    learner_timeout_s: float = option(1800.0, "longest silence of remote learners, at any work", unit="seconds", gt=0)
    learner_restarts: int = option(3, "how often lost remote learners are restarted", ge=0)
    learner_commit_interval: int = option(
        1, "iterations between commits of the remote learners' state, to which a restart returns", ge=1
    )
    commit_folder: str | None = option(
        None, "where they commit, on a disk that every node sees; null = the run's folder (in Python: a temporary one)"
    )
    num_threads: int = option(1, "torch threads per process; runs repeat exactly only with the same number", ge=1)
    env_config: dict[str, Any] = option({}, "settings of the environment: data, kinds, max_questions, subset_seed, ...")

    @field_validator("rewards")
    @classmethod
    def _check_rewards(cls, weights: Mapping[str, float]) -> Mapping[str, float]:
        for name in weights:
            REWARDS.check(name, f"rewards.{name}")
        if not any(weights.values()):
            raise UserError("rewards: no reward has a weight, so there is nothing to learn from")
        return weights

    @field_validator("user_callbacks")
    @classmethod
    def _check_callbacks(cls, names: list[str]) -> list[str]:
        for name in names:
            CALLBACKS.check(name)
        return names

    def check_together(self, algorithm: str) -> None:
        """UserError, beginning with the key, where two options contradict each other."""
        if self.minibatch_size is not None and self.minibatch_size > self.num_questions:
            raise UserError(
                f"minibatch_size: {self.minibatch_size} is more than num_questions ({self.num_questions}); "
                "both count seed questions"
            )
        if self.total_steps is None and (self.lr_schedule != "constant" or self.lr_warmup_ratio > 0):
            raise UserError(
                "total_steps: the learning rate's schedule needs the planned number of optimizer steps; set it (run files "
                "know it from stop.training_iteration)"
            )
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise UserError(f"min_pixels: {self.min_pixels} is above max_pixels ({self.max_pixels})")
        if self.lora is not None:
            for frozen, part in (("freeze_vision_tower", "vision"), ("freeze_projector", "projector")):
                if getattr(self, frozen) and part in self.lora.target_modules:
                    raise UserError(
                        f"{frozen}: true contradicts lora.target_modules, which names {part}: its adapters would train; take "
                        "it out of one of the two"
                    )

    @property
    def optimizer_steps_per_iteration(self) -> int:
        """Minibatches times epochs."""
        return self.num_epochs * ceil(self.num_questions / (self.minibatch_size or self.num_questions))

    # What the training step asks any method; GRPO's options answer it from theirs.

    @property
    def uses_reference(self) -> bool:
        """Is there a KL to the reference policy, at any step?"""
        return False

    @property
    def kl_in_loss(self) -> bool:
        """Is that KL a term of the loss?"""
        return False

    @property
    def correction(self) -> str:
        """The rollout correction in effect: none, truncate or mask."""
        return "none"

    @property
    def level(self) -> str:
        """Level of the importance ratio."""
        return "token"

    @property
    def replays(self) -> bool:
        """Are completions kept for later updates?"""
        return False

    @property
    def kl_schedule_length(self) -> int | None:
        """Optimizer steps of the KL schedule (t)."""
        return self.total_steps

    def kl_weight(self, step: int) -> float:
        """Weight of the KL at an optimizer step (0 = the first)."""
        return 0.0

    def with_kl_schedule_length(self, steps: int | None) -> Self:
        """The same options with the length that a KL schedule started with."""
        return self

    def trains_on(self, truncated: bool) -> bool:
        """Are completions of this kind (cut off at the length limit, or not) trained on?"""
        return True

    def counts(self, truncated: bool, advantage: float) -> bool:
        """Is such a completion part of the loss's denominator?"""
        return self.trains_on(truncated)

    def work(self, iterations: int) -> Work:
        """How much work a run of so many iterations is."""
        return Work(
            questions_per_iteration=self.num_questions,
            steps_per_iteration=self.optimizer_steps_per_iteration,
            iterations=iterations,
            longest_sequence=self.max_prompt_tokens + self.max_completion_tokens,
        )


class GRPOOptions(RunOptions):
    """GRPO: each completion's reward relative to those of its group, without a value network.

    The methods of its family subclass these options, add some or change defaults.
    """

    # sampling
    num_variants: int = option(1, "variants of each question in a group (V, the paper's m)", ge=1, le=64)
    num_generations: int = option(8, "completions sampled for each variant (n)", ge=1)
    include_original: Literal["always", "sampled"] = option(
        "always", "whether the original wording is always in the group, or drawn like the others"
    )
    strict_variants: bool = option(
        False, "stop with an error, instead of reusing wordings, if a question has fewer than num_variants"
    )
    temperature: float = option(1.0, "softmax temperature, in sampler and trainer", gt=0)
    logprob_temperature: float | None = option(
        None, "softmax temperature of trainer and reference, if not the sampler's; null = temperature", gt=0
    )
    top_p: float = option(1.0, "nucleus sampling; below 1 the trainer's policy differs from the sampler's", gt=0, le=1)
    engine: Literal["hf", "vllm"] = option(
        "hf", "what generates: hf is the training model itself, vllm a separate engine"
    )
    vllm: VLLMOptions = option(
        VLLMOptions(), "settings of the engine vllm: tensor_parallel_size, gpu_memory_utilization, kv_cache_gb, ..."
    )
    weight_sync_timeout_s: float = option(600.0, "longest wait for new weights to be loaded", unit="seconds", gt=0)
    rollout_timeout_s: float = option(
        3600.0,
        "longest wait for an env runner to return its share of a generation batch; after that it is restarted and its "
        "questions are asked again",
        unit="seconds",
        gt=0,
    )
    max_staleness: int = option(
        0,
        "1 = one step off-policy: the next iteration is sampled during this one's update, with the weights from before it; "
        "the rollout correction is on",
        ge=0,
        le=1,
    )
    shuffle_rewards: bool = option(False, "control experiment: shuffle rewards within each group")
    overlong_buffer: int = option(
        0,
        "a length penalty grows over this many tokens before the limit; 0 = none",
        unit="tokens",
        ge=0,
        source="DAPO eq. 13",
    )
    overlong_weight: float = option(1.0, "the length penalty at the limit", ge=0, source="DAPO eq. 13")
    # selection
    selection: str = option(
        "none",
        "groups to train on: all (none); those whose accuracies differ (dynamic_sampling, DAPO); those within a band of "
        "mean accuracy (online_filter, MM-Eureka); or a registered one",
    )
    max_generation_batches: int = option(
        10, "selection samples at most this many batches of num_questions per iteration", ge=1, source="DAPO"
    )
    selection_strict: bool = option(
        False, "stop with an error if fewer than num_questions groups are left, instead of training on those"
    )
    filter_low: float = option(0.1, "online_filter: lowest mean accuracy", ge=0, le=1, source="MM-Eureka")
    filter_high: float = option(0.9, "online_filter: highest mean accuracy", ge=0, le=1, source="MM-Eureka")
    replay_size: int = option(
        0, "completions with a nonzero advantage kept for replay; 0 = no replay", ge=0, source="VL-Rethinker"
    )
    replay_alpha: float = option(
        1.0, "replay draws with probability proportional to |A| to this power", ge=0, source="VL-Rethinker"
    )
    replay_replacement: bool = option(True, "an iteration may draw a replayed completion more than once")
    # loss
    loss: str = option("clipped", "loss of a token: the clipped surrogate, or a registered one")
    ratio_level: Literal["token", "sequence_product", "sequence"] = option(
        "token",
        "importance ratio of each token, of the whole sequence (sequence_product, S2), or its geometric mean (sequence: "
        "GSPO, TRL's importance_sampling_level)",
    )
    clip_low: float = option(0.2, "the ratio is clipped at 1 - clip_low", ge=0, le=1)
    clip_high: float = option(0.2, "the ratio is clipped at 1 + clip_high", ge=0)
    dual_clip: float | None = option(None, "upper bound on the ratio for negative advantages; null = off", gt=1)
    kl_coeff: float = option(0.0, "weight of the KL to the reference policy, with kl_schedule constant", ge=0)
    kl_estimator: Literal["k1", "k2", "k3"] = option("k3", "KL estimator")
    kl_in_reward: bool = option(
        False, "subtract the KL from the reward, before the advantages, instead of adding it to the loss"
    )
    kl_on_shared: bool = option(False, "also take the KL on shared completions (its estimator needs native samples)")
    kl_schedule: KLSchedule = option(
        "constant",
        "schedule of the KL weight over optimizer steps: v_shape as in the equation, linear_increase as in the prose",
        source="O3",
    )
    kl_min: float = option(0.04, "smallest weight of a KL schedule", ge=0, source="OThink-MR1 4")
    kl_max: float = option(0.1, "largest weight of a KL schedule", ge=0, source="OThink-MR1 4")
    kl_turn: float = option(
        0.3, "w / t: the share of the schedule at which v_shape turns", ge=0, le=0.99, source="OThink-MR1 4"
    )
    kl_schedule_steps: int | None = option(
        None, "optimizer steps of the KL schedule (t); null = the planned number", ge=1
    )
    rollout_correction: Literal["auto", "none", "truncate", "mask"] = option(
        "auto",
        "importance weight for the gap between sampler and trainer: truncated at the cap, or masked above it; auto = "
        "truncate if top_p is below 1, logprob_temperature set or max_staleness 1, else none",
    )
    rollout_correction_level: Literal["token", "sequence"] = option("token", "level of the rollout correction's weight")
    rollout_correction_cap: float = option(2.0, "cap on the rollout correction's weight", ge=1)
    scale_rewards: Literal["std", "population_std", "none"] = option(
        "std", "divide advantages by the sample standard deviation (std), the population_std, or not at all (none)"
    )
    advantage_eps: float = option(0.0, "added to the standard deviation that divides the advantages", ge=0)
    exclude_zero_advantage: bool = option(False, "leave completions with advantage 0 out of the denominator")
    mask_truncated: bool = option(False, "do not train on truncated completions")

    @field_validator("loss", "selection")
    @classmethod
    def _check_registered(cls, name: str, info: ValidationInfo) -> str:
        (LOSSES if info.field_name == "loss" else SELECTIONS).check(name)
        return name

    @property
    def uses_reference(self) -> bool:
        """Is there a KL to the reference policy, at any step?"""
        return self.kl_coeff > 0 if self.kl_schedule == "constant" else max(self.kl_min, self.kl_max) > 0

    @property
    def kl_in_loss(self) -> bool:
        return self.uses_reference and not self.kl_in_reward

    @property
    def correction(self) -> str:
        """The rollout correction in effect: `auto` is on where sampler and trainer are known to differ."""
        return correction_of(vars(self))

    @property
    def level(self) -> str:
        return self.ratio_level

    @property
    def replays(self) -> bool:
        return self.replay_size > 0

    @property
    def kl_schedule_length(self) -> int | None:
        return self.kl_schedule_steps or self.total_steps

    def with_kl_schedule_length(self, steps: int | None) -> Self:
        return self.model_copy(update={"kl_schedule_steps": steps})

    def trains_on(self, truncated: bool) -> bool:
        return not (self.mask_truncated and truncated)

    def counts(self, truncated: bool, advantage: float) -> bool:
        return self.trains_on(truncated) and not (self.exclude_zero_advantage and advantage == 0)

    def kl_weight(self, step: int) -> float:
        """Weight of the KL at an optimizer step (0 = the first)."""
        if self.kl_schedule == "constant":
            return self.kl_coeff
        total = self.kl_schedule_length
        if total is None:
            raise ValueError("a KL schedule needs kl_schedule_steps or total_steps")
        return kl_weight(step, self.kl_schedule, total, self.kl_min, self.kl_max, self.kl_turn)

    def completions_per_prompt(self) -> int:
        """Completions that are trained under each variant's prompt."""
        return self.num_generations

    def work(self, iterations: int) -> Work:
        packs = self.num_questions * self.num_variants
        return replace(
            super().work(iterations),
            packs_per_iteration=packs,
            completions_per_iteration=packs * self.num_generations,
            pairs_per_iteration=packs * self.completions_per_prompt(),
        )

    def check_together(self, algorithm: str) -> None:
        super().check_together(algorithm)
        if self.num_generations < 2:
            raise UserError(
                f"num_generations: {self.num_generations} makes a group of one, with nothing to compare its reward with; "
                f"{algorithm} needs num_generations of at least 2"
            )
        if self.engine == "vllm" and not 0.01 <= self.temperature <= 2:
            raise UserError(f"temperature: vLLM samples at 0.01 to 2, not at {self.temperature:g}")
        if self.max_staleness:
            self._check_staleness()
        if self.overlong_buffer > self.max_completion_tokens:
            raise UserError(
                f"overlong_buffer: {self.overlong_buffer} is more than max_completion_tokens "
                f"({self.max_completion_tokens}); the penalty grows within that limit"
            )
        if self.filter_low > self.filter_high:
            raise UserError(f"filter_low: {self.filter_low} is above filter_high ({self.filter_high})")
        if self.kl_schedule != "constant":
            self._check_kl_schedule()

    def _check_staleness(self) -> None:
        if self.num_env_runners == 0:
            raise UserError(
                "max_staleness: 1 samples while the learner learns, which takes separate env runners; set num_env_runners "
                "to 1 or more, or max_staleness to 0"
            )
        if self.rollout_correction == "none":
            raise UserError(
                "rollout_correction: none would ignore that max_staleness 1 samples with older weights; choose auto, "
                "truncate or mask"
            )

    def _check_kl_schedule(self) -> None:
        if self.kl_min > self.kl_max:
            raise UserError(f"kl_min: {self.kl_min} is above kl_max ({self.kl_max})")
        if self.kl_coeff > 0:
            raise UserError(
                f"kl_coeff: {self.kl_coeff} has no effect under kl_schedule {self.kl_schedule}, which uses kl_min and "
                "kl_max; set it to 0, or kl_schedule to constant"
            )
        if self.kl_schedule_steps is None and self.total_steps is None:
            raise UserError(
                "kl_schedule_steps: the KL schedule needs the planned number of optimizer steps; "
                "set it, or total_steps (run files know it from stop.training_iteration)"
            )


def correction_of(options: Mapping[str, Any]) -> str:
    """`GRPOOptions.correction`, from a method's options as a table; none where it samples nothing."""
    if (chosen := options.get("rollout_correction", "none")) != "auto":
        return str(chosen)
    other_policy = options["top_p"] < 1 or options["logprob_temperature"] not in (None, options["temperature"])
    return "truncate" if other_policy or options["max_staleness"] else "none"


TABLES: dict[str, type[Options]] = {
    "warm_start": WarmStartOptions,
    "lora": LoraOptions,
    "model_config": TinyModelOptions,
    "vllm": VLLMOptions,
}
