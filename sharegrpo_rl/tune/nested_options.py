"""Typed tables for the options that are tables themselves: warm start, LoRA, the tiny model, vLLM, rewards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.options import check_option, option
from sharegrpo_rl.tune.peer_names import suggestion


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

    rank: int = option(16, "rank of the adapters", minimum=1)
    alpha: float = option(32.0, "scale: alpha / rank", minimum=0, exclusive_minimum=True)
    dropout: float = option(0.0, "dropout inside the adapters", minimum=0, maximum=1)
    targets: list = option(["language"], "parts that get adapters: language, vision, projector")


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
        "layers; auto = adapter where lora.targets is the language model only",
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
        _check_targets(checked.get("targets", []))
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
            raise UserError(f"config.lora.targets: {target!r} is not one of {', '.join(parts)}")


def _check_heads(sizes: dict[str, Any]) -> None:
    full = vars(TinyModelOptions()) | sizes
    hidden, heads, kv_heads = full["hidden_size"], full["num_heads"], full["num_kv_heads"]
    if hidden % (2 * heads):
        raise UserError(f"config.model_config.hidden_size: {hidden} is not divisible by 2 x num_heads ({heads})")
    if heads % kv_heads:
        raise UserError(f"config.model_config.num_heads: {heads} is not divisible by num_kv_heads ({kv_heads})")
