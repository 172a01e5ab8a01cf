"""What other trainers call our options, so that a message about an unknown key can name ours."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

# ---- The figures that every iteration reports, by their path in `result.json`; docs/metrics.md says what each means.

_EVALUATION = ("accuracy", "format_rate", "truncated_rate", "mean_length")
_SAMPLING = (
    "reward_mean",
    "reward_std",
    "accuracy",
    "format",
    "completion_length_mean",
    "completion_length_max",
    "truncated_rate",
    "prompt_length_mean",
)
_GROUPS = ("valid_advantage_ratio", "valid_reward_ratio", "valid_slot_ratio", "reward_density", "solved_ratio")
_LEARNER = ("policy_loss", "kl", "entropy", "ratio_max_deviation", "grad_norm", "logprob_diff_mean", "logprob_diff_max")
_OPEN = re.compile(r"evaluation/by_(?:kind|wording)/[^/]+/accuracy")  # kinds and wordings are the data set's


def known_metrics(config: Mapping[str, object], rewards: Iterable[str]) -> list[str]:
    """The metrics of a run with this config; an algorithm that samples nothing has no rewards and no groups."""
    names = [f"evaluation/{name}" for name in _EVALUATION]
    names += [f"learners/default_policy/{name}" for name in _LEARNER]
    if "num_generations" not in config:
        return [*names, "taught_tokens_per_second"]
    names += [f"env_runners/{name}" for name in _SAMPLING]
    names += [f"env_runners/reward_parts/{name}" for name in rewards]
    return [*names, *(f"groups/{name}" for name in _GROUPS), "tokens_per_second"]


def is_open(metric: str) -> bool:
    """Is it the accuracy on a kind of question or on a wording, which only the data set knows?"""
    return _OPEN.fullmatch(metric) is not None


def value_of(row: Mapping[str, Any], metric: str) -> float | None:
    """The number at a path of result.json; None where there is none. A name on the way may hold slashes itself."""
    found = row.get(metric)
    if isinstance(found, int | float) and not isinstance(found, bool):
        return float(found)
    inner = (value_of(v, metric[len(k) + 1 :]) for k, v in row.items() if _leads(k, v, metric))
    return next((value for value in inner if value is not None), None)


def _leads(key: str, value: Any, metric: str) -> bool:
    return isinstance(value, Mapping) and metric.startswith(f"{key}/")


# TRL's GRPOConfig and ModelConfig, the leaves of verl's and EasyR1's trees, R1-ShareVL's additions, RLlib's keys.
PEER_NAMES: dict[str, str] = {
    # groups and sampling
    "rollout.n": "num_generations",
    "group_size": "num_generations",
    "question_num": "num_variants",
    "generation_batch_size": "num_questions",
    "rollout_batch_size": "num_questions",
    "train_batch_size": "num_questions",
    "train_batch_size_per_learner": "num_questions",
    "gen_batch_size": "num_questions",
    "per_device_train_batch_size": "num_questions",
    "max_completion_length": "max_completion_tokens",
    "max_response_length": "max_completion_tokens",
    "max_new_tokens": "max_completion_tokens",
    "max_prompt_length": "max_prompt_tokens",
    "use_vllm": "engine",
    "rollout.name": "engine",
    "num_rollout_workers": "num_env_runners",
    "num_workers": "num_env_runners",
    # optimization
    "learning_rate": "lr",
    "optim.lr": "lr",
    "lr_scheduler_type": "lr_schedule",
    "warmup_style": "lr_schedule",
    "warmup_steps": "lr_warmup_steps",
    "lr_warmup_ratio": "lr_warmup_steps",
    "warmup_ratio": "lr_warmup_steps",
    "max_grad_norm": "grad_clip",
    "betas": "adam_betas",
    "adam_beta1": "adam_betas",
    "adam_beta2": "adam_betas",
    "num_iterations": "num_epochs",
    "ppo_epochs": "num_epochs",
    "num_sgd_iter": "num_epochs",
    "ppo_mini_batch_size": "minibatch_size",
    "global_batch_size": "minibatch_size",
    "sgd_minibatch_size": "minibatch_size",
    "steps_per_generation": "minibatch_size",
    "gradient_accumulation_steps": "max_tokens_per_microbatch",
    "ppo_micro_batch_size_per_gpu": "max_tokens_per_microbatch",
    "ppo_max_token_len_per_gpu": "max_tokens_per_microbatch",
    "micro_batch_size_per_device_for_update": "max_tokens_per_microbatch",
    "enable_gradient_checkpointing": "activation_checkpointing",
    "bf16": "dtype",
    "torch_dtype": "dtype",
    # loss
    "beta": "kl_coeff",
    "kl_coef": "kl_coeff",
    "kl_loss_coef": "kl_coeff",
    "use_kl_loss": "kl_coeff",
    "disable_kl": "kl_coeff",
    "kl_loss_type": "kl_estimator",
    "kl_penalty": "kl_estimator",
    "epsilon": "clip_low",
    "epsilon_low": "clip_low",
    "clip_ratio": "clip_low",
    "clip_ratio_low": "clip_low",
    "clip_param": "clip_low",
    "epsilon_high": "clip_high",
    "clip_ratio_high": "clip_high",
    "delta": "dual_clip",
    "clip_ratio_dual": "dual_clip",
    "clip_ratio_c": "dual_clip",
    "loss_type": "loss_aggregation",
    "loss_agg_mode": "loss_aggregation",
    "loss_avg_mode": "loss_aggregation",
    "importance_sampling_level": "ratio_level",
    "norm_adv_by_std_in_grpo": "scale_rewards",
    "mask_truncated_completions": "mask_truncated",
    # model
    "model_name_or_path": "model",
    "model_path": "model",
    "model.path": "model",
    "freeze_vit": "freeze_vision_tower",
    "freeze_visual_encoder": "freeze_vision_tower",
    "freeze_vision_modules": "freeze_vision_tower",
    "use_peft": "lora",
    "lora_r": "lora.r",
    "lora_rank": "lora.r",
    "lora_alpha": "lora.alpha",
    "lora_dropout": "lora.dropout",
    "lora_target_modules": "lora.target_modules",
    # reward and data
    "reward_weights": "rewards",
    "reward_funcs": "rewards",
    "reward_function": "rewards",
    "dataset_name": "env_config.data",
    "data": "env_config.data",
    "data_path": "env_config.data",
    "train_files": "env_config.data",
    "val_files": "env_config.data",
    "prompt_key": "env_config.columns",
    "answer_key": "env_config.columns",
    "image_key": "env_config.columns",
    # evaluation, checkpoints, resources
    "eval_steps": "evaluation_interval",
    "test_freq": "evaluation_interval",
    "val_freq": "evaluation_interval",
    "evaluation_duration": "evaluation_questions",
    "save_steps": "checkpoint_interval",
    "save_freq": "checkpoint_interval",
    "save_interval": "checkpoint_interval",
    "save_total_limit": "checkpoints_to_keep",
    "save_limit": "checkpoints_to_keep",
    "max_actor_ckpt_to_keep": "checkpoints_to_keep",
    "n_gpus_per_node": "num_learners",
}

# Settings that are not options of an algorithm: where they stand here.
ELSEWHERE: dict[str, str] = {
    "max_steps": "stop.training_iteration",
    "total_training_steps": "stop.training_iteration",
    "total_epochs": "stop.training_iteration",
    "num_train_epochs": "stop.training_iteration",
    "training_iteration": "stop.training_iteration",
    "adv_estimator": "run",
    "algorithm": "run",
    "environment": "env",
    "seed": "--seed",
    "output_dir": "--storage-path",
    "default_local_dir": "--storage-path",
    "save_checkpoint_path": "--storage-path",
    "experiment_name": "--name",
    "run_name": "--name",
    "resume_mode": "--resume",
    "resume_from_checkpoint": "--resume",
}


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known name that a misspelt word most likely means, letter case aside."""
    lowered = {name.lower(): name for name in known}
    found = difflib.get_close_matches(word.lower(), list(lowered), n=1, cutoff=0.6)
    return lowered[found[0]] if found else None


def suggestion(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown option: another trainer's name, else the closest of ours, else nothing."""
    known = list(known)
    ours = PEER_NAMES.get(word)
    if ours and (ours.split(".")[0] in known):
        return f"; it is called {ours} here"
    if word in ELSEWHERE:
        return f"; it is set by {ELSEWHERE[word]} here"
    if ours := closest(word, known):
        return f"; did you mean {ours}?"
    return ""


def block_suggestion(block: str, keys: Iterable[str], known: Iterable[str]) -> str:
    """The same for a block of another trainer's tree, such as verl's `rollout: {n: 8}`: options here are flat."""
    known = list(known)
    found = []
    for key in keys:
        ours = PEER_NAMES.get(f"{block}.{key}") or PEER_NAMES.get(key) or (key if key in known else None)
        if ours and ours.split(".")[0] in known:
            found.append(f"{block}.{key} is {ours}")
    return f"; options are flat here: {', '.join(found)}" if found else suggestion(block, known)
