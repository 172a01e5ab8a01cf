"""The algorithms by name, with their options and presets; light enough for `--dry-run` and `list`."""

from __future__ import annotations

from typing import Any

from sharegrpo_rl.options import GRPOOptions, ShareGRPOOptions

ALGORITHM_OPTIONS: dict[str, type[GRPOOptions]] = {"GRPO": GRPOOptions, "ShareGRPO": ShareGRPOOptions}

_SHARE_GRPO_COMMON: dict[str, Any] = {
    "num_questions": 512,
    "num_variants": 2,
    "num_samples": 6,
    "transform_probability": 0.3,
    "include_original": "sampled",
    "answer_format": "boxed",
    "rewards": {"accuracy": 0.9, "format": 0.1},
    "lr": 1e-6,
    "weight_decay": 1e-2,
    "grad_clip": 1.0,
    "kl_coeff": 0.0,
    "pairing": "all",
    "advantage_levels": "global_local",
    "max_prompt_tokens": 2048,
    "max_completion_tokens": 2048,
    "min_pixels": 262_144,
    "max_pixels": 1_048_576,
}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "GRPO": {},
    "ShareGRPO": {
        # The equations: sequence ratio and 1 / (n m^2) of S8, symmetric clip, temperature of section 4.1.
        "paper": {
            **_SHARE_GRPO_COMMON,
            "minibatch_size": 128,
            "temperature": 0.7,
            "ratio_level": "sequence",
            "loss_aggregation": "sequence_sum",
            "clip_low": 0.2,
            "clip_high": 0.2,
            "transform_text_position": "after",
        },
        # R1-ShareVL as released: token ratio, clip 0.2 / 0.3 with dual clip 3, spread over duplicated rewards,
        # eight optimizer steps a rollout. Its micro-batch means, truncation and swapped sentences are not repeated.
        "released_code": {
            **_SHARE_GRPO_COMMON,
            "minibatch_size": 64,
            "temperature": 1.0,
            "top_p": 0.99,
            "ratio_level": "token",
            "loss_aggregation": "token_mean",
            "clip_low": 0.2,
            "clip_high": 0.3,
            "dual_clip": 3.0,
            "advantage_eps": 1e-6,
            "duplicate_rewards": True,
            "single_variant_doubles": True,
            "transform_text_position": "before",
        },
    },
}
