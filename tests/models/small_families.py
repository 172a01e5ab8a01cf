"""Small models of several families with processors built from config: no hub, no network."""

from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CohereConfig,
    CohereForCausalLM,
    FalconH1Config,
    FalconH1ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GotOcr2ImageProcessor,
    GraniteConfig,
    GraniteForCausalLM,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaProcessor,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    MistralForCausalLM,
    PixtralImageProcessor,
    PixtralProcessor,
    PixtralVisionConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeConfig,
    Qwen3_5MoeForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
    Qwen3VLProcessor,
    SmolLM3Config,
    SmolLM3ForCausalLM,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
)
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

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
LINEAR = {
    "head_dim": 16, "layer_types": ["linear_attention", "full_attention"], "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "initializer_range": 0.1,
}  # fmt: skip
MAMBA = {"mamba_d_ssm": 32, "mamba_n_heads": 2, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 8}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "norm_topk_prob": True}


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


def text_only(family: str, tokenizer: Any = None, **options: Any) -> tuple[Any, Any]:
    """A causal language model with its tokenizer; `family`: one of these; `options`: of its config."""
    tokenizer = tokenizer or build_tokenizer(CORPUS, 300)
    config, kind, more = {
        "cohere": (CohereConfig, CohereForCausalLM, {"logit_scale": 0.0625}),
        "falcon_h1": (FalconH1Config, FalconH1ForCausalLM, {**MAMBA, "lm_head_multiplier": 0.4}),
        "gemma2": (Gemma2Config, Gemma2ForCausalLM, {"head_dim": 16, "final_logit_softcapping": 2.5}),
        "gemma3": (Gemma3TextConfig, Gemma3ForCausalLM, {"head_dim": 16, "sliding_window": 8}),
        "granite": (GraniteConfig, GraniteForCausalLM, {"logits_scaling": 8.0}),
        "lfm2": (Lfm2Config, Lfm2ForCausalLM, {"layer_types": ["conv", "full_attention"]}),
        "qwen3_moe": (Qwen3MoeConfig, Qwen3MoeForCausalLM, {"head_dim": 16, **EXPERTS}),
        "smollm3": (SmolLM3Config, SmolLM3ForCausalLM, {"no_rope_layers": [1, 0]}),
        "llama": (LlamaConfig, LlamaForCausalLM, {}),
        "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": None}),
        "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
        "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 16}),
    }[family]
    torch.manual_seed(0)
    options = {**_text_options(tokenizer), "tie_word_embeddings": False, **more, **options}
    return _finished(kind(config(**options)), tokenizer), tokenizer


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


def _tokens(*marks: str) -> Any:
    """A tokenizer with the marks of a family, of which a template shows the first for a picture."""
    tokenizer = build_tokenizer(CORPUS, 300)
    tokenizer.add_special_tokens({"additional_special_tokens": list(marks)}, replace_extra_special_tokens=False)
    tokenizer.chat_template = CHAT_TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", marks[0])
    return tokenizer


TOWER = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 7, "initializer_range": 0.2,
}  # fmt: skip


def llava_next() -> tuple[Any, Any]:
    """LLaVA-NeXT: a picture small and whole, and in tiles that are cut to its shape, with a newline after each row."""
    tokenizer, grid = _tokens("<image>"), [[28, 56], [56, 28], [56, 56]]
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**TOWER),
        text_config=LlamaConfig(**_text_options(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=grid,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=16,
    )
    torch.manual_seed(0)
    processor = LlavaNextProcessor(
        LlavaNextImageProcessor(
            size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, image_grid_pinpoints=grid
        ),
        tokenizer,
        patch_size=7,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )
    return _finished(LlavaNextForConditionalGeneration(config), tokenizer), processor


def mistral3() -> tuple[Any, Any]:
    """Mistral 3: a Pixtral tower over pictures of their own size, 2 x 2 patches a token, a mark after each row."""
    tokenizer = _tokens("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    config = Mistral3Config(
        vision_config=PixtralVisionConfig(**{**TOWER, "image_size": 56}),
        text_config=MistralConfig(
            **_text_options(tokenizer), sliding_window=None, head_dim=TEXT["hidden_size"] // TEXT["num_attention_heads"]
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    processor = PixtralProcessor(
        PixtralImageProcessor(size={"longest_edge": 56}, patch_size={"height": 14, "width": 14}),
        tokenizer,
        patch_size=7,
        spatial_merge_size=2,
        chat_template=tokenizer.chat_template,
    )
    return _finished(Mistral3ForConditionalGeneration(config), tokenizer), processor


def internvl() -> tuple[Any, Any]:
    """InternVL: tiles of 28 x 28 pixels, 2 x 2 patches a token."""
    marks = {"context_image_token": "<IMG_CONTEXT>", "start_image_token": "<img>", "end_image_token": "</img>"}
    tokenizer = _tokens(*marks.values(), "<video>")
    tokenizer._set_model_specific_special_tokens({**marks, "video_token": "<video>"})  # saved with it
    config = InternVLConfig(
        vision_config={**TOWER, "image_size": [28, 28], "patch_size": [7, 7]},
        text_config={"model_type": "qwen2", **_text_options(tokenizer)},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    torch.manual_seed(0)
    processor = InternVLProcessor(
        GotOcr2ImageProcessor(size={"height": 28, "width": 28}, max_patches=3, crop_to_patches=True),
        tokenizer,
        InternVLVideoProcessor(size={"height": 28, "width": 28}),
        image_seq_length=4,
        chat_template=tokenizer.chat_template,
    )
    return _finished(InternVLForConditionalGeneration(config), tokenizer), processor


def qwen2_vl(tokenizer: Any = None) -> tuple[Any, Any]:
    """Qwen2-VL with its own vision tower."""
    tokenizer = tokenizer or build_tokenizer(CORPUS, 300)
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


def qwen3_vl(experts: bool = False, tokenizer: Any = None) -> tuple[Any, Any]:
    """Qwen3-VL (`experts`: its MoE): features of two vision layers added to the first two text layers, interleaved rope."""
    kinds = (
        (Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration)
        if experts
        else (Qwen3VLConfig, Qwen3VLForConditionalGeneration)
    )
    text = {"num_hidden_layers": 3, "head_dim": 16, **(EXPERTS if experts else {})}
    return _qwen3(*kinds, text, {}, {"depth": 3, "deepstack_visual_indexes": [0, 1]}, tokenizer)


def qwen3_5(experts: bool = False, tokenizer: Any = None) -> tuple[Any, Any]:
    """Qwen3.5 (`experts`: its MoE): a layer of linear attention (gated delta rule, convolution) before a full one."""
    kinds = (
        (Qwen3_5MoeConfig, Qwen3_5MoeForConditionalGeneration)
        if experts
        else (Qwen3_5Config, Qwen3_5ForConditionalGeneration)
    )
    moe = {**EXPERTS, "shared_expert_intermediate_size": 16} if experts else {}
    return _qwen3(*kinds, {**LINEAR, **moe}, {"partial_rotary_factor": 1.0}, {"depth": 2}, tokenizer)


def _qwen3(config: Any, kind: Any, text: Any, rope: Any, vision: Any, tokenizer: Any) -> tuple[Any, Any]:
    """A model of Qwen3's vision tower and rope; `text`, `rope` and `vision`: what its family has of its own."""
    tokenizer = tokenizer or build_tokenizer(CORPUS, 300)
    ids = tokenizer.convert_tokens_to_ids
    rope = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [4, 2, 2],
        "mrope_interleaved": True,
        **rope,
    }
    made = config(
        text_config={**_text_options(tokenizer), **text, "rope_parameters": rope},
        vision_config={
            "hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "patch_size": 7,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 16, "initializer_range": 0.2,
            **vision,
        },
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
    )  # fmt: skip
    torch.manual_seed(0)
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=7, size={"shortest_edge": 784, "longest_edge": 3136}),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(patch_size=7),
        chat_template=CHAT_TEMPLATE,
    )
    return _finished(kind(made), tokenizer), processor


def idefics3(splitting: bool = True) -> tuple[Any, Any]:
    """Idefics3: every picture cut into crops of 28 x 28 pixels, 4 tokens each, and a small one of the whole."""
    return _cropping(Idefics3Config, Idefics3ForConditionalGeneration, Idefics3ImageProcessor, splitting)


def smolvlm(splitting: bool = True) -> tuple[Any, Any]:
    """SmolVLM, cropping like Idefics3.

    SmolVLM's own processor refuses to be built without num2words, which writes the number of a video's frames;
    Idefics3's writes the same prompt for pictures.
    """
    skip_where_its_own_forward_fails("5.20", "5.21")  # it takes a patch's pixels for a picture's tokens
    return _cropping(SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMImageProcessor, splitting)


def skip_where_its_own_forward_fails(first: str, fixed: str) -> None:
    """For a fault of transformers' own, from one minor version up to another: loading such a model is one line there."""
    if Version(first) <= Version(transformers.__version__) < Version(fixed):
        pytest.skip(f"its own forward fails in transformers {transformers.__version__}")


def _cropping(config: Any, kind: Any, image_processor: Any, splitting: bool) -> tuple[Any, Any]:
    tokenizer = build_tokenizer(CORPUS, 300)
    marks = ["<global-img>", *(f"<row_{i}_col_{j}>" for i in (1, 2) for j in (1, 2))]
    tokenizer.add_special_tokens({"additional_special_tokens": marks}, replace_extra_special_tokens=False)
    processor = Idefics3Processor(  # adds <image> and two more
        image_processor(do_image_splitting=splitting, size={"longest_edge": 56}, max_image_size={"longest_edge": 28}),
        tokenizer,
        image_seq_len=4,
        chat_template=LLAVA_TEMPLATE,
    )
    tokenizer.chat_template = LLAVA_TEMPLATE
    options = {
        "text_config": {"model_type": "llama", **_text_options(tokenizer)},
        "vision_config": {
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 28, "patch_size": 7, "initializer_range": 0.2,
        },
        "image_token_id": processor.image_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "scale_factor": 2,
    }  # fmt: skip
    torch.manual_seed(0)
    return _finished(kind(config(**options)), tokenizer), processor
