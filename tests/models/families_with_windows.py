"""Small models of families whose tokens attend within windows, or in both directions over a picture or a prompt."""

from typing import Any

import torch
from small_families import CORPUS, TOWER, _finished, _text_options
from transformers import (
    AyaVisionConfig,
    AyaVisionForConditionalGeneration,
    AyaVisionProcessor,
    Cohere2Config,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3Processor,
    Gemma3TextConfig,
    Gemma4AudioFeatureExtractor,
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    Gemma4ImageProcessor,
    Gemma4Processor,
    Gemma4TextConfig,
    Gemma4VideoProcessor,
    Gemma4VisionConfig,
    GemmaConfig,
    Glm4vConfig,
    Glm4vForConditionalGeneration,
    Glm4vImageProcessor,
    Glm4vProcessor,
    Glm4vVideoProcessor,
    Glm46VConfig,
    Glm46VForConditionalGeneration,
    Glm46VImageProcessor,
    Glm46VProcessor,
    Glm46VVideoProcessor,
    GotOcr2ImageProcessor,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    SiglipImageProcessor,
    SiglipVisionConfig,
)

from sharegrpo_rl.models.tiny import build_tokenizer

WINDOWS = {"head_dim": 16, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
_PARTS = (
    "{% macro show(content, picture) %}{% if content is string %}{{ content | trim }}{% else %}"
    "{% for part in content %}{% if part['type'] == 'image' %}{{ picture }}{% else %}{{ part['text'] | trim }}"
    "{% endif %}{% endfor %}{% endif %}{% endmacro %}"
)
# No system role: its text begins the first turn of the user.
GEMMA3_TEMPLATE = (
    _PARTS + "{{ bos_token }}{% set said = namespace(first='') %}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{% set said.first = show(message['content'], '') + '\n\n' %}{% else %}"
    "<start_of_turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{{ said.first }}{{ show(message['content'], '<start_of_image>') }}<end_of_turn>\n"
    "{% set said.first = '' %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
# A system message is a string here: parts would be printed as a list.
GEMMA4_TEMPLATE = (
    _PARTS + "{{ bos_token }}{% set system = messages[0]['role'] == 'system' %}"
    "{% if system or enable_thinking %}<|turn>system\n{% if enable_thinking %}<|think|>\n{% endif %}"
    "{% if system %}{{ messages[0]['content'] | trim }}{% endif %}<turn|>\n{% endif %}"
    "{% for message in messages %}{% if message['role'] != 'system' %}"
    "<|turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}\n"
    "{{ show(message['content'], '\n\n<|image|>\n\n') }}<turn|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|turn>model\n{% endif %}"
)
# A system message is a string here too, and nothing ends a turn but the next one's mark.
GLM_TEMPLATE = (
    _PARTS + "[gMASK]<sop>{% for message in messages %}{% if message['role'] == 'system' %}<|system|>\n"
    "{{ message['content'] }}{% else %}<|{{ message['role'] }}|>\n"
    "{{ show(message['content'], '<|begin_of_image|><|image|><|end_of_image|>') }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
# The later one may be told not to think: then it says so in the question and writes an empty thought itself.
GLM46_TEMPLATE = GLM_TEMPLATE.replace(
    "{% endif %}{% endfor %}{% if add",
    "{% if message['role'] == 'user' and enable_thinking is defined and not enable_thinking %}/nothink{% endif %}"
    "{% endif %}{% endfor %}{% if add",
).replace(
    "<|assistant|>\n{% endif %}",
    "<|assistant|>\n{% if enable_thinking is defined and not enable_thinking %}<think></think>\n{% endif %}{% endif %}",
)
AYA_TEMPLATE = (
    _PARTS + "{{ bos_token }}{% for message in messages %}<|START_OF_TURN_TOKEN|>"
    "{{ {'system': '<|SYSTEM_TOKEN|>', 'user': '<|USER_TOKEN|>', 'assistant': '<|CHATBOT_TOKEN|>'}[message['role']] }}"
    "{{ show(message['content'], '<image>') }}<|END_OF_TURN_TOKEN|>{% endfor %}"
    "{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_RESPONSE|>{% endif %}"
)
# Published without a template: all pictures, then the text. The processor adds <bos> between them and the line's end.
PALIGEMMA_TEMPLATE = (
    _PARTS + "{% for message in messages if message['content'] is not string %}"
    "{% for part in message['content'] if part['type'] == 'image' %}<image>{% endfor %}{% endfor %}"
    "{% for message in messages %}{{ show(message['content'], '') }}"
    "{% if not loop.last %}{{ '\n' }}{% endif %}{% endfor %}"
)
_GLM_MARKS = {
    "image_token_id": "<|image|>",
    "video_token_id": "<|video|>",
    "image_start_token_id": "<|begin_of_image|>",
    "image_end_token_id": "<|end_of_image|>",
    "video_start_token_id": "<|begin_of_video|>",
    "video_end_token_id": "<|end_of_video|>",
}


def _tokenizer(template: str, end: str, pad: str, bos: str | None, *marks: str, **named: str) -> Any:
    """A tokenizer with the special tokens of a family; `named`: those that its processor asks for by name."""
    tokenizer = build_tokenizer(CORPUS, 300)
    special = list(dict.fromkeys([end, pad, *([bos] if bos else []), *marks, *named.values()]))
    tokenizer.add_special_tokens({"additional_special_tokens": special}, replace_extra_special_tokens=False)
    tokenizer.eos_token, tokenizer.pad_token = end, pad
    if bos:
        tokenizer.bos_token = bos
    if named:
        tokenizer._set_model_specific_special_tokens(named)  # saved with it
    tokenizer.chat_template = template
    return tokenizer


def _ending(model: Any, tokenizer: Any, *marks: str) -> Any:
    """The model, whose completions end with the tokenizer's end or one of these marks."""
    ends = [tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids(list(marks))]
    _finished(model, tokenizer).generation_config.eos_token_id = ends
    return model


def _options(tokenizer: Any) -> dict[str, Any]:
    return {**_text_options(tokenizer), "bos_token_id": tokenizer.bos_token_id}


def gemma3() -> tuple[Any, Any]:
    """Gemma 3: a sliding window before a full layer, and the tokens of a picture see each other in both directions."""
    named = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    marks = ("<start_of_turn>", "<end_of_turn>")
    tokenizer = _tokenizer(GEMMA3_TEMPLATE, "<eos>", "<pad>", "<bos>", *marks, **named)
    config = Gemma3Config(
        text_config=Gemma3TextConfig(**_options(tokenizer), **WINDOWS, query_pre_attn_scalar=16),
        vision_config=SiglipVisionConfig(**TOWER, vision_use_head=False),
        mm_tokens_per_image=4,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        image_token_index=tokenizer.image_token_id,
    )
    torch.manual_seed(0)
    processor = Gemma3Processor(
        Gemma3ImageProcessor(size={"height": 28, "width": 28}),
        tokenizer,
        chat_template=GEMMA3_TEMPLATE,
        image_seq_length=4,
    )
    model = Gemma3ForConditionalGeneration(config)
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.2)  # 0, it would be blind
    return _ending(model, tokenizer, "<end_of_turn>"), processor


def gemma4(small: bool = False) -> tuple[Any, Any]:
    """Gemma 4: its layers' windows and heads differ, its logits have a soft cap; a picture has up to 70 tokens.

    As its larger models, a picture's tokens see each other in both directions; `small`: as those for phones, each layer
    has inputs of its own and the last two take keys and values of the first.
    """
    named = {
        "boi_token": "<|image>", "eoi_token": "<image|>", "image_token": "<|image|>",
        "boa_token": "<|audio>", "eoa_token": "<audio|>", "audio_token": "<|audio|>",
    }  # fmt: skip
    marks = ("<|video|>", "<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|think|>")
    tokenizer = _tokenizer(GEMMA4_TEMPLATE, "<eos>", "<pad>", "<bos>", *marks, **named)
    options = {**_options(tokenizer), **WINDOWS, "global_head_dim": 32, "final_logit_softcapping": 30.0}
    if small:
        options |= {
            "num_hidden_layers": 4, "layer_types": 2 * WINDOWS["layer_types"], "num_kv_shared_layers": 2,
            "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": options["vocab_size"],
            "initializer_range": 0.02,  # with 0.2 float32 rounds a gradient of four layers by more than 1e-5
        }  # fmt: skip
    else:
        options |= {"hidden_size_per_layer_input": 0, "use_bidirectional_attention": "vision"}
    tower = {**TOWER, "patch_size": 4, "num_key_value_heads": 2, "head_dim": 16, "position_embedding_size": 256}
    config = Gemma4Config(
        text_config=Gemma4TextConfig(**options),
        vision_config=Gemma4VisionConfig(**tower),
        image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.convert_tokens_to_ids("<|video|>"),
        audio_token_id=tokenizer.audio_token_id,
        boi_token_id=tokenizer.boi_token_id,
        eoi_token_id=tokenizer.eoi_token_id,
        boa_token_id=tokenizer.boa_token_id,
        eoa_token_index=tokenizer.eoa_token_id,
    )
    torch.manual_seed(0)
    processor = Gemma4Processor(
        Gemma4AudioFeatureExtractor(),
        Gemma4ImageProcessor(patch_size=4, max_soft_tokens=70),
        tokenizer,
        Gemma4VideoProcessor(patch_size=4),
        chat_template=GEMMA4_TEMPLATE,
        image_seq_length=70,
    )
    return _ending(Gemma4ForConditionalGeneration(config), tokenizer, "<turn|>"), processor


def glm4v() -> tuple[Any, Any]:
    """GLM-4.1V: a rope of three axes, its sections one after the other, and pictures by their grids."""
    processors = Glm4vProcessor, Glm4vImageProcessor, Glm4vVideoProcessor
    return _glm(Glm4vConfig, Glm4vForConditionalGeneration, *processors, GLM_TEMPLATE)


def glm46v() -> tuple[Any, Any]:
    """GLM-4.6V: GLM-4.1V's parts under another name, and a template that can leave the thought out."""
    processors = Glm46VProcessor, Glm46VImageProcessor, Glm46VVideoProcessor
    return _glm(Glm46VConfig, Glm46VForConditionalGeneration, *processors, GLM46_TEMPLATE)


def _glm(config: Any, kind: Any, processor: Any, images: Any, videos: Any, template: str) -> tuple[Any, Any]:
    turns = ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
    tokenizer = _tokenizer(template, "<|endoftext|>", "<|endoftext|>", None, *turns, *_GLM_MARKS.values())
    rope = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "mrope_section": [2, 1, 1],
    }
    made = config(
        text_config={**_options(tokenizer), "rope_parameters": rope},
        vision_config={
            "depth": 2, "hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 64, "num_heads": 2,
            "image_size": 28, "patch_size": 7, "spatial_merge_size": 2, "temporal_patch_size": 2,
            "initializer_range": 0.2,
        },
        **{name: tokenizer.convert_tokens_to_ids(mark) for name, mark in _GLM_MARKS.items()},
    )  # fmt: skip
    torch.manual_seed(0)
    size = {"shortest_edge": 784, "longest_edge": 6272}  # of two frames: a picture counts twice
    processor = processor(
        images(patch_size=7, size=size), tokenizer, videos(patch_size=7, size=size), chat_template=template
    )
    return _ending(kind(made), tokenizer, "<|user|>", "<|observation|>"), processor


def aya_vision() -> tuple[Any, Any]:
    """Aya Vision: Cohere 2 with a sliding window and scaled logits; tiles of 28 x 28 pixels, 2 x 2 patches a token."""
    turns = ("<|START_OF_TURN_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|START_RESPONSE|>")
    marks = ("<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", "<image>", "TILE_GLOBAL")
    tiles = [f"TILE_{i}" for i in range(1, 4)]
    end, bos = "<|END_OF_TURN_TOKEN|>", "<BOS_TOKEN>"
    tokenizer = _tokenizer(AYA_TEMPLATE, end, "<PAD>", bos, *turns, "<|END_RESPONSE|>", *marks, *tiles)
    config = AyaVisionConfig(
        text_config=Cohere2Config(**_options(tokenizer), **WINDOWS, logit_scale=0.25),
        vision_config=SiglipVisionConfig(**TOWER, vision_use_head=False),
        image_token_index=tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>"),
        downsample_factor=2,
    )
    torch.manual_seed(0)
    processor = AyaVisionProcessor(
        GotOcr2ImageProcessor(size={"height": 28, "width": 28}, max_patches=3, crop_to_patches=True),
        tokenizer,
        patch_size=7,
        img_size=28,
        downsample_factor=2,
        chat_template=AYA_TEMPLATE,
    )
    return _finished(AyaVisionForConditionalGeneration(config), tokenizer), processor


def paligemma() -> tuple[Any, Any]:
    """PaliGemma: the whole prompt sees itself in both directions, positions begin at 1, and a template of our own.

    Its processor adds the names of 1,152 places and shapes to the vocabulary, and takes no text without a picture.
    """
    tokenizer = _tokenizer(PALIGEMMA_TEMPLATE, "<eos>", "<pad>", "<bos>", image_token="<image>")
    images = SiglipImageProcessor(size={"height": 28, "width": 28}, image_seq_length=4)
    processor = PaliGemmaProcessor(images, tokenizer, chat_template=PALIGEMMA_TEMPLATE)
    config = PaliGemmaConfig(
        text_config=GemmaConfig(**_options(tokenizer), head_dim=16),
        vision_config=SiglipVisionConfig(**{**TOWER, "patch_size": 14}, vision_use_head=False),
        image_token_index=tokenizer.image_token_id,
        projection_dim=32,
        hidden_size=32,
        vocab_size=len(tokenizer) + 3,
    )
    torch.manual_seed(0)
    return _finished(PaliGemmaForConditionalGeneration(config), tokenizer), processor
