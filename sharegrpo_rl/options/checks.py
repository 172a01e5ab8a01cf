"""Checks of options that only make sense together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sharegrpo_rl.errors import UserError


def check_together(config: Mapping[str, Any], algorithm: str) -> None:
    """UserError, beginning with the key, where two options contradict each other. `config` holds every option."""
    per_step, questions = config["minibatch_size"], config["num_questions"]
    if per_step is not None and per_step > questions:
        raise UserError(
            f"minibatch_size: {per_step} is more than num_questions ({questions}); both count seed questions"
        )
    if "num_samples" not in config:
        return
    if config["num_samples"] < 2:
        raise UserError(
            f"num_samples: {config['num_samples']} makes a group of one, whose reward is compared with nothing; "
            f"{algorithm} needs num_samples of at least 2"
        )
    if config["engine"] == "vllm" and not 0.01 <= config["temperature"] <= 2:
        raise UserError(f"temperature: vLLM samples at 0.01 to 2, not at {config['temperature']:g}")
    if config["rollout_lag"]:
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
            "rollout_lag: 1 samples while the learner learns, which takes env runners of their own; set num_env_runners to "
            "1 or more, or rollout_lag to 0"
        )
    if config["importance_correction"] == "none":
        raise UserError(
            "importance_correction: none would ignore that rollout_lag 1 samples by older weights; choose auto, truncate or mask"
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
