"""Random models of real sizes, built on the device where they are to run: no folder, no download."""

from __future__ import annotations

from typing import Any

import torch
from checkpoint import CORPUS, processor_of
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from sharegrpo_rl.models.tiny import build_tokenizer

# As published by their makers; `tiny` tries a command out.
TEXT = {
    "tiny": {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4},
    "3b": {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16},
    "7b": {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28},
}
KEY_HEADS = {"tiny": 2, "3b": 2, "7b": 4}
ROTARY = {"tiny": [4, 6, 6], "3b": [16, 24, 24], "7b": [16, 24, 24]}
VISION = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16}
TINY_VISION = {"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2}
VOCABULARY = {"tiny": 1024, "3b": 151_936, "7b": 152_064}


def build(name: str, device: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """A Qwen2.5-VL with the same random weights each time, and a processor whose tokenizer knows few words."""
    tokenizer = build_tokenizer(CORPUS * 20, 600)
    torch.manual_seed(0)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = Qwen2_5_VLForConditionalGeneration(_config(name, tokenizer))
    finally:
        torch.set_default_dtype(usual)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model, processor_of(tokenizer)


def _config(name: str, tokenizer: Any) -> Any:
    vision = TINY_VISION if name == "tiny" else VISION
    token, tied = tokenizer.convert_tokens_to_ids, name != "7b"
    return Qwen2_5_VLConfig(
        text_config=TEXT[name]
        | {
            "vocab_size": VOCABULARY[name],
            "num_key_value_heads": KEY_HEADS[name],
            "max_position_embeddings": 32_768,
            "rope_parameters": {"rope_type": "default", "mrope_section": ROTARY[name], "rope_theta": 1e6},
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "tie_word_embeddings": tied,
        },
        vision_config=vision
        | {
            "out_hidden_size": TEXT[name]["hidden_size"],
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [i for i in range(vision["depth"]) if i % 8 == 7] or [vision["depth"] - 1],
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=tied,
    )
