"""Small models of several families with processors built from config: no hub, no network."""

from typing import Any

import torch
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
)
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

from sharegrpo_rl.models.tiny import CHAT_TEMPLATE, build_tokenizer

CORPUS = ("How many red circles are there? 0 1 2 3 4 5 6 7 8 9", "<think>I look.</think><answer>blue</answer>")
LLAVA_TEMPLATE = CHAT_TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", "<image>")
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.2,
    "max_position_embeddings": 512,
}


def _finished(model: Any, tokenizer: Any) -> Any:
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def _text_options(tokenizer: Any) -> dict[str, Any]:
    return {
        **TEXT,
        "vocab_size": len(tokenizer) + 3,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def text_only(family: str) -> tuple[Any, Any]:
    """A causal language model with its tokenizer; `family`: llama or qwen2."""
    tokenizer = build_tokenizer(CORPUS, 300)
    config, kind = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}[family]
    torch.manual_seed(0)
    return _finished(kind(config(**_text_options(tokenizer), tie_word_embeddings=False)), tokenizer), tokenizer


def llava() -> tuple[Any, Any]:
    """LLaVA: a CLIP tower of 2 x 2 patches before a Llama."""
    tokenizer = build_tokenizer(CORPUS, 300)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]}, replace_extra_special_tokens=False)
    tokenizer.chat_template = LLAVA_TEMPLATE
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14,
        initializer_range=0.2,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision,
        text_config=LlamaConfig(**_text_options(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=4,
    )
    torch.manual_seed(0)
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )
    return _finished(LlavaForConditionalGeneration(config), tokenizer), processor


def qwen2_vl() -> tuple[Any, Any]:
    """Qwen2-VL with its own vision tower."""
    tokenizer = build_tokenizer(CORPUS, 300)
    ids = tokenizer.convert_tokens_to_ids
    config = Qwen2VLConfig(
        text_config={
            **_text_options(tokenizer),
            "rope_scaling": {"type": "mrope", "rope_type": "default", "mrope_section": [4, 2, 2]},
        },
        vision_config={
            "depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 7,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "initializer_range": 0.2,
        },
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
    )  # fmt: skip
    torch.manual_seed(0)
    processor = Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=7, size={"shortest_edge": 784, "longest_edge": 3136}),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(patch_size=7),
        chat_template=CHAT_TEMPLATE,
    )
    return _finished(Qwen2VLForConditionalGeneration(config), tokenizer), processor
