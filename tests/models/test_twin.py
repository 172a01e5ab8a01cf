"""A small twin says of a large model, by its config and processor alone, what the model would say when it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families_by_rows import deepseek_vl, lfm2_vl, llava_onevision, minicpmv4_6, more_text_only
from families_with_windows import gemma3, gemma4, paligemma
from small_families import internvl, llava, llava_next, mistral3, qwen2_vl, qwen3_5, qwen3_vl, text_only
from transformers import CONFIG_MAPPING, LlamaForCausalLM

from sharegrpo_rl.config.run import TinyModelOptions
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.models.policy import Policy
from sharegrpo_rl.models.sizes import tried_sizes
from sharegrpo_rl.models.twin import LARGEST, twin_policy

# What a processor and a tower must agree on; all else is as large as the class's own config.
_GEOMETRY = {
    *("patch_size", "image_size", "spatial_merge_size", "temporal_patch_size", "in_channels", "scale_factor"),
    *("downsample_ratio", "downsample_factor", "mm_tokens_per_image", "image_grid_pinpoints", "image_seq_length"),
    *("vision_feature_layer", "vision_feature_select_strategy", "vocab_size"),
}
Built = tuple[Any, Any]


def large_outline(small: Any) -> Any:
    """A model as large as its class's config has it, on the meta device, that goes with a small model's processor."""

    def fill(large: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
        for key, value in own.items():
            if isinstance(value, dict) and isinstance(large.get(key), dict):
                fill(large[key], value)
            elif str(key) in _GEOMETRY or str(key).endswith(("_token_id", "_token_index")):
                large[key] = value
        return large

    config = type(small.config)
    values = fill(config().to_dict(), small.config.to_dict())
    tower, text = values.get("vision_config") or {}, values.get("text_config") or values
    if small.config.model_type == "qwen2_vl":
        tower["hidden_size"] = text["hidden_size"]
    elif "out_hidden_size" in tower:
        tower["out_hidden_size"] = text["hidden_size"]
    with torch.device("meta"):
        return type(small)(config.from_dict(values))


def parameters(model: Any) -> int:
    return sum(p.numel() for p in model.parameters())


LARGE: dict[str, tuple[Callable[[], Built], bool, bool]] = {  # shares prompts; rows one at a time
    "qwen2_vl": (qwen2_vl, True, False),
    "qwen3_vl": (qwen3_vl, True, False),
    "qwen3_vl_moe": (lambda: qwen3_vl(experts=True), True, False),
    "qwen3_5": (qwen3_5, True, False),
    "qwen3_5_moe": (lambda: qwen3_5(experts=True), True, False),
    "gemma3": (gemma3, True, False),
    "internvl": (internvl, True, False),
    "mistral3": (mistral3, True, False),
    "llava": (llava, True, False),
    "llava_next": (llava_next, True, False),
    "llava_onevision": (llava_onevision, True, False),
    "deepseek_vl": (deepseek_vl, True, False),
    "lfm2_vl": (lfm2_vl, True, False),
    "minicpmv4_6": (minicpmv4_6, False, True),
    "mixtral": (lambda: more_text_only("mixtral"), True, False),
    "deepseek_v3": (lambda: more_text_only("deepseek_v3"), False, False),
    "glm4_moe_lite": (lambda: more_text_only("glm4_moe_lite"), False, False),
    "lfm2": (lambda: text_only("lfm2"), True, False),
    "gemma2": (lambda: text_only("gemma2"), False, False),
}


_SLOW = (
    "qwen2_vl",
    "qwen3_vl",
    "qwen3_vl_moe",
    "qwen3_5_moe",
    "llava_next",
    "llava_onevision",
    "internvl",
    "deepseek_vl",
)


@pytest.mark.parametrize("family", [pytest.param(f, marks=[pytest.mark.slow] * (f in _SLOW)) for f in LARGE])
def test_a_large_model_s_twin_is_small_and_decides(family: str) -> None:
    build, shares, alone = LARGE[family]
    small, processor = build()
    outline = large_outline(small)
    policy = twin_policy(outline, processor)
    assert policy is not None
    assert (policy.shares_prefix, policy.rows_alone) == (shares, alone)
    assert type(policy.model) is type(outline)
    assert parameters(policy.model) <= LARGEST < 2 * parameters(outline)


def test_layers_that_share_keys_all_stay() -> None:
    model, processor = gemma4(small=True)
    policy = twin_policy(model, processor)
    assert policy is not None
    assert policy.shares_prefix
    assert policy.model.config.text_config.num_hidden_layers == model.config.text_config.num_hidden_layers


def test_a_large_model_that_training_refuses_is_refused() -> None:
    small, processor = paligemma()
    with pytest.raises(UserError, match=r"the trainer does not compute what paligemma does itself: its log-probs are"):
        twin_policy(large_outline(small), processor)


class LooksBack(LlamaForCausalLM):
    """Each token takes a share of the one before it in the row, as convolutions and recurrences do."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.model.embed_tokens.register_forward_hook(lambda m, args, out: out + 0.5 * torch.roll(out, 1, 1))


def test_what_a_class_does_beside_its_config_shows_in_the_twin() -> None:
    small, tokenizer = text_only("llama")
    with pytest.raises(UserError, match=r"does not compute what llama does itself: its log-probs are .* apart"):
        twin_policy(large_outline(LooksBack(small.config)), tokenizer)


class Untouchable(LlamaForCausalLM):
    """Its sizes follow from one another in a way that no rule could guess."""

    def __init__(self, config: Any) -> None:
        if (config.hidden_size, config.num_hidden_layers) != (4096, 32):
            raise ValueError("hidden_size is 4096, and there are 32 layers")
        super().__init__(config)


def test_without_a_twin_the_structure_decides() -> None:
    small, tokenizer = text_only("llama")
    outline = large_outline(small)
    with torch.device("meta"):
        assert twin_policy(Untouchable(outline.config), tokenizer) is None


def test_twins_are_reproducible_and_draw_from_no_one_else_s_numbers() -> None:
    outline, tokenizer = large_outline(text_only("llama")[0]), text_only("llama")[1]
    torch.manual_seed(5)
    first = twin_policy(outline, tokenizer)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))
    again = twin_policy(outline, tokenizer)
    assert isinstance(first, Policy)
    assert isinstance(again, Policy)
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), again.model.parameters(), strict=True))


@pytest.mark.parametrize(("family", "shares"), [("helium", True), ("glm4_moe_lite", False)])
def test_plan_counts_as_the_twin_does(family: str, shares: bool, tmp_path: Path) -> None:
    """Families in no list: one whose prompts can be shared, one whose cannot. With the config alone structure decides."""
    model, tokenizer = more_text_only("glm4_moe_lite")
    config = model.config
    if family == "helium":
        config = CONFIG_MAPPING[family](
            vocab_size=len(tokenizer),
            head_dim=128,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=0,
            bos_token_id=None,
        )
    config.save_pretrained(tmp_path)
    assert "not among those it is tested for" in (tried_sizes(str(tmp_path), TinyModelOptions()).obstacle or "")
    tokenizer.save_pretrained(tmp_path)
    obstacle = tried_sizes(str(tmp_path), TinyModelOptions()).obstacle
    assert (obstacle is None) == shares
