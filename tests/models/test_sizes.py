"""Sizes of models: counted without weights, looked up for known names, equal to what a loaded model has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_families import text_only
from transformers import CONFIG_MAPPING

from sharegrpo_rl.config.run import TinyModelOptions
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.models.loading import parameter_table
from sharegrpo_rl.models.sizes import KNOWN, ModelSizes, known_sizes, measure, model_sizes
from sharegrpo_rl.planning.memory import kv_bytes

PUBLISHED = {  # parameters as the model cards and papers round them
    "Qwen/Qwen2.5-VL-3B-Instruct": 3.75e9,
    "Qwen/Qwen2.5-VL-7B-Instruct": 8.29e9,
    "Qwen/Qwen2.5-VL-32B-Instruct": 33.45e9,
    "Qwen/Qwen2.5-VL-72B-Instruct": 73.41e9,
    "Qwen/Qwen2-VL-2B-Instruct": 2.21e9,
    "Qwen/Qwen2-VL-7B-Instruct": 8.29e9,
    "Qwen/Qwen3-VL-2B-Instruct": 2.13e9,
    "Qwen/Qwen3-VL-4B-Instruct": 4.44e9,
    "Qwen/Qwen3-VL-8B-Instruct": 8.77e9,
    "Qwen/Qwen3.5-9B": 9.41e9,  # without the layer that predicts several tokens, which transformers does not load
    "HuggingFaceTB/SmolLM2-135M-Instruct": 134.5e6,
}


def config_of(sizes: ModelSizes) -> Any:
    """The transformers config with these sizes."""
    from transformers import AutoConfig

    text = {
        "vocab_size": sizes.vocabulary,
        "hidden_size": sizes.text.hidden,
        "intermediate_size": sizes.text.intermediate,
        "num_hidden_layers": sizes.text.layers,
        "num_attention_heads": sizes.text.heads,
        "num_key_value_heads": sizes.text.kv_heads,
        "head_dim": sizes.text.head_dim,
        "tie_word_embeddings": sizes.tied,
    }
    if sizes.vision is None:
        return AutoConfig.for_model(sizes.family, **text)
    stack = sizes.vision.stack
    vision: dict[str, Any] = {
        "depth": stack.layers,
        "num_heads": stack.heads,
        "hidden_size": stack.hidden,
        "intermediate_size": stack.intermediate,
        "out_hidden_size": sizes.text.hidden,
        "patch_size": sizes.vision.patch,
    }
    if sizes.family == "qwen2_vl":
        del vision["intermediate_size"], vision["out_hidden_size"]
        vision |= {"embed_dim": stack.hidden, "hidden_size": sizes.text.hidden, "mlp_ratio": 4}
    if sizes.family == "qwen3_vl":
        vision["deepstack_visual_indexes"] = [5, 11, 17] if stack.layers == 24 else [8, 16, 24]
    return AutoConfig.for_model(sizes.family, text_config=text, vision_config=vision, tie_word_embeddings=sizes.tied)


@pytest.mark.parametrize("name", KNOWN)
def test_known_models_are_as_large_as_their_outline(name: str) -> None:
    sizes = KNOWN[name]
    assert measure(config_of(sizes)) == sizes
    assert sizes.total == pytest.approx(PUBLISHED[name], rel=2e-3)


def test_a_hybrid_keeps_keys_in_one_layer_of_four() -> None:
    """Qwen3.5's outline is the default of transformers' config; a token's keys and values in bfloat16."""
    config = CONFIG_MAPPING["qwen3_5"]()
    config.vision_config.out_hidden_size = config.text_config.hidden_size
    sizes = measure(config)
    assert sizes == KNOWN["Qwen/Qwen3.5-9B"]
    assert kv_bytes(sizes, 2) == 2 * (32 // 4) * 4 * 256 * 2
    assert kv_bytes(KNOWN["Qwen/Qwen3-VL-8B-Instruct"], 2) == 2 * 36 * 8 * 128 * 2


@pytest.mark.parametrize(("family", "attending"), [("falcon_h1", 2), ("lfm2", 1), ("gemma3", 2), ("llama", 2)])
def test_layers_that_keep_keys_are_counted(family: str, attending: int) -> None:
    """Falcon-H1's layers attend beside their state."""
    assert measure(text_only(family)[0].config).text.attending == attending


def test_a_loaded_model_has_as_many_parameters(make_policy: Callable[..., Any]) -> None:
    model = make_policy().model
    sizes = measure(model.config)
    assert sizes.parameters == {part: count for part, count, _ in parameter_table(model)}
    assert sizes.layer == sum(p.numel() for p in model.model.language_model.layers[0].parameters())
    assert sizes.embedding == model.get_input_embeddings().weight.numel()


def test_a_path_that_ends_in_a_known_name_is_that_model() -> None:
    assert known_sizes("models/SmolLM2-135M-Instruct") is KNOWN["HuggingFaceTB/SmolLM2-135M-Instruct"]
    assert known_sizes("tiny") is None


def test_tiny_and_folders_are_measured(make_policy: Callable[..., Any], tmp_path: Path) -> None:
    model = make_policy().model
    model.config.save_pretrained(tmp_path)
    assert model_sizes(str(tmp_path), TinyModelOptions()) == measure(model.config)
    tiny = TinyModelOptions(hidden_size=32, num_layers=2, num_heads=2, num_kv_heads=1, vision_layers=1)
    sizes = model_sizes("tiny", tiny)
    assert (sizes.text.layers, sizes.text.hidden, sizes.text.kv_heads, sizes.tied) == (2, 32, 1, True)


def test_an_unknown_model_is_a_user_s_error() -> None:
    with pytest.raises(UserError, match=r"model: the sizes of 'nobody/nothing' are not known here"):
        model_sizes("nobody/nothing", TinyModelOptions())


# Layers, their width, head size, MLP as a token uses it, patches a side of an image token; None without a tower.
FAMILIES: dict[str, tuple[tuple[int, int, int, int], int | None]] = {
    "gemma4": ((30, 2304, 256, 9216), None),
    "glm4v": ((40, 4096, 128, 13696), 2),
    "internvl": ((32, 4096, 128, 22016), 2),
    "kimi_k25": ((61, 7168, 64, 8 * 2048), 1),
    "lfm2_vl": ((32, 2560, 80, 12288), 2),
    "mistral3": ((40, 5120, 128, 32768), 2),
    "qwen3_5": ((32, 4096, 256, 12288), 2),
    "qwen3_5_moe": ((40, 2048, 256, 8 * 512 + 512), 2),
    "qwen3_vl_moe": ((24, 2048, 128, 4 * 1408), 2),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_are_measured(family: str) -> None:
    sizes = measure(CONFIG_MAPPING[family]())
    text, merge = FAMILIES[family]
    assert (sizes.text.layers, sizes.text.hidden, sizes.text.head_dim, sizes.text.intermediate) == text
    assert sizes.text.gated
    assert (sizes.vision and sizes.vision.merge) == merge
    assert sizes.total == sum(sizes.parameters.values()) > 1e9


def test_a_token_runs_through_its_experts_only() -> None:
    sizes = measure(CONFIG_MAPPING["qwen3_moe"](num_experts=16, num_experts_per_tok=4, num_hidden_layers=2))
    expert = 3 * sizes.text.hidden * 768
    assert sizes.idle == 12 * expert
    assert sizes.active_layer == sizes.layer - 12 * expert
    assert measure(CONFIG_MAPPING["qwen3"](num_hidden_layers=2)).idle == 0


def test_a_config_with_other_fields_is_a_user_s_error() -> None:
    config = CONFIG_MAPPING["llama"](num_hidden_layers=1)
    read = config.to_dict
    config.to_dict = lambda: {k: v for k, v in read().items() if k != "intermediate_size"}
    with pytest.raises(
        UserError, match="model: the config of llama has no intermediate_size; its sizes cannot be told"
    ):
        measure(config)
