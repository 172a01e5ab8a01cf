"""Which model families take the shared-prefix forward, and what keeps the others from it."""

from __future__ import annotations

from typing import Any

from sharegrpo_rl.models.branch_attention import NAME, register

# Tested against one row per completion, log-probs and gradients: tests/models/test_shared_prefix_families.py
SHARED_PREFIX = (
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "llava",
    "idefics3",
    "smolvlm",
    "qwen2",
    "qwen3",
    "llama",
    "mistral",
)
# What a model does to its logits besides the head; training and sampling would disagree about it.
LOGIT_RULES = ("final_logit_softcapping", "logit_scale", "logits_scaling")


def obstacle(model: Any) -> str | None:
    """Why this model runs one row per completion instead of sharing the prompt; None where it shares."""
    text = model.config.get_text_config()
    families = {model.config.model_type, text.model_type.removesuffix("_text")}
    if unknown := sorted(families - set(SHARED_PREFIX)):
        return f"the family {unknown[0]} is not among those it is tested for"
    layers = getattr(text, "layer_types", None)
    if layers is not None and set(layers) != {"full_attention"}:
        return f"its layers are {', '.join(sorted(set(layers)))}, not full attention alone"
    if layers is None and getattr(text, "sliding_window", None) is not None:
        return f"its attention has a sliding window ({text.sliding_window} tokens)"
    return None


def logit_rule(model: Any) -> str | None:
    """The setting by which a model caps or scales its logits after the head; None where it does neither."""
    text = model.config.get_text_config()
    return next((name for name in LOGIT_RULES if getattr(text, name, None) not in (None, 1.0)), None)


def use_branch_attention(model: Any) -> None:
    """Switch the language model (not the vision tower) to branch attention."""
    register()
    model.set_attn_implementation({"text_config": NAME} if hasattr(model.config, "text_config") else NAME)
