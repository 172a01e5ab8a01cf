"""What other trainers, and earlier versions, call our options: a message about an unknown key names ours, and its value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sharegrpo_rl.errors import closest

# Our names before 0.2.0; docs/upgrading.md has them too.
OLD_NAMES: dict[str, str] = {
    "num_samples": "num_generations",
    "token_budget": "max_tokens_per_microbatch",
    "gradient_checkpointing": "activation_checkpointing",
    "checkpoint_keep": "activation_checkpointing",
    "keep_checkpoints": "checkpoints_to_keep",
    "commit_interval": "learner_commit_interval",
    "kl_in": "kl_in_reward",
    "advantage_std": "scale_rewards",
    "importance_correction": "rollout_correction",
    "importance_level": "rollout_correction_level",
    "importance_cap": "rollout_correction_cap",
    "rollout_lag": "max_staleness",
    "permute_rewards": "shuffle_rewards",
}
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
    "apply_chat_template_kwargs": "chat_template_kwargs",
    "enable_thinking": "chat_template_kwargs",
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
    "lr_warmup_steps_ratio": "lr_warmup_ratio",
    "warmup_ratio": "lr_warmup_ratio",
    "min_lr_ratio": "lr_min_ratio",
    "min_lr_rate": "lr_min_ratio",
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
    "use_kl_in_reward": "kl_in_reward",
    "vllm_importance_sampling_correction": "rollout_correction",
    "vllm_importance_sampling_cap": "rollout_correction_cap",
    "rollout_is_threshold": "rollout_correction_cap",
    "tis_imp_ratio_cap": "rollout_correction_cap",
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

# Keys of nested tables.
NESTED_NAMES: dict[str, str] = {
    "rank": "r",
    "lora_r": "r",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "targets": "target_modules",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_kv_heads",
    "enable_sleep_mode": "sleep",
}

_AGGREGATIONS = {
    "grpo": "sequence_mean", "bnpo": "token_mean", "dapo": "token_mean", "dr_grpo": "max_length",  # TRL
    "token-mean": "token_mean", "seq-mean-token-mean": "sequence_mean",  # verl
    "seq-mean-token-sum": "question_mean", "seq-mean-token-sum-norm": "max_length",
    "token": "token_mean", "seq": "sequence_mean",  # EasyR1
    "sequence_sum": "question_mean", "constant": "max_length",  # ours, before 0.2.0
}  # fmt: skip
_ESTIMATORS = {"kl": "k1", "mse": "k2", "low_var_kl": "k3"}
_CHECKPOINTING = {"true": "full", "false": "none", "nothing": "full", "products": "selective"}
_SCALES = {"true": "std", "false": "none", "group": "std", "sample": "std", "population": "population_std"}
# Other words for an option's values, by our name of the option; a value that is not listed carries over unchanged.
OTHER_VALUES: dict[str, dict[str, str]] = {
    "loss_aggregation": _AGGREGATIONS,
    "kl_estimator": _ESTIMATORS,
    "activation_checkpointing": _CHECKPOINTING,
    "scale_rewards": _SCALES,
    "kl_in_reward": {"loss": "false", "reward": "true"},
    "ratio_level": {"sequence_mean": "sequence", "sequence_token": "sequence"},
    "engine": {"true": "vllm", "false": "hf"},
    "dtype": {"true": "bfloat16", "false": "float32", "bf16": "bfloat16", "fp32": "float32", "auto": "bfloat16"},
    "lr_schedule": {"constant_with_warmup": "constant"},
    "rollout_correction": {"true": "truncate", "false": "none"},
}
# Their values are in other units, or say something else: only the name is given.
_OTHER_UNITS = {
    "adam_beta1", "adam_beta2", "enable_thinking", "use_kl_loss", "disable_kl", "use_peft",
    "gradient_accumulation_steps", "ppo_micro_batch_size_per_gpu", "micro_batch_size_per_device_for_update",
    "ppo_mini_batch_size", "global_batch_size", "sgd_minibatch_size", "steps_per_generation", "generation_batch_size",
    "train_batch_size", "train_batch_size_per_learner", "per_device_train_batch_size", "num_rollout_workers",
    "reward_weights", "reward_funcs", "reward_function", "prompt_key", "answer_key", "image_key", "n_gpus_per_node",
}  # fmt: skip

# Settings that are not options of an algorithm, and where they are set here.
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


def suggestion(word: str, known: Iterable[str], value: object = None) -> str:
    """The end of a message about an unknown key: its name here, with the right value; else the closest known key."""
    known = list(known)
    ours = OLD_NAMES.get(word) or PEER_NAMES.get(word)
    if ours and ours.split(".")[0] in known:
        return f"; it is called {ours} here{_write(word, ours, value)}"
    if (nested := NESTED_NAMES.get(word)) in known:
        return f"; it is called {nested} here"
    if word in ELSEWHERE:
        return f"; it is set by {ELSEWHERE[word]} here"
    if near := closest(word, known):
        return f"; did you mean {near}?"
    elsewhere = {**PEER_NAMES, **OLD_NAMES}
    if (near := closest(word, elsewhere)) and elsewhere[near].split(".")[0] in known:
        return f"; did you mean {elsewhere[near]}?"
    return ""


def _write(word: str, ours: str, value: object) -> str:
    """`: write OURS: VALUE`, where the value can be carried over."""
    if value is None or isinstance(value, Mapping) or word in _OTHER_UNITS:
        return ""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f": write {ours}: {OTHER_VALUES.get(ours, {}).get(text, text)}"


def value_suggestion(option: str, value: object) -> str:
    """The end of a message about a value that an option does not take: another trainer's word for one that it takes."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    ours = OTHER_VALUES.get(option, {}).get(text)
    return f"; {text} is called {ours} here" if ours else ""


def block_suggestion(block: str, table: Mapping[str, Any], known: Iterable[str]) -> str:
    """The same for a block of another trainer's tree, such as verl's `rollout: {n: 8}`: options here are flat."""
    known = list(known)
    matches = []
    for key, value in table.items():
        ours = PEER_NAMES.get(f"{block}.{key}") or PEER_NAMES.get(key) or (key if key in known else None)
        if ours and ours.split(".")[0] in known:
            matches.append(f"{block}.{key} is {_write(key, ours, value).removeprefix(': write ') or ours}")
    return f"; options are flat here: {', '.join(matches)}" if matches else suggestion(block, known)
