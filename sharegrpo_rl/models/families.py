"""What differs between model families: who takes the shared-prefix forward, logits that are changed, ids that are banned."""

from __future__ import annotations

from typing import Any

from sharegrpo_rl.errors import UserError
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
# What a model does to its logits after the head; training and sampling would disagree about it.
LOGIT_RULES = ("final_logit_softcapping", "logit_scale", "logits_scaling")
VISION_TOKENS = (
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<image>",
    "<image_soft_token>",
    "<start_of_image>",
    "<end_of_image>",
    "<fake_token_around_image>",
    "<global-img>",
)
VISION_TOKEN_IDS = (
    "image_token_id",
    "video_token_id",
    "vision_start_token_id",
    "vision_end_token_id",
    "boi_token_id",
    "eoi_token_id",
)


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


def banned_ids(model: Any, tokenizer: Any) -> list[int]:
    """Ids that must never be sampled: vision tokens (the next forward would look for their images), and padding of the head."""
    vocabulary = tokenizer.get_vocab()
    ids = {vocabulary[t] for t in VISION_TOKENS if t in vocabulary}
    ids |= {i for name in VISION_TOKEN_IDS if isinstance(i := getattr(model.config, name, None), int)}
    return sorted(ids | set(range(len(tokenizer), model.get_output_embeddings().weight.shape[0])))


def end_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Ids that end a completion: those of the generation config and the tokenizer's own."""
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed = [ends] if isinstance(ends, int) else list(ends or [])
    known = tuple(dict.fromkeys(i for i in (*listed, tokenizer.eos_token_id) if i is not None))
    if not known:
        raise UserError(
            "model: neither its generation_config.json nor its tokenizer names an end token (eos_token_id), so no completion "
            "could end; add one"
        )
    return known
