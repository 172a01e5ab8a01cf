"""What GRPO can be told beyond that: sampling, selection and loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sharegrpo_rl.config.option import option
from sharegrpo_rl.config.run import RunOptions
from sharegrpo_rl.errors import UserError

# ---- Checks of options that only make sense together.


def check_together(config: Mapping[str, Any], algorithm: str) -> None:
    """UserError, beginning with the key, where two options contradict each other. `config` holds every option."""
    per_step, questions = config["minibatch_size"], config["num_questions"]
    if per_step is not None and per_step > questions:
        raise UserError(
            f"minibatch_size: {per_step} is more than num_questions ({questions}); both count seed questions"
        )
    if "num_generations" not in config:
        return
    if config["num_generations"] < 2:
        raise UserError(
            f"num_generations: {config['num_generations']} makes a group of one, whose reward is compared with nothing; "
            f"{algorithm} needs num_generations of at least 2"
        )
    if config["engine"] == "vllm" and not 0.01 <= config["temperature"] <= 2:
        raise UserError(f"temperature: vLLM samples at 0.01 to 2, not at {config['temperature']:g}")
    if config["max_staleness"]:
        _check_lag(config)
    if config["overlong_buffer"] > config["max_completion_tokens"]:
        raise UserError(
            f"overlong_buffer: {config['overlong_buffer']} is more than max_completion_tokens "
            f"({config['max_completion_tokens']}); the penalty grows within that limit"
        )
    if config["filter_low"] > config["filter_high"]:
        raise UserError(f"filter_low: {config['filter_low']} is above filter_high ({config['filter_high']})")
    if config["kl_schedule"] != "constant":
        _check_kl_schedule(config)


def _check_lag(config: Mapping[str, Any]) -> None:
    if config["num_env_runners"] == 0:
        raise UserError(
            "max_staleness: 1 samples while the learner learns, which takes env runners of their own; set num_env_runners to "
            "1 or more, or max_staleness to 0"
        )
    if config["rollout_correction"] == "none":
        raise UserError(
            "rollout_correction: none would ignore that max_staleness 1 samples by older weights; choose auto, truncate or mask"
        )


def _check_kl_schedule(config: Mapping[str, Any]) -> None:
    if config["kl_min"] > config["kl_max"]:
        raise UserError(f"kl_min: {config['kl_min']} is above kl_max ({config['kl_max']})")
    if config["kl_coeff"] > 0:
        raise UserError(
            f"kl_coeff: {config['kl_coeff']} has no effect under kl_schedule {config['kl_schedule']}, which goes by "
            "kl_min and kl_max; set it to 0, or kl_schedule to constant"
        )
    if config["kl_schedule_steps"] is None and config["total_steps"] is None:
        raise UserError(
            "kl_schedule_steps: the KL schedule needs the planned number of optimizer steps; "
            "set it, or total_steps (run files know it from stop.training_iteration)"
        )


@dataclass
class GRPOOptions(RunOptions):
    """Options of GRPO; the methods of its family subclass this and add options or change defaults."""

    # sampling
    num_variants: int = option(1, "variants of each question in a group (V, the paper's m)", minimum=1, maximum=64)
    num_generations: int = option(8, "completions sampled for each variant (n)", minimum=1)
    include_original: str = option(
        "always", "is the original wording always in the group, or drawn like the others", choices=("always", "sampled")
    )
    strict_variants: bool = option(
        False, "error instead of reuse where a question has fewer wordings than num_variants"
    )
    temperature: float = option(1.0, "softmax temperature, in sampler and trainer", minimum=0, exclusive_minimum=True)
    top_p: float = option(
        1.0,
        "nucleus sampling; below 1 the trainer's policy differs from the sampler's",
        minimum=0,
        maximum=1,
        exclusive_minimum=True,
    )
    engine: str = option(
        "hf", "what generates: hf is the training model itself, vllm an engine beside it", choices=("hf", "vllm")
    )
    vllm: dict = option(
        {}, "settings of the engine vllm: tensor_parallel_size, gpu_memory_utilization, kv_cache_gb, ..."
    )
    weight_sync_timeout_s: float = option(
        600.0,
        "longest wait for runners and engines to take new weights",
        unit="seconds",
        minimum=0,
        exclusive_minimum=True,
    )
    rollout_timeout_s: float = option(
        3600.0,
        "longest wait for an env runner to answer its share of a generation batch; it is then started again, and its "
        "questions are asked again",
        unit="seconds",
        minimum=0,
        exclusive_minimum=True,
    )
    max_staleness: int = option(
        0,
        "1 = one step off: the next iteration's completions are sampled while this one is learned, by weights that lack "
        "its update; the importance correction is on",
        minimum=0,
        maximum=1,
    )
    shuffle_rewards: bool = option(False, "control: shuffle rewards inside each group")
    overlong_buffer: int = option(
        0, "length before the limit in which a penalty grows; 0 = none", unit="tokens", minimum=0, source="DAPO eq. 13"
    )
    overlong_weight: float = option(1.0, "size of that penalty at the limit", minimum=0, source="DAPO eq. 13")
    # selection
    selection: str = option(
        "none",
        "groups that are trained on: all; those whose accuracies differ (DAPO); those in a band of mean accuracy "
        "(MM-Eureka)",
        choices=("none", "dynamic_sampling", "online_filter"),
    )
    max_generation_batches: int = option(
        10, "selection samples at most so many batches of num_questions for one iteration", minimum=1, source="DAPO"
    )
    selection_strict: bool = option(
        False, "error where that leaves fewer than num_questions groups, instead of training on what there is"
    )
    filter_low: float = option(0.1, "online_filter: least mean accuracy", minimum=0, maximum=1, source="MM-Eureka")
    filter_high: float = option(0.9, "online_filter: largest mean accuracy", minimum=0, maximum=1, source="MM-Eureka")
    replay_size: int = option(
        0, "completions with an advantage kept for replay; 0 = no replay", minimum=0, source="VL-Rethinker"
    )
    replay_alpha: float = option(
        1.0, "replay draws with p proportional to |A| to this power", minimum=0, source="VL-Rethinker"
    )
    replay_replacement: bool = option(True, "may an iteration draw a replayed completion more than once")
    # loss
    ratio_level: str = option(
        "token", "importance ratio per token, or per sequence", choices=("token", "sequence_product", "sequence")
    )
    loss_aggregation: str = option(
        "token_mean",
        "how token losses become one number",
        choices=("token_mean", "sequence_mean", "question_mean", "max_length"),
    )
    clip_low: float = option(0.2, "ratio is clipped at 1 - clip_low", minimum=0, maximum=1)
    clip_high: float = option(0.2, "ratio is clipped at 1 + clip_high", minimum=0)
    dual_clip: float | None = option(
        None, "bound on the ratio where the advantage is negative; null = off", minimum=1, exclusive_minimum=True
    )
    kl_coeff: float = option(0.0, "weight of the KL to the reference policy, where kl_schedule is constant", minimum=0)
    kl_estimator: str = option("k3", "KL estimator", choices=("k1", "k2", "k3"))
    kl_in_reward: bool = option(
        False, "subtract the KL from the reward, before the advantages, instead of adding it to the loss"
    )
    kl_on_shared: bool = option(False, "also take the KL on shared completions (its estimator needs native samples)")
    kl_schedule: str = option(
        "constant",
        "course of the KL's weight over optimizer steps: the equation's v_shape, or linear_increase as in the prose",
        choices=("constant", "v_shape", "linear_increase"),
        source="O3",
    )
    kl_min: float = option(0.04, "least weight of a KL schedule", minimum=0, source="OThink-MR1 4.1")
    kl_max: float = option(0.1, "largest weight of a KL schedule", minimum=0, source="OThink-MR1 4.1")
    kl_turn: float = option(0.3, "w / t: where v_shape turns", minimum=0, maximum=0.99, source="OThink-MR1 4.1")
    kl_schedule_steps: int | None = option(
        None, "optimizer steps of the KL schedule (t); null = the planned ones", minimum=1
    )
    rollout_correction: str = option(
        "auto",
        "weight for the gap between sampler and trainer: bounded, or masked above the bound; auto = truncate where "
        "top_p is below 1 or max_staleness is 1, else none",
        choices=("auto", "none", "truncate", "mask"),
    )
    rollout_correction_level: str = option("token", "ratio that corrects that gap", choices=("token", "sequence"))
    rollout_correction_cap: float = option(2.0, "bound on that ratio", minimum=1)
    scale_rewards: str = option(
        "std",
        "standard deviation that divides the advantages: of a sample, of a population, or none",
        choices=("std", "population_std", "none"),
    )
    advantage_eps: float = option(0.0, "added to the spread", minimum=0)
    exclude_zero_advantage: bool = option(False, "leave completions without advantage out of the denominator")
    mask_truncated: bool = option(False, "do not train on truncated completions")
