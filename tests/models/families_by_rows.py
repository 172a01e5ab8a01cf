"""More small models, of families in no list of tested ones, each with a chat template in its family's shape."""

from typing import Any

import torch
from small_families import LINEAR, TEXT, TOWER, _finished, _text_options, _tokens, skip_where_its_own_forward_fails
from transformers import (
    Cohere2Config,
    Cohere2ForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    DeepseekVLConfig,
    DeepseekVLForConditionalGeneration,
    DeepseekVLImageProcessor,
    DeepseekVLProcessor,
    Ernie4_5Config,
    Ernie4_5ForCausalLM,
    GemmaConfig,
    GemmaForCausalLM,
    Glm4Config,
    Glm4ForCausalLM,
    Glm4MoeLiteConfig,
    Glm4MoeLiteForCausalLM,
    Lfm2VlConfig,
    Lfm2VlForConditionalGeneration,
    Lfm2VlImageProcessor,
    Lfm2VlProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    MiniCPMV4_6Config,
    MiniCPMV4_6ForConditionalGeneration,
    MiniCPMV4_6ImageProcessor,
    MiniCPMV4_6Processor,
    MiniCPMV4_6VideoProcessor,
    MixtralConfig,
    MixtralForCausalLM,
    MllamaConfig,
    MllamaForConditionalGeneration,
    MllamaImageProcessor,
    MllamaProcessor,
    Olmo2Config,
    Olmo2ForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
)

SIGLIP = {**TOWER, "model_type": "siglip_vision_model", "vision_use_head": False}
_NO_SYSTEM = "{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"


def _parts(picture: str, before: str = "") -> str:
    """A message's content, a string or parts; `picture`: what stands for one; `before`: what each text follows."""
    before = "{{ " + repr(before) + " }}" if before else ""  # in plain text, a line end after a block would be lost
    return (
        "{% if m.content is string %}" + before + "{{ m.content }}{% else %}{% for part in m.content %}"
        "{% if part.type == 'image' %}" + picture + "{% else %}" + before + "{{ part.text }}{% endif %}"
        "{% endfor %}{% endif %}"
    )


def _chat(turn: str, opening: str, start: str = "") -> str:
    """A chat template: `start`, the `turn` of each message `m`, and the assistant's `opening`."""
    loop = "{% for m in messages %}" + turn + "{% endfor %}"
    return start + loop + "{% if add_generation_prompt %}" + opening + "{% endif %}"


def _marked(template: str, *marks: str, end: str, bos: str | None = None, **named: str) -> Any:
    """A tokenizer with a family's template and marks; `named`: tokens that it keeps under a name (`image_token`)."""
    tokenizer = _tokens(*dict.fromkeys([*marks, *named.values(), *([bos] if bos else []), end]))
    tokenizer.chat_template = template
    tokenizer.eos_token = end
    if bos is not None:
        tokenizer.bos_token = bos
    if named:
        tokenizer._set_model_specific_special_tokens(named)  # saved with it
    return tokenizer


def llava_onevision() -> tuple[Any, Any]:
    """LLaVA-OneVision: a SigLIP tower; a picture alone is also cut into tiles, several of a prompt are not."""
    turn = "<|im_start|>{{ m.role }} " + _parts("<image>", "\n") + "<|im_end|>"
    tokenizer = _marked(_chat(turn, "<|im_start|>assistant\n"), "<image>", "<video>", end="<|im_end|>")
    grid = [[28, 28], [28, 56], [56, 28], [56, 56]]
    config = LlavaOnevisionConfig(
        vision_config=dict(SIGLIP),
        text_config={"model_type": "qwen2", **_text_options(tokenizer)},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=grid,
    )
    torch.manual_seed(0)
    processor = LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(size={"height": 28, "width": 28}, image_grid_pinpoints=grid),
        tokenizer,
        LlavaOnevisionVideoProcessor(size={"height": 28, "width": 28}),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=tokenizer.chat_template,
    )
    return _finished(LlavaOnevisionForConditionalGeneration(config), tokenizer), processor


def deepseek_vl() -> tuple[Any, Any]:
    """DeepSeek-VL: every picture resized and padded to one square, 16 tokens; turns are marked in words."""
    turn = (
        "{% if m.role == 'system' %}" + _parts("") + "{{ '\n\n' }}{% else %}{{ m.role | capitalize }}: "
        "" + _parts("<image_placeholder>") + "{{ '\n\n' if m.role == 'user' else eos_token }}{% endif %}"
    )
    tokenizer = _marked(
        _chat(turn, "Assistant:", "{{ bos_token }}"),
        end="<｜end▁of▁sentence｜>",
        bos="<｜begin▁of▁sentence｜>",
        image_token="<image_placeholder>",
    )
    config = DeepseekVLConfig(
        vision_config=dict(SIGLIP),
        text_config={"model_type": "llama", **_text_options(tokenizer)},
        image_token_id=tokenizer.convert_tokens_to_ids("<image_placeholder>"),
    )
    torch.manual_seed(0)
    processor = DeepseekVLProcessor(
        DeepseekVLImageProcessor(size={"height": 28, "width": 28}, min_size=7),
        tokenizer,
        chat_template=tokenizer.chat_template,
        num_image_tokens=16,
    )
    return _finished(DeepseekVLForConditionalGeneration(config), tokenizer), processor


def mllama(cross: int = 1) -> tuple[Any, Any]:
    """Llama 3.2 Vision: cross attention to pictures in layer `cross`; their mark's id is above the head's rows."""
    turn = "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n" + _parts("<|image|>") + "<|eot_id|>"
    opening = "<|start_header_id|>assistant<|end_header_id|>\n\n"
    marks = ("<|start_header_id|>", "<|end_header_id|>", "<|python_tag|>", "<|begin_of_text|>", "<|eot_id|>")
    template = _chat(turn, opening, "{{ bos_token }}")
    tokenizer = _marked(template, *marks, "<|image|>", end="<|eot_id|>", bos="<|begin_of_text|>")
    ids = tokenizer.convert_tokens_to_ids
    text = {
        **_text_options(tokenizer),
        "vocab_size": ids("<|image|>"),  # the last one
        "bos_token_id": ids("<|begin_of_text|>"),
        "num_hidden_layers": cross + 1,
        "cross_attention_layers": [cross],
    }
    vision = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_global_layers": 1,
        "attention_heads": 2, "image_size": 28, "patch_size": 7, "vision_output_dim": 64,
        "intermediate_layers_indices": [0], "initializer_range": 0.2,
    }  # fmt: skip
    torch.manual_seed(0)
    model = MllamaForConditionalGeneration(
        MllamaConfig(vision_config=vision, text_config=text, image_token_index=ids("<|image|>"))
    )
    for name, weight in model.named_parameters():
        if name.endswith("gate"):  # closed in a fresh model: pictures would change nothing
            torch.nn.init.ones_(weight)
    processor = MllamaProcessor(
        MllamaImageProcessor(size={"height": 28, "width": 28}, max_image_tiles=4),
        tokenizer,
        chat_template=tokenizer.chat_template,
    )
    return _finished(model, tokenizer), processor


def lfm2_vl() -> tuple[Any, Any]:
    """LFM2-VL: tiles of 28 x 28 pixels and a small whole, 4 tokens each; a short convolution before attention."""
    turn = "<|im_start|>{{ m.role }}\n" + _parts("<image>") + "<|im_end|>\n"
    template = _chat(turn, "<|im_start|>assistant\n", "{{ bos_token }}")
    places = [f"<|img_row_{i}_col_{j}|>" for i in range(1, 5) for j in range(1, 5)]
    marks = ("<image>", "<|image_start|>", "<|image_end|>", "<|img_thumbnail|>", *places)
    tokenizer = _marked(template, *marks, end="<|im_end|>", bos="<|startoftext|>")
    text = {**_text_options(tokenizer), "bos_token_id": tokenizer.bos_token_id}
    config = Lfm2VlConfig(
        vision_config={
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
            "patch_size": 7, "num_patches": 16, "vision_use_head": False, "initializer_range": 0.2,
        },
        text_config={"model_type": "lfm2", **text, "layer_types": ["conv", "full_attention"]},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        projector_hidden_size=64,
    )  # fmt: skip
    torch.manual_seed(0)
    processor = Lfm2VlProcessor(
        Lfm2VlImageProcessor(
            encoder_patch_size=7,
            tile_size=28,
            min_image_tokens=1,
            max_image_tokens=4,
            max_tiles=4,
            max_pixels_tolerance=1.0,
        ),
        tokenizer,
        chat_template=tokenizer.chat_template,
    )
    return _finished(Lfm2VlForConditionalGeneration(config), tokenizer), processor


def minicpmv4_6() -> tuple[Any, Any]:
    """MiniCPM-V 4.6: patches of all pictures and slices in one long row, 4 x 4 a token; a thought is opened."""
    skip_where_its_own_forward_fails("5.16", "5.19")  # slices of its resampler have the wrong shape
    turn = "<|im_start|>{{ m.role }}\n" + _parts("<|image_pad|>") + "<|im_end|>\n"
    thought = "<think>\n{% if enable_thinking is defined and not enable_thinking %}{{ '\n</think>\n\n' }}{% endif %}"
    named = {
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "image_start_token": "<image>",
        "image_end_token": "</image>",
        "slice_start_token": "<slice>",
        "slice_end_token": "</slice>",
        "image_id_start_token": "<image_id>",
        "image_id_end_token": "</image_id>",
    }
    tokenizer = _marked(_chat(turn, "<|im_start|>assistant\n" + thought), end="<|im_end|>", **named)
    rope = {
        "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2], "mrope_interleaved": True,
        "partial_rotary_factor": 1.0,
    }  # fmt: skip
    config = MiniCPMV4_6Config(
        text_config={"model_type": "qwen3_5_text", **_text_options(tokenizer), **LINEAR, "rope_parameters": rope},
        vision_config={**TOWER, "image_size": 56},
        insert_layer_id=0,
        image_size=56,
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
    )
    torch.manual_seed(0)
    processor = MiniCPMV4_6Processor(
        image_processor=MiniCPMV4_6ImageProcessor(scale_resolution=56, patch_size=7, max_slice_nums=4),
        tokenizer=tokenizer,
        video_processor=MiniCPMV4_6VideoProcessor(scale_resolution=56, patch_size=7),
        chat_template=tokenizer.chat_template,
    )
    return _finished(MiniCPMV4_6ForConditionalGeneration(config), tokenizer), processor


def _mixtral(end: str) -> Any:
    turn = (
        "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% elif m.role == 'assistant' %}"
        "{{ m.content + eos_token }}{% else %}{{ raise_exception('no system role') }}{% endif %}"
    )
    return _marked(_chat(turn, "", "{{ bos_token }}"), end=end, bos="<s>")


def _ernie(end: str) -> Any:
    turn = (
        "{% if m.role == 'system' %}{{ m.content }}\n{% elif m.role == 'user' %}User: {{ m.content }}\n{% else %}"
        "Assistant: {{ m.content }}<|end_of_sentence|>{% endif %}"
    )
    template = _chat(turn, "Assistant: ", "<|begin_of_sentence|>")
    return _marked(template, "<|begin_of_sentence|>", "<|end_of_sentence|>", end=end, bos="<s>")


def _deepseek_v3(end: str) -> Any:
    user, assistant = "<｜User｜>", "<｜Assistant｜>"
    turn = (
        "{{ {'user': '" + user + "', 'assistant': '" + assistant + "'}.get(m.role, '') + m.content }}"
        "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}"
    )
    template = _chat(turn, assistant, "{{ bos_token }}")
    return _marked(template, user, assistant, end=end, bos="<｜begin▁of▁sentence｜>")


def _cohere(end: str) -> Any:
    start, roles = "<|START_OF_TURN_TOKEN|>", ("<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>")
    names = dict(zip(("system", "user", "assistant"), roles, strict=True))
    turn = start + "{{ " + repr(names) + "[m.role] + m.content }}" + end
    return _marked(_chat(turn, start + roles[2], "{{ bos_token }}"), start, *roles, end=end, bos="<BOS_TOKEN>")


def _headed(*marks: str, end: str, closing: str = "", bos: str | None = None, start: str = "") -> Any:
    """Turns that begin with a mark of the role in a line of its own: OLMo 2, Phi-3, GLM-4."""
    turn = "<|{{ m.role }}|>\n{{ m.content }}" + closing
    roles = ("<|system|>", "<|user|>", "<|assistant|>")
    return _marked(_chat(turn, "<|assistant|>\n", start), *roles, *marks, end=end, bos=bos)


def _gemma(end: str) -> Any:
    turn = (
        _NO_SYSTEM + "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content }}<end_of_turn>\n"
    )
    template = _chat(turn, "<start_of_turn>model\n", "{{ bos_token }}")
    return _marked(template, "<start_of_turn>", "<end_of_turn>", end=end, bos="<bos>")


LATENT = {
    "first_k_dense_replace": 1, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1,
    "moe_intermediate_size": 16, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16,
    "v_head_dim": 16, "num_key_value_heads": TEXT["num_attention_heads"],
}  # fmt: skip


def more_text_only(family: str, **options: Any) -> tuple[Any, Any]:
    """A causal language model with its tokenizer; `family`: one of these; `options`: of its config."""
    config, kind, tokenizer, more = {
        "mixtral": (MixtralConfig, MixtralForCausalLM, lambda: _mixtral("</s>"), {"num_local_experts": 4}),
        "olmo2": (
            Olmo2Config,
            Olmo2ForCausalLM,
            lambda: _headed(end="<|endoftext|>", bos="<|endoftext|>", closing="\n", start="{{ bos_token }}"),
            {},
        ),
        "phi3": (
            Phi3Config,
            Phi3ForCausalLM,
            lambda: _headed(end="<|end|>", closing="<|end|>\n"),
            {"sliding_window": 16},
        ),
        "glm4": (
            Glm4Config,
            Glm4ForCausalLM,
            lambda: _headed("[gMASK]", "<sop>", end="<|user|>", start="[gMASK]<sop>"),
            {"head_dim": 16},
        ),
        "glm4_moe_lite": (  # its cache holds what keys and values, of equal width, are made of
            Glm4MoeLiteConfig,
            Glm4MoeLiteForCausalLM,
            lambda: _headed("[gMASK]", "<sop>", end="<|user|>", start="[gMASK]<sop>"),
            {**LATENT, "v_head_dim": 24, "mlp_layer_types": ["dense", "sparse"]},
        ),
        "gemma": (GemmaConfig, GemmaForCausalLM, lambda: _gemma("<end_of_turn>"), {"head_dim": 16}),
        "cohere2": (
            Cohere2Config,
            Cohere2ForCausalLM,
            lambda: _cohere("<|END_OF_TURN_TOKEN|>"),
            {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]},
        ),
        "ernie4_5": (Ernie4_5Config, Ernie4_5ForCausalLM, lambda: _ernie("</s>"), {"head_dim": 16}),
        "deepseek_v3": (
            DeepseekV3Config,
            DeepseekV3ForCausalLM,
            lambda: _deepseek_v3("<｜end▁of▁sentence｜>"),
            LATENT,
        ),
    }[family]
    made = tokenizer()
    torch.manual_seed(0)
    options = {**_text_options(made), "bos_token_id": made.bos_token_id, **more, **options}
    return _finished(kind(config(**options)), made), made
