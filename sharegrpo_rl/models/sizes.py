"""How large a model is: layers, widths, parameters by part. Known models are looked up without torch, others counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharegrpo_rl.errors import UserError

if TYPE_CHECKING:
    from sharegrpo_rl.models.tiny import TinySizes

LANGUAGE, VISION, PROJECTOR = "language model", "vision tower", "projector"


@dataclass(frozen=True)
class LayerSizes:
    """One stack of transformer layers, all alike."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    gated: bool = True  # an MLP of three matrices, not of two
    head_norms: bool = False  # queries and keys are normalized head by head
    states: int = 0  # layers that keep a state of one size, or nothing, instead of keys and values

    @property
    def attending(self) -> int:
        """Layers that keep keys and values of every token."""
        return self.layers - self.states


@dataclass(frozen=True)
class VisionSizes:
    """The vision tower; `merge` x `merge` patches of `patch` x `patch` pixels become one token."""

    stack: LayerSizes
    patch: int
    merge: int


@dataclass(frozen=True)
class ModelSizes:
    """What memory and time follow from. Parts are those of `models/loading.py`: vision tower, projector, language model."""

    family: str
    text: LayerSizes
    vision: VisionSizes | None
    vocabulary: int
    tied: bool  # embeddings and output head are one matrix
    parameters: Mapping[str, int]  # of each part
    lora_width: Mapping[
        str, int
    ]  # of each part: inputs + outputs of its linear layers; x rank = an adapter's parameters
    obstacle: str | None = None  # why each completion runs its prompt again (`families.obstacle`)
    idle: int = 0  # parameters of a language layer that a token does not use: experts it is not sent to

    @property
    def total(self) -> int:
        return sum(self.parameters.values())

    @property
    def embedding(self) -> int:
        """Parameters of the embeddings, or of the output head."""
        return self.vocabulary * self.text.hidden

    @property
    def layer(self) -> int:
        """Parameters of one language layer."""
        ends = self.embedding * (1 if self.tied else 2) + self.text.hidden  # the final norm
        return (self.parameters[LANGUAGE] - ends) // self.text.layers

    @property
    def active_layer(self) -> int:
        """Parameters of one language layer that a token runs through."""
        return self.layer - self.idle


def known_sizes(model: str) -> ModelSizes | None:
    """Sizes of a known hub name (or a path that ends in it), without torch; None for any other model."""
    if (Path(model) / "config.json").is_file():
        return None
    return KNOWN.get(model) or next((s for name, s in KNOWN.items() if name.split("/")[-1] == Path(model).name), None)


def model_sizes(model: str, tiny: TinySizes) -> ModelSizes:
    """Sizes of `tiny`, of a folder, or of a hub name; UserError where its config file is not on this machine."""
    return known_sizes(model) or measure(_tiny_config(tiny) if model == "tiny" else read_config(model))


def tried_sizes(model: str, tiny: TinySizes) -> ModelSizes:
    """`model_sizes`, with what a small twin shows of a folder that holds its processor too.

    UserError where training would refuse the model.
    """
    sizes = model_sizes(model, tiny)
    if model == "tiny" or known_sizes(model) is not None:
        return sizes
    from transformers import AutoProcessor, AutoTokenizer

    from sharegrpo_rl.models.prompts import takes_pictures
    from sharegrpo_rl.models.twin import twin_policy

    config = read_config(model)
    try:
        side = AutoProcessor if takes_pictures(config) else AutoTokenizer
        processor = side.from_pretrained(model, local_files_only=True)
    except (ImportError, OSError, ValueError):
        return sizes  # the config alone: its structure says what can be told
    policy = twin_policy(outline_of(config), processor)
    return sizes if policy is None else replace(sizes, obstacle=policy.obstacle)


def measure(config: Any) -> ModelSizes:
    """The sizes of a transformers config; UserError where it has them in fields that are not known here."""
    import torch

    from sharegrpo_rl.models.families import obstacle
    from sharegrpo_rl.models.loading import Parts, parameter_table

    model, text = outline_of(config), config.get_text_config()
    parts = Parts(model)
    width: dict[str, int] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and not name.endswith("lm_head"):
            width[parts.of(name)] = width.get(parts.of(name), 0) + module.in_features + module.out_features
    names = [*(n for n, _ in model.named_modules()), *(n for n, _ in model.named_parameters())]
    last = {(parts.of(name), name.rpartition(".")[2]) for name in names}
    language, vision = ({name for part, name in last if part == wanted} for wanted in (LANGUAGE, VISION))
    counts = {part: count for part, count, _ in parameter_table(model)}
    heads, layers = _field(text, "num_attention_heads"), _field(text, "num_hidden_layers")
    active, experts = _experts(text)
    routed = sum(p.numel() for n, p in model.named_parameters() if ".experts." in n and parts.of(n) == LANGUAGE)
    stack = LayerSizes(
        layers,
        _field(text, "hidden_size"),
        heads,
        _field(text, "num_key_value_heads", default=heads),
        _field(text, "head_dim", default=0) or _field(text, "hidden_size") // heads,
        _field(text, "moe_intermediate_size", "intermediate_size") * active
        + _field(text, "shared_expert_intermediate_size", default=0)
        if routed and active
        else _field(text, "intermediate_size"),
        gated=not language.isdisjoint(_GATES),
        head_norms="q_norm" in language,
        states=sum(kind in _STATES for kind in getattr(text, "layer_types", None) or ()),
    )
    return ModelSizes(
        config.model_type,
        stack,
        _vision(config, gated=not vision.isdisjoint(_GATES)),
        text.vocab_size,
        model.get_output_embeddings().weight is model.get_input_embeddings().weight,
        counts,
        width,
        obstacle(model),
        idle=routed * (experts - active) // (experts * layers) if routed and active else 0,
    )


_STATES = (
    "linear_attention",
    "conv",
    "mamba",
    "mlp",
    "moe",
)  # types of layers without keys; a "hybrid" one has keys too
_GATES = ("gate_proj", "gate_up_proj", "w3")  # an MLP with one of these multiplies two products


def _field(config: Any, *names: str, default: int | None = None) -> int:
    """The first of these fields that a config has, as a whole number; of one that differs by layer, the common value."""
    values = config.to_dict()
    for name in names:
        value = values.get(name)
        value = getattr(config, name, None) if value is None and name in config.attribute_map else value
        if isinstance(value, (list, tuple)) and value:
            value = value[0]
        if isinstance(value, (int, float)):
            return int(value)
    if default is None:
        raise UserError(
            f"model: the config of {config.model_type} has no {' and no '.join(names)}; its sizes cannot be told"
        )
    return default


def _experts(text: Any) -> tuple[int, int]:
    """Experts that a token is sent to, and all of a layer; 0 and 0 for a dense model."""
    names = ("num_experts", "num_local_experts", "n_routed_experts")
    return _field(text, "num_experts_per_tok", "top_k_experts", default=0), _field(text, *names, default=0)


def outline_of(config: Any) -> Any:
    """The model of a transformers config on the meta device: structure and shapes without values."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    from sharegrpo_rl.models.prompts import takes_pictures

    auto = AutoModelForImageTextToText if takes_pictures(config) else AutoModelForCausalLM
    with torch.device("meta"):
        model = auto.from_config(config)
    model.tie_weights()
    return model


def _vision(config: Any, gated: bool) -> VisionSizes | None:
    vision = getattr(config, "vision_config", None)
    if vision is None:
        return None
    width = _field(vision, "embed_dim", "hidden_size")  # in Qwen2-VL hidden_size is the output's
    heads = _field(vision, "num_heads", "num_attention_heads")
    ratio = getattr(vision, "mlp_ratio", None)
    inner = (
        int(width * ratio)
        if ratio and "intermediate_size" not in vision.to_dict()
        else _field(vision, "intermediate_size")
    )
    stack = LayerSizes(_field(vision, "depth", "num_hidden_layers"), width, heads, heads, width // heads, inner, gated)
    return VisionSizes(stack, _field(vision, "patch_size"), _merge(config, vision))


def _merge(config: Any, vision: Any) -> int:
    """How many patches a side become one token."""
    for part in (vision, config):
        if shrunk := getattr(part, "downsample_ratio", None):  # InternVL
            return round(1 / shrunk)
        if merged := _field(part, "spatial_merge_size", "scale_factor", "downsample_factor", default=0):
            return merged
    if tokens := getattr(config, "mm_tokens_per_image", None):  # Gemma 3
        return round(_field(vision, "image_size") / _field(vision, "patch_size") / tokens**0.5)
    return 1


def read_config(model: str) -> Any:
    """The transformers config of a folder, or of a hub name whose config file is on this machine; else UserError."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(model, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(
            f"model: the sizes of {model!r} are not known here ({' '.join(str(error).split())[:120]}); name a folder with its "
            f"config.json, or fetch that file once: hf download {model} config.json"
        ) from None


class _Vocabulary:
    """What the tiny model's config needs of its tokenizer: how large it will be, and its first ids."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def convert_tokens_to_ids(self, token: str) -> int:
        from sharegrpo_rl.models.tiny import SPECIAL_TOKENS

        return SPECIAL_TOKENS.index(token)


def _tiny_config(sizes: TinySizes) -> Any:
    from sharegrpo_rl.models.tiny import tiny_config

    return tiny_config(sizes, _Vocabulary(sizes.vocab_size))


# Sizes of models on the hub, whose config files cannot be read offline; counted once by `measure`, as a test does again.
_QWEN2_VISION = VisionSizes(LayerSizes(32, 1280, 16, 16, 80, 5120, gated=False), 14, 2)
_QWEN2_5_VISION = VisionSizes(LayerSizes(32, 1280, 16, 16, 80, 3420), 14, 2)
_QWEN2_5_LARGE_VISION = VisionSizes(LayerSizes(32, 1280, 16, 16, 80, 3456), 14, 2)
_QWEN3_VISION = VisionSizes(LayerSizes(24, 1024, 16, 16, 64, 4096, gated=False), 16, 2)
_QWEN3_LARGE_VISION = VisionSizes(LayerSizes(27, 1152, 16, 16, 72, 4304, gated=False), 16, 2)


def _vlm(
    family: str,
    text: LayerSizes,
    vision: VisionSizes,
    vocabulary: int,
    tied: bool,
    parameters: tuple[int, int, int],
    lora_width: tuple[int, int, int],
) -> ModelSizes:
    """Counts are those of vision tower, projector and language model."""
    by_part, width = (
        dict(zip((VISION, PROJECTOR, LANGUAGE), counts, strict=True)) for counts in (parameters, lora_width)
    )
    return ModelSizes(family, text, vision, vocabulary, tied, by_part, width)


KNOWN: dict[str, ModelSizes] = {
    "Qwen/Qwen2.5-VL-3B-Instruct": _vlm(
        "qwen2_5_vl", LayerSizes(36, 2048, 16, 2, 128, 11008), _QWEN2_5_VISION, 151936, True,
        (631_975_680, 36_708_608, 3_085_938_688), (696_960, 17_408, 1_870_848),
    ),
    "Qwen/Qwen2.5-VL-7B-Instruct": _vlm(
        "qwen2_5_vl", LayerSizes(28, 3584, 28, 4, 128, 18944), _QWEN2_5_VISION, 152064, False,
        (631_975_680, 44_574_464, 7_615_616_512), (696_960, 18_944, 2_523_136),
    ),
    "Qwen/Qwen2.5-VL-32B-Instruct": _vlm(
        "qwen2_5_vl", LayerSizes(64, 5120, 40, 8, 128, 27648), _QWEN2_5_LARGE_VISION, 152064, False,
        (636_401_664, 52_440_320, 32_763_876_352), (700_416, 20_480, 8_388_608),
    ),
    "Qwen/Qwen2.5-VL-72B-Instruct": _vlm(
        "qwen2_5_vl", LayerSizes(80, 8192, 64, 8, 128, 29568), _QWEN2_5_LARGE_VISION, 152064, False,
        (636_401_664, 68_172_032, 72_706_203_648), (700_416, 23_552, 13_158_400),
    ),
    "Qwen/Qwen2-VL-2B-Instruct": _vlm(
        "qwen2_vl", LayerSizes(28, 1536, 12, 2, 128, 8960), _QWEN2_VISION, 151936, True,
        (631_183_360, 34_087_936, 1_543_714_304), (655_360, 16_896, 1_154_048),
    ),
    "Qwen/Qwen2-VL-7B-Instruct": _vlm(
        "qwen2_vl", LayerSizes(28, 3584, 28, 4, 128, 18944), _QWEN2_VISION, 152064, False,
        (631_183_360, 44_575_744, 7_615_616_512), (655_360, 18_944, 2_523_136),
    ),
    "Qwen/Qwen3-VL-2B-Instruct": _vlm(
        "qwen3_vl", LayerSizes(28, 2048, 16, 8, 128, 6144, head_norms=True), _QWEN3_VISION, 151936, True,
        (306_242_560, 100_714_496, 1_720_574_976), (393_216, 57_344, 1_089_536),
    ),
    "Qwen/Qwen3-VL-4B-Instruct": _vlm(
        "qwen3_vl", LayerSizes(36, 2560, 32, 8, 128, 9728, head_norms=True), _QWEN3_VISION, 151936, True,
        (306_242_560, 109_105_152, 4_022_468_096), (393_216, 59_392, 2_064_384),
    ),
    "Qwen/Qwen3-VL-8B-Instruct": _vlm(
        "qwen3_vl", LayerSizes(36, 4096, 32, 8, 128, 12288, head_norms=True), _QWEN3_LARGE_VISION, 151936, False,
        (415_891_440, 160_496_896, 8_190_735_360), (481_248, 71_680, 2_727_936),
    ),
    "Qwen/Qwen3.5-9B": _vlm(
        "qwen3_5", LayerSizes(32, 4096, 16, 4, 256, 12288, head_norms=True, states=24), _QWEN3_LARGE_VISION, 248320, False,
        (415_891_440, 40_119_040, 8_953_803_264), (481_248, 17_920, 2_704_896),
    ),
    "HuggingFaceTB/SmolLM2-135M-Instruct": ModelSizes(
        "llama", LayerSizes(30, 576, 9, 3, 64, 1536), None, 49152, True,
        {LANGUAGE: 134_515_008}, {LANGUAGE: 305_280},
    ),
}  # fmt: skip
