"""The model that both sides load: a random Qwen2.5-VL of 8.1 million parameters, or a Qwen3.5 of that size, built once."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from sharegrpo_rl.files import cache_folder
from sharegrpo_rl.models.loading import ModelSettings, load_policy
from sharegrpo_rl.models.policy import Policy
from sharegrpo_rl.models.prompts import PromptSettings
from sharegrpo_rl.models.tiny import CHAT_TEMPLATE, build_tokenizer

VERSION = "1"  # a new number where anything below changes
CORPUS = ("How many red squares are there? <think> count the red squares </think> <answer> 42 </answer> A B C D",)
LIMITS = PromptSettings(max_prompt_tokens=8192, min_pixels=784, max_pixels=1_003_520)


def checkpoint(vocabulary: int = 0, small: bool = False, hybrid: bool = False) -> Path:
    """Folder of the checkpoint. vocabulary: rows of embedding and head (0: as many as the tokenizer has, rounded up);
    hybrid: Qwen3.5, whose layers but every third are of linear attention."""
    name = f"{VERSION}-{'hybrid-' if hybrid else ''}{'small' if small else '8m'}-{vocabulary or 'own'}"
    folder = cache_folder("benchmarks") / name
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(dir=folder.parent))
        _write(unfinished, vocabulary, small, hybrid)
        try:
            unfinished.rename(folder)
        except OSError:  # another run has been faster
            shutil.rmtree(unfinished)
    return folder


def our_policy(folder: Path, banned: bool = False) -> Policy:
    """The checkpoint as a Policy. Without bans its distribution is the plain softmax, which is what TRL trains."""
    policy = load_policy(ModelSettings(path=str(folder), prompts=LIMITS))
    if not banned:
        policy.banned = torch.empty(0, dtype=torch.long)
    return policy


def plain_model(folder: Path) -> Any:
    """The checkpoint as transformers loads it, nothing of ours in it."""
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(str(folder), dtype=torch.float32).train()


def _write(folder: Path, vocabulary: int, small: bool, hybrid: bool) -> None:
    from transformers import Qwen2_5_VLForConditionalGeneration, Qwen3_5ForConditionalGeneration

    tokenizer = build_tokenizer(CORPUS * 20, 600)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = _config(tokenizer, vocabulary, small, hybrid)
        model = (Qwen3_5ForConditionalGeneration if hybrid else Qwen2_5_VLForConditionalGeneration)(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    processor_of(tokenizer).save_pretrained(folder)


def processor_of(tokenizer: Any) -> Any:
    """A Qwen2.5-VL processor around a tokenizer."""
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    size = {"shortest_edge": LIMITS.min_pixels, "longest_edge": LIMITS.max_pixels}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=CHAT_TEMPLATE,
    )


def _config(tokenizer: Any, vocabulary: int, small: bool, hybrid: bool) -> Any:
    from transformers import Qwen2_5_VLConfig, Qwen3_5Config

    width, layers, heads = (64, 2, 2) if small else (256, 6, 8)
    vision_width, vision_layers = (32, 2) if small else (192, 6)
    text = {
        "vocab_size": vocabulary or (len(tokenizer) + 63) // 64 * 64,
        "hidden_size": width,
        "intermediate_size": width * 11 // 4,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 4 or 1,
        "max_position_embeddings": 8192,
        "rope_parameters": {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 1e6},
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": False,
    }
    vision = {
        "depth": vision_layers,
        "hidden_size": vision_width,
        "intermediate_size": vision_width * 8 // 3,
        "num_heads": vision_width // 48 or 1,
        "out_hidden_size": width,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": [i for i in range(vision_layers) if i % 3 == 2] or [vision_layers - 1],
    }
    if hybrid:
        text |= {
            "head_dim": width // heads,
            "layer_types": [
                "full_attention" if i % 3 == 2 or i == layers - 1 else "linear_attention" for i in range(layers)
            ],
            "linear_num_key_heads": heads // 2 or 1,
            "linear_num_value_heads": heads,
            "linear_key_head_dim": width // heads,
            "linear_value_head_dim": width // heads,
        }
        text["rope_parameters"] |= {"mrope_interleaved": True, "partial_rotary_factor": 1.0}
        for key in ("window_size", "fullatt_block_indexes"):
            del vision[key]
        vision["num_position_embeddings"] = 1024
    token = tokenizer.convert_tokens_to_ids
    return (Qwen3_5Config if hybrid else Qwen2_5_VLConfig)(
        text_config=text,
        vision_config=vision,
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=False,
    )
