"""`resolve`: the options of an algorithm from a table of settings. YAML, `--set`, `.training()` and Tune all go through it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sharegrpo_rl.config.names import block_suggestion, suggestion
from sharegrpo_rl.config.option import check
from sharegrpo_rl.config.presets import ALGORITHM_OPTIONS, PRESETS
from sharegrpo_rl.config.run import RunOptions, TinyModelOptions
from sharegrpo_rl.errors import UserError


def options_of(algorithm: str) -> type[RunOptions]:
    """The model of an algorithm's options; UserError for an unknown algorithm."""
    if algorithm not in ALGORITHM_OPTIONS:
        raise UserError(
            f"run: no algorithm {algorithm!r}{suggestion(algorithm, ALGORITHM_OPTIONS)} "
            f"(known: {', '.join(ALGORITHM_OPTIONS)})"
        )
    return ALGORITHM_OPTIONS[algorithm]


def resolve(algorithm: str, settings: Mapping[str, Any]) -> RunOptions:
    """Settings over their preset over the defaults, checked and typed.

    UserError, beginning with the dotted key, for an unknown key at any depth or a value that does not fit. Options that
    contradict each other are left to `check_together`: settings may come in several calls.

    >>> resolve("GRPO", {"num_generations": 12, "lora": {"r": 8}}).lora.alpha
    32.0
    """
    model = options_of(algorithm)

    def unknown_key(key: str, value: Any) -> str:
        known = model.fields()
        others = [name for name, other in ALGORITHM_OPTIONS.items() if key in other.fields()]
        if others:
            hint = f"; it is an option of {', '.join(others)}"
        elif isinstance(value, Mapping):
            hint = block_suggestion(key, value, known)
        else:
            hint = suggestion(key, known, value)
        return f"no such option of {algorithm}{hint} (`sharegrpo-rl list options {algorithm}` shows all)"

    preset = _preset(algorithm, settings.get("preset"))
    return check(model, _with_heads_for_engine({**preset, **settings}), unknown_key)


def _with_heads_for_engine(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings of a tiny model that vLLM samples from, with heads of 32 unless they name heads: the narrowest that vLLM's CPU
    build takes."""
    sizes = settings.get("model_config", {})
    if settings.get("engine") != "vllm" or settings.get("model", "tiny") != "tiny" or not isinstance(sizes, Mapping):
        return settings
    width = sizes.get("hidden_size", TinyModelOptions().hidden_size)
    if {"num_heads", "num_kv_heads"} & set(sizes) or not isinstance(width, int) or width % 32:
        return settings
    return {**settings, "model_config": {**sizes, "num_heads": width // 32, "num_kv_heads": 1}}


def _preset(algorithm: str, name: Any) -> Mapping[str, Any]:
    presets = PRESETS.get(algorithm, {})
    if not isinstance(name, str):
        return {}  # none, or of a wrong type, which `check` refuses
    if name not in presets:
        known = ", ".join(presets) or "none"
        raise UserError(f"preset: {algorithm} has no preset {name!r}{suggestion(name, presets)} (known: {known})")
    return presets[name]
