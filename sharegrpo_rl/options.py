"""Every option of the GRPO family, once: type, default, bounds, unit, meaning and source.

YAML files, `--set`, `.training(...)`, `list` and the docs' tables are all checked against or made from these fields.
"""

from __future__ import annotations

from dataclasses import Field, dataclass, field, fields
from typing import Any, get_type_hints

from sharegrpo_rl.errors import UserError


def option(
    default: Any,
    doc: str,
    *,
    unit: str = "",
    source: str = "",
    choices: tuple[Any, ...] = (),
    minimum: float | None = None,
    maximum: float | None = None,
    exclusive_minimum: bool = False,
) -> Any:
    """A dataclass field that carries its documentation and its bounds."""
    metadata = {
        "doc": doc,
        "unit": unit,
        "source": source,
        "choices": choices,
        "minimum": minimum,
        "maximum": maximum,
        "exclusive_minimum": exclusive_minimum,
    }
    if isinstance(default, dict | list):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class GRPOOptions:
    """Options of GRPO; other algorithms subclass this and add or change defaults."""

    # model
    model: str = option("tiny", "`tiny` (built from config), a local folder, or a hub name")
    model_config: dict = option({}, "sizes of the tiny model: hidden_size, num_layers, vision_layers, patch_size, ...")
    dtype: str = option("float32", "dtype of the weights in training", choices=("float32", "bfloat16"))
    freeze_vision_tower: bool = option(False, "keep the vision tower's weights fixed")
    freeze_projector: bool = option(False, "keep the projector (vision to language) fixed")
    lora: dict | None = option(None, "LoRA through peft: rank, alpha, dropout, targets (language, vision, projector)")
    warm_start: dict | None = option(
        None,
        "supervised warm start before RL: data (train, or a path), rows, steps, wordings (first, all), lr, template",
    )
    # prompt
    system_prompt: str = option("", "system message; empty = none")
    format_prompt: str | None = option(None, "text after the question; null = the answer format's own")
    answer_format: str = option("think_answer", "form of a completion", choices=("think_answer", "boxed"))
    max_prompt_tokens: int = option(1024, "longer questions are left out before training", unit="tokens", minimum=1)
    max_completion_tokens: int = option(512, "longest completion", unit="tokens", minimum=1)
    min_pixels: int = option(3136, "images are enlarged to at least this area", unit="pixels", minimum=1)
    max_pixels: int = option(1_003_520, "images are shrunk to at most this area", unit="pixels", minimum=1)
    # sampling
    num_questions: int = option(16, "seed questions an iteration", minimum=1)
    num_variants: int = option(1, "variants of each question in a group (V, the paper's m)", minimum=1, maximum=64)
    num_samples: int = option(8, "completions sampled for each variant (n)", minimum=1)
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
    engine: str = option("hf", "generation engine", choices=("hf",))
    # reward
    rewards: dict = option(
        {"accuracy": 0.9, "format": 0.1}, "weight of each registered reward", source="R1-ShareVL 4.1"
    )
    permute_rewards: bool = option(False, "control: shuffle rewards inside each group")
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
    # loss
    ratio_level: str = option(
        "token", "importance ratio per token, or per sequence", choices=("token", "sequence", "sequence_mean")
    )
    loss_aggregation: str = option(
        "token_mean",
        "how token losses become one number",
        choices=("token_mean", "sequence_mean", "sequence_sum", "constant"),
    )
    clip_low: float = option(0.2, "ratio is clipped at 1 - clip_low", minimum=0, maximum=1)
    clip_high: float = option(0.2, "ratio is clipped at 1 + clip_high", minimum=0)
    dual_clip: float | None = option(
        None, "bound on the ratio where the advantage is negative; null = off", minimum=1, exclusive_minimum=True
    )
    kl_coeff: float = option(0.0, "weight of the KL to the reference policy", minimum=0)
    kl_estimator: str = option("k3", "KL estimator", choices=("k1", "k2", "k3"))
    kl_on_shared: bool = option(False, "also take the KL on shared completions (its estimator needs native samples)")
    advantage_std: str = option("sample", "spread that divides the advantage", choices=("sample", "population", "none"))
    advantage_eps: float = option(0.0, "added to the spread", minimum=0)
    exclude_zero_advantage: bool = option(False, "leave completions without advantage out of the denominator")
    mask_truncated: bool = option(False, "do not train on truncated completions")
    preset: str | None = option(None, "a named table of settings, applied before this file's own keys")
    # evaluation, checkpoints
    evaluation_interval: int = option(0, "iterations between evaluations; 0 = only before and after", minimum=0)
    evaluation_questions: int = option(500, "first questions of the test split that are evaluated", minimum=1)
    evaluation_batch: int = option(128, "questions generated at once in evaluation", minimum=1)
    checkpoint_interval: int = option(1, "iterations between checkpoints; 0 = only at the end", minimum=0)
    keep_checkpoints: int = option(2, "last checkpoints kept beside the best one", minimum=1)
    # resources
    num_env_runners: int = option(0, "remote env runners; 0 = in the driver", minimum=0)
    num_learners: int = option(0, "remote learners; 0 = in the driver", minimum=0)
    num_threads: int = option(
        1, "torch threads of each process; runs repeat exactly only with the same number", minimum=1
    )
    env_config: dict = option({}, "settings of the environment: data, kinds, max_questions, subset_seed, ...")


@dataclass
class ShareGRPOOptions(GRPOOptions):
    """Options of Share-GRPO: m variants share completions and rewards."""

    num_variants: int = option(
        2, "variants of each question in a group (V, the paper's m)", minimum=1, maximum=64, source="R1-ShareVL 4.1"
    )
    num_samples: int = option(6, "completions sampled for each variant (n)", minimum=1, source="R1-ShareVL 4.1")
    transform_probability: float = option(
        0.3, "chance of an image transform, for each slot", minimum=0, maximum=1, source="R1-ShareVL 4.1"
    )
    pairing: str = option("all", "train each completion under all variants, or only its own", choices=("all", "native"))
    advantage_levels: str = option(
        "global_local",
        "levels added up on native completions; shared ones take the global level alone",
        choices=("global_local", "global", "local"),
        source="S5-S7",
    )
    duplicate_rewards: bool = option(False, "global spread over rewards repeated m times, as the released code does")
    single_variant_doubles: bool = option(False, "with V = 1 add both levels (literal S7) instead of plain GRPO")


def meaning(entry: Field, quote: str = "") -> str:
    """An option's documentation, choices, bounds, unit and source in one line; `quote` goes around each choice."""
    notes = entry.metadata
    parts = [notes.get("doc", "")]
    if notes.get("choices"):
        parts.append("one of " + ", ".join(f"{quote}{choice}{quote}" for choice in notes["choices"]))
    low, high = notes.get("minimum"), notes.get("maximum")
    if low is not None:
        parts.append(f"{'above' if notes.get('exclusive_minimum') else 'at least'} {low:g}")
    if high is not None:
        parts.append(f"at most {high:g}")
    if notes.get("unit"):
        parts.append(f"in {notes['unit']}")
    if notes.get("source"):
        parts.append(f"source: {notes['source']}")
    return "; ".join(parts)


def check_option(options: type[GRPOOptions], name: str, value: Any) -> Any:
    """The value as its field wants it (an int for a float field becomes a float); UserError where it does not fit."""
    known = {f.name: f for f in fields(options)}
    spec = known[name].metadata
    hint = str(get_type_hints(options)[name])
    optional = "None" in hint
    if value is None:
        if optional:
            return None
        raise UserError(f"{name}: null is not allowed; expected {hint.replace('<class ', '').strip('>')}")
    kind = next(k for k in (bool, int, float, str, dict, list) if k.__name__ in hint)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UserError(f"{name}: expected {kind.__name__}{' or null' if optional else ''}, got {value!r}")
    if spec["choices"] and value not in spec["choices"]:
        raise UserError(f"{name}: {value!r} is not one of {', '.join(map(str, spec['choices']))}")
    if kind in (int, float):
        _check_bounds(name, value, spec)
    return value


def _check_bounds(name: str, value: float, spec: Any) -> None:
    low, high = spec["minimum"], spec["maximum"]
    if value != value or value in (float("inf"), float("-inf")):
        raise UserError(f"{name}: {value} is not a finite number")
    if low is not None and (value < low or (spec["exclusive_minimum"] and value == low)):
        raise UserError(
            f"{name}: {value} is too small; it must be {'above' if spec['exclusive_minimum'] else 'at least'} {low}"
        )
    if high is not None and value > high:
        raise UserError(f"{name}: {value} is too large; it must be at most {high}")
