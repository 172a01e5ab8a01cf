"""The algorithms by name, with their options and presets; light enough for `--dry-run` and `list`.

A preset is a table of keys applied before a run's own. docs/algorithms/presets.md says where each value comes from.
"""

from __future__ import annotations

from typing import Any

from sharegrpo_rl.config.methods import GRPODOptions, SFTOptions, ShareGRPOOptions, StepGRPOOptions
from sharegrpo_rl.config.run import GRPOOptions, RunOptions

ALGORITHM_OPTIONS: dict[str, type[RunOptions]] = {
    "GRPO": GRPOOptions,
    "ShareGRPO": ShareGRPOOptions,
    "GRPOD": GRPODOptions,
    "StepGRPO": StepGRPOOptions,
    "SFT": SFTOptions,
}

# R1-ShareVL: questions and learning rate of section 4.1; what the paper leaves open is the released code's.
_SHARE_VL: dict[str, Any] = {
    "num_questions": 512,
    "answer_format": "boxed",
    "rewards": {"accuracy": 0.9, "format": 0.1},
    "lr": 1e-6,
    "weight_decay": 1e-2,
    "grad_clip": 1.0,
    "kl_coeff": 0.0,
    "max_prompt_tokens": 2048,
    "max_completion_tokens": 2048,
    "min_pixels": 262_144,
    "max_pixels": 1_048_576,
}
_SHARE_GRPO: dict[str, Any] = {
    **_SHARE_VL,
    "num_variants": 2,
    "num_generations": 6,
    "transform_probability": 0.3,
    "include_original": "sampled",
    "pairing": "all",
    "advantage_levels": "global_local",
}
# The equations: sequence ratio and mean over sequences (S2; with pairs 1 / (n m^2), S8), symmetric clip, section 4.1's T.
_SHARE_VL_EQUATIONS: dict[str, Any] = {
    "minibatch_size": 128,
    "temperature": 0.7,
    "ratio_level": "sequence_product",
    "loss_aggregation": "question_mean",
    "clip_low": 0.2,
    "clip_high": 0.2,
}
# R1-V's code, which OThink-MR1 and R1-VL build on: one update a rollout, k3 in the loss, mean over sequences; lengths and
# pixels of the command in its README, which counts.
_R1_V: dict[str, Any] = {
    "num_questions": 16,
    "num_generations": 8,
    "temperature": 1.0,
    "rewards": {"accuracy": 1.0, "format": 1.0},
    "answer_format": "think_answer",
    "lr": 1e-6,
    "lr_schedule": "linear",
    "kl_coeff": 0.04,
    "kl_estimator": "k3",
    "loss_aggregation": "sequence_mean",
    "advantage_eps": 1e-4,
    "max_prompt_tokens": 512,
    "max_completion_tokens": 512,
    "max_pixels": 401_408,
}
# Its only script for geometry.
_R1_V_GEOMETRY: dict[str, Any] = {
    **_R1_V,
    "lr_schedule": "constant",
    "max_prompt_tokens": 4096,
    "max_completion_tokens": 2048,
    "min_pixels": 3136,
    "max_pixels": 501_760,
}
# A schedule replaces the constant weight.
_GRPO_D: dict[str, Any] = {"kl_coeff": 0.0, "kl_schedule": "v_shape", "kl_turn": 0.3}

GRPO_PRESETS: dict[str, dict[str, Any]] = {
    # R1-ShareVL's GRPO baseline (the row 72.8 of its Table 2): N = 12 completions of the question itself.
    "r1_sharevl": {**_SHARE_VL, **_SHARE_VL_EQUATIONS, "num_generations": 12, "wording": "original"},
    "r1_v": _R1_V,
    "r1_v_geometry": _R1_V_GEOMETRY,
    # Dr. GRPO: advantages not divided by a standard deviation, losses by a constant instead of each completion's length.
    "dr_grpo": {"scale_rewards": "none", "loss_aggregation": "max_length", "kl_coeff": 0.0},
    # DAPO: clip-higher, dynamic sampling, overlong shaping, mean over tokens, no KL; sizes of its recipe. Its rewards are +1
    # and -1: at 1 and 0 the penalty for length is half as large.
    "dapo": {
        "num_questions": 512,
        "rewards": {"accuracy": 1.0},
        "minibatch_size": 32,
        "num_generations": 16,
        "temperature": 1.0,
        "clip_low": 0.2,
        "clip_high": 0.28,
        "dual_clip": 10.0,
        "loss_aggregation": "token_mean",
        "kl_coeff": 0.0,
        "selection": "dynamic_sampling",
        "max_generation_batches": 10,
        "max_completion_tokens": 20480,
        "max_prompt_tokens": 2048,
        "overlong_buffer": 4096,
        "overlong_weight": 0.5,
        "advantage_eps": 1e-6,
        "lr": 1e-6,
        "lr_warmup_steps": 160,  # 10 rollouts of 16 optimizer steps
        "weight_decay": 0.1,
    },
    # GSPO: the geometric mean of the token ratios as the ratio of a sequence, with its narrow clip and four minibatches a
    # rollout (5.1 of its paper; with one, every ratio is 1). Other sizes are those of verl's script for it.
    "gspo": {
        "num_questions": 512,
        "rewards": {"accuracy": 1.0},
        "minibatch_size": 128,
        "num_generations": 16,
        "max_prompt_tokens": 2048,
        "max_completion_tokens": 8192,
        "advantage_eps": 1e-6,
        "lr": 1e-6,
        "lr_warmup_ratio": 0.05,
        "weight_decay": 0.1,
        "ratio_level": "sequence",
        "loss_aggregation": "sequence_mean",
        "clip_low": 3e-4,
        "clip_high": 4e-4,
        "kl_coeff": 0.0,
    },
    # MM-Eureka: groups with a mean accuracy in [0.1, 0.9] only, tower and merger frozen, no KL, eight optimizer steps of 128
    # completions a rollout, ratios bounded by 3.
    "mm_eureka": {
        "num_questions": 128,
        "minibatch_size": 16,
        "num_generations": 8,
        "temperature": 1.0,
        "selection": "online_filter",
        "filter_low": 0.1,
        "filter_high": 0.9,
        "rewards": {"accuracy": 1.0, "format": 0.5},
        "advantage_eps": 1e-9,
        "loss_aggregation": "sequence_mean",
        "dual_clip": 3.0,
        "freeze_vision_tower": True,
        "freeze_projector": True,
        "kl_coeff": 0.0,
        "lr": 1e-6,
        "lr_schedule": "cosine",
        "lr_warmup_ratio": 0.03,
        "lr_min_ratio": 0.1,
        "adam_betas": [0.9, 0.95],
        "max_prompt_tokens": 3000,
        "max_completion_tokens": 4096,
        "max_pixels": 501_760,
    },
    # VL-Rethinker: selective sample replay, advantages not divided by a standard deviation, clip 0.2 / 0.35, steps of 512
    # completions. Its forced rethinking is not here.
    "vl_rethinker": {
        "num_questions": 512,
        "minibatch_size": 64,
        "num_generations": 8,
        "answer_format": "boxed",
        "rewards": {"accuracy": 1.0},
        "max_prompt_tokens": 2048,
        "max_completion_tokens": 6144,
        "min_pixels": 200_704,
        "temperature": 1.0,
        "top_p": 0.95,
        "rollout_correction": "none",
        "scale_rewards": "none",
        "replay_size": 2048,
        "replay_alpha": 1.0,
        "replay_replacement": True,
        "lr_schedule": "cosine",
        "lr_warmup_ratio": 0.03,
        "lr_min_ratio": 0.5,
        "adam_betas": [0.9, 0.95],
        "clip_low": 0.2,
        "clip_high": 0.35,
        "loss_aggregation": "token_mean",
        "kl_coeff": 0.0,
    },
}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "GRPO": GRPO_PRESETS,
    "ShareGRPO": {
        "paper": {**_SHARE_GRPO, **_SHARE_VL_EQUATIONS, "transform_text_position": "after"},
        # As released: token ratio, clip 0.2 / 0.3 with dual clip 3, standard deviation over duplicated rewards, eight optimizer
        # steps a rollout. Its micro-batch means, truncation and swapped sentences are not repeated.
        "released_code": {
            **_SHARE_GRPO,
            "minibatch_size": 64,
            "temperature": 1.0,
            "top_p": 0.99,
            "rollout_correction": "none",
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
    "GRPOD": {
        # OThink-MR1, section 4: ranges of the KL weight for its two tasks, the rest as in R1-V.
        "paper_counting": {**_R1_V, **_GRPO_D, "kl_min": 0.04, "kl_max": 0.1},
        "paper_geometry": {**_R1_V_GEOMETRY, **_GRPO_D, "kl_min": 0.0, "kl_max": 0.02},
    },
    "StepGRPO": {
        # R1-VL's script for 2B, with the gaps of its two rewards: it samples at 1.2 and takes log-probs at 1. That for 7B
        # has 16 questions and samples at 1.
        "released_code": {
            **_R1_V,
            "num_questions": 4,
            "num_generations": 4,
            "temperature": 1.2,
            "logprob_temperature": 1.0,
            "rollout_correction": "none",
            "answer_format": "steps",
            "rewards": {"accuracy": 1.0, "key_steps_released": 0.1, "step_validity_released": 1.0},
            "max_prompt_tokens": 512,
            "max_completion_tokens": 1024,
            "max_pixels": 400_000,
        },
    },
    "SFT": {
        # R1-VL's warm-up before StepGRPO, for its 2B model: 4 rows x 8 steps x 4 GPUs; tower and projector are frozen and
        # pictures bounded by LLaMA-Factory's defaults.
        "r1_vl_warmup": {
            "num_questions": 128,
            "lr": 2e-5,
            "lr_schedule": "cosine",
            "lr_warmup_ratio": 0.03,
            "weight_decay": 0.05,
            "freeze_vision_tower": True,
            "freeze_projector": True,
            "max_pixels": 589_824,
            "wording": "original",
            "answer_format": "steps",
        },
    },
}
