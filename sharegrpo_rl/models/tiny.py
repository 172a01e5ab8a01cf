"""A Qwen2.5-VL of a few hundred thousand parameters, built without hub or network, with its own tokenizer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import torch

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
PIXELS = (3136, 1_003_520)  # fewest and most of a picture, where nothing else is asked for
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class TinySizes(Protocol):
    """Sizes of the tiny model: the options of `config.model_config`."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    vision_layers: int
    patch_size: int
    vocab_size: int
    max_positions: int


def build_tokenizer(corpus: Iterable[str], vocab_size: int) -> Any:
    """A byte-level BPE tokenizer trained on `corpus`; it can encode any text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(corpus, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        padding_side="left",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_tiny(
    sizes: TinySizes, corpus: Iterable[str], seed: int, min_pixels: int | None, max_pixels: int | None
) -> tuple[Any, Any]:
    """A fresh model and its processor; the same arguments give the same weights and the same tokenizer.

    min_pixels, max_pixels: limits of its pictures; None: `PIXELS`.
    """
    from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor, Qwen2VLImageProcessor
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    tokenizer = build_tokenizer(corpus, sizes.vocab_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(tiny_config(sizes, tokenizer))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    image_processor = Qwen2VLImageProcessor(
        patch_size=sizes.patch_size,
        size={"shortest_edge": min_pixels or PIXELS[0], "longest_edge": max_pixels or PIXELS[1]},
    )
    processor = Qwen2_5_VLProcessor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(patch_size=sizes.patch_size),
        chat_template=CHAT_TEMPLATE,
    )
    return model, processor


def tiny_config(sizes: TinySizes, tokenizer: Any) -> Any:
    """The transformers config; the tokenizer gives it the vocabulary's length and the ids of special tokens."""
    from transformers import Qwen2_5_VLConfig

    token = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL_TOKENS}
    half = sizes.hidden_size // sizes.num_heads // 2
    text = {
        "vocab_size": (len(tokenizer) + 63) // 64 * 64,
        "hidden_size": sizes.hidden_size,
        "intermediate_size": 3 * sizes.hidden_size,
        "num_hidden_layers": sizes.num_layers,
        "num_attention_heads": sizes.num_heads,
        "num_key_value_heads": sizes.num_kv_heads,
        "max_position_embeddings": sizes.max_positions,
        "rope_theta": 10000.0,
        "rope_scaling": {
            "type": "mrope",
            "rope_type": "default",
            "mrope_section": [half - 2 * (half // 3), half // 3, half // 3],
        },
        "tie_word_embeddings": True,
        "initializer_range": sizes.hidden_size
        ** -0.5,  # with the usual 0.02 a narrow vision tower learns nothing for long
        "bos_token_id": None,
        "eos_token_id": token["<|im_end|>"],
        "pad_token_id": token["<|endoftext|>"],
    }
    vision = {
        "depth": sizes.vision_layers,
        "hidden_size": sizes.hidden_size,
        "intermediate_size": 2 * sizes.hidden_size,
        "num_heads": sizes.num_heads,
        "out_hidden_size": sizes.hidden_size,
        "patch_size": sizes.patch_size,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 8 * sizes.patch_size,
        "fullatt_block_indexes": list(range(sizes.vision_layers)),
        "tokens_per_second": 2,
        "initializer_range": sizes.hidden_size**-0.5,
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=token["<|image_pad|>"],
        video_token_id=token["<|video_pad|>"],
        vision_start_token_id=token["<|vision_start|>"],
        vision_end_token_id=token["<|vision_end|>"],
        tie_word_embeddings=True,
    )
