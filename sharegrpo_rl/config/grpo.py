"""Options of GRPO beyond those of every run: sampling, selection and loss."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, Self

from pydantic import ValidationInfo, field_validator

from sharegrpo_rl.config.option import option
from sharegrpo_rl.config.registry import LOSSES, SELECTIONS
from sharegrpo_rl.config.run import RunOptions, VLLMOptions, Work
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.ops.schedules import kl_weight

KLSchedule = Literal["constant", "v_shape", "linear_increase"]


class GRPOOptions(RunOptions):
    """Options of GRPO; the methods of its family subclass this and add options or change defaults."""

    # sampling
    num_variants: int = option(1, "variants of each question in a group (V, the paper's m)", ge=1, le=64)
    num_generations: int = option(8, "completions sampled for each variant (n)", ge=1)
    include_original: Literal["always", "sampled"] = option(
        "always", "whether the original wording is always in the group, or drawn like the others"
    )
    strict_variants: bool = option(
        False, "stop with an error, instead of reusing wordings, where a question has fewer than num_variants"
    )
    temperature: float = option(1.0, "softmax temperature, in sampler and trainer", gt=0)
    top_p: float = option(1.0, "nucleus sampling; below 1 the trainer's policy differs from the sampler's", gt=0, le=1)
    engine: Literal["hf", "vllm"] = option(
        "hf", "what generates: hf is the training model itself, vllm an engine beside it"
    )
    vllm: VLLMOptions = option(
        VLLMOptions(), "settings of the engine vllm: tensor_parallel_size, gpu_memory_utilization, kv_cache_gb, ..."
    )
    weight_sync_timeout_s: float = option(
        600.0, "longest wait for runners and engines to take new weights", unit="seconds", gt=0
    )
    rollout_timeout_s: float = option(
        3600.0,
        "longest wait for an env runner to return its share of a generation batch; after that it is restarted and its "
        "questions are asked again",
        unit="seconds",
        gt=0,
    )
    max_staleness: int = option(
        0,
        "1 = one step off-policy: the next iteration is sampled while this one is learned, by weights without its update; "
        "the rollout correction is on",
        ge=0,
        le=1,
    )
    shuffle_rewards: bool = option(False, "control experiment: shuffle rewards within each group")
    overlong_buffer: int = option(
        0, "a penalty grows over this many tokens before the limit; 0 = none", unit="tokens", ge=0, source="DAPO eq. 13"
    )
    overlong_weight: float = option(1.0, "that penalty at the limit", ge=0, source="DAPO eq. 13")
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
        False, "stop with an error where fewer than num_questions groups are left, instead of training on those"
    )
    filter_low: float = option(0.1, "online_filter: lowest mean accuracy", ge=0, le=1, source="MM-Eureka")
    filter_high: float = option(0.9, "online_filter: highest mean accuracy", ge=0, le=1, source="MM-Eureka")
    replay_size: int = option(
        0, "completions with an advantage kept for replay; 0 = no replay", ge=0, source="VL-Rethinker"
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
    dual_clip: float | None = option(None, "bound on the ratio where the advantage is negative; null = off", gt=1)
    kl_coeff: float = option(0.0, "weight of the KL to the reference policy, where kl_schedule is constant", ge=0)
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
    kl_min: float = option(0.04, "smallest weight of a KL schedule", ge=0, source="OThink-MR1 4.1")
    kl_max: float = option(0.1, "largest weight of a KL schedule", ge=0, source="OThink-MR1 4.1")
    kl_turn: float = option(0.3, "w / t: where v_shape turns", ge=0, le=0.99, source="OThink-MR1 4.1")
    kl_schedule_steps: int | None = option(
        None, "optimizer steps of the KL schedule (t); null = the planned ones", ge=1
    )
    rollout_correction: Literal["auto", "none", "truncate", "mask"] = option(
        "auto",
        "importance weight for the gap between sampler and trainer: truncated at the cap, or masked above it; auto = "
        "truncate where top_p is below 1 or max_staleness is 1, else none",
    )
    rollout_correction_level: Literal["token", "sequence"] = option("token", "level of that importance weight")
    rollout_correction_cap: float = option(2.0, "cap on that importance weight", ge=1)
    scale_rewards: Literal["std", "population_std", "none"] = option(
        "std", "standard deviation that divides the advantages: of a sample, of a population, or none"
    )
    advantage_eps: float = option(0.0, "added to that standard deviation", ge=0)
    exclude_zero_advantage: bool = option(False, "leave completions with advantage 0 out of the denominator")
    mask_truncated: bool = option(False, "do not train on truncated completions")

    @field_validator("loss", "selection")
    @classmethod
    def _check_registered(cls, name: str, info: ValidationInfo) -> str:
        (LOSSES if info.field_name == "loss" else SELECTIONS).check(name)
        return name

    @property
    def uses_reference(self) -> bool:
        """Does a KL to the reference policy take part, at any step?"""
        return self.kl_coeff > 0 if self.kl_schedule == "constant" else max(self.kl_min, self.kl_max) > 0

    @property
    def kl_in_loss(self) -> bool:
        return self.uses_reference and not self.kl_in_reward

    @property
    def correction(self) -> str:
        """The rollout correction in effect: `auto` is on where sampler and trainer are known to differ."""
        if self.rollout_correction != "auto":
            return self.rollout_correction
        return "truncate" if self.top_p < 1 or self.max_staleness else "none"

    @property
    def level(self) -> str:
        return self.ratio_level

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
                f"num_generations: {self.num_generations} makes a group of one, whose reward is compared with nothing; "
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
