"""The sizes of `config.model`: looked up for known names, else counted on a model that is built without storage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.models.sizes import KNOWN, LayerSizes, ModelSizes, VisionSizes

LANGUAGE, VISION = "language model", "vision tower"


def known_sizes(model: str) -> ModelSizes | None:
    """Sizes of a known hub name (or a path that ends in it), without torch; None for any other model."""
    if (Path(model) / "config.json").is_file():
        return None
    return KNOWN.get(model) or next((s for name, s in KNOWN.items() if name.split("/")[-1] == Path(model).name), None)


def model_sizes(model: str, tiny: Mapping[str, Any]) -> ModelSizes:
    """Sizes of `tiny` (with its `model_config`), of a folder, or of a hub name; UserError where its config is not here."""
    return known_sizes(model) or measure(_tiny_config(tiny) if model == "tiny" else _read_config(model))


def measure(config: Any) -> ModelSizes:
    """The sizes of a transformers config."""
    import torch

    from sharegrpo_rl.models.loading import parameter_table, part_of

    model, text = _empty_model(config), config.get_text_config()
    width: dict[str, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and not name.endswith("lm_head"):
            width[part_of(name)] = width.get(part_of(name), 0) + module.in_features + module.out_features
    layers = {(part_of(name), name.rpartition(".")[2]) for name, _ in model.named_modules()}
    heads = text.num_attention_heads
    stack = LayerSizes(
        text.num_hidden_layers,
        text.hidden_size,
        heads,
        getattr(text, "num_key_value_heads", None) or heads,
        getattr(text, "head_dim", None) or text.hidden_size // heads,
        text.intermediate_size,
        gated=(LANGUAGE, "gate_proj") in layers,
        head_norms=(LANGUAGE, "q_norm") in layers,
    )
    return ModelSizes(
        config.model_type,
        stack,
        _vision(config, gated=(VISION, "gate_proj") in layers),
        text.vocab_size,
        model.get_output_embeddings().weight is model.get_input_embeddings().weight,
        {part: count for part, count, _ in parameter_table(model)},
        width,
    )


def _empty_model(config: Any) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    sees = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    with torch.device("meta"):
        model = (AutoModelForImageTextToText if sees else AutoModelForCausalLM).from_config(config)
    model.tie_weights()
    return model


def _vision(config: Any, gated: bool) -> VisionSizes | None:
    vision = getattr(config, "vision_config", None)
    if vision is None:
        return None
    width = getattr(vision, "embed_dim", None) or vision.hidden_size  # in Qwen2-VL hidden_size is the output's
    heads = getattr(vision, "num_heads", None) or vision.num_attention_heads
    inner = getattr(vision, "intermediate_size", None) or int(width * vision.mlp_ratio)
    layers = getattr(vision, "depth", None) or vision.num_hidden_layers
    stack = LayerSizes(layers, width, heads, heads, width // heads, inner, gated)
    return VisionSizes(stack, vision.patch_size, getattr(vision, "spatial_merge_size", 1))


def _read_config(model: str) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(model, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(
            f"model: the sizes of {model!r} are not known here ({' '.join(str(error).split())[:120]}); name a folder with its "
            f"config.json, or fetch that file once: hf download {model} config.json"
        ) from None


class _Vocabulary:
    """As much of a tokenizer as the tiny model's config asks for: how large it will be, and its first ids."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def convert_tokens_to_ids(self, token: str) -> int:
        from sharegrpo_rl.models.tiny import SPECIAL_TOKENS

        return SPECIAL_TOKENS.index(token)


def _tiny_config(sizes: Mapping[str, Any]) -> Any:
    from sharegrpo_rl.models.tiny import TinyConfig, tiny_config

    tiny = TinyConfig(**sizes)
    return tiny_config(tiny, _Vocabulary(tiny.vocab_size))
