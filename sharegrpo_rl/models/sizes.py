"""How large a model is: layers, widths, parameters by part. Plain numbers; torch is not needed to hold them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


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


@dataclass(frozen=True)
class VisionSizes:
    """The vision tower; `merge` x `merge` patches of `patch` x `patch` pixels become one token."""

    stack: LayerSizes
    patch: int
    merge: int


@dataclass(frozen=True)
class ModelSizes:
    """What memory and time follow from. The parts are those of `models/loading.py`: vision tower, projector, language
    model."""

    family: str
    text: LayerSizes
    vision: VisionSizes | None
    vocabulary: int
    tied: bool  # embeddings and output head are one matrix
    parameters: Mapping[str, int]  # of each part
    lora_width: Mapping[
        str, int
    ]  # inputs + outputs of the linear layers of each part: rank x this is an adapter's size

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
        return (self.parameters["language model"] - ends) // self.text.layers


# ---- Sizes of models on the hub, whose config files cannot be read offline. Counted once by `measured_sizes.measure`, as a
# test does again.

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
    """Counts of vision tower, projector and language model, in this order."""
    parts = ("vision tower", "projector", "language model")
    by_part = [dict(zip(parts, counts, strict=True)) for counts in (parameters, lora_width)]
    return ModelSizes(family, text, vision, vocabulary, tied, *by_part)


KNOWN: dict[str, ModelSizes] = {
    "Qwen/Qwen2.5-VL-3B-Instruct": _vlm(
        "qwen2_5_vl",
        LayerSizes(36, 2048, 16, 2, 128, 11008),
        _QWEN2_5_VISION,
        151936,
        True,
        (631_975_680, 36_708_608, 3_085_938_688),
        (696_960, 17_408, 1_870_848),
    ),
    "Qwen/Qwen2.5-VL-7B-Instruct": _vlm(
        "qwen2_5_vl",
        LayerSizes(28, 3584, 28, 4, 128, 18944),
        _QWEN2_5_VISION,
        152064,
        False,
        (631_975_680, 44_574_464, 7_615_616_512),
        (696_960, 18_944, 2_523_136),
    ),
    "Qwen/Qwen2.5-VL-32B-Instruct": _vlm(
        "qwen2_5_vl",
        LayerSizes(64, 5120, 40, 8, 128, 27648),
        _QWEN2_5_LARGE_VISION,
        152064,
        False,
        (636_401_664, 52_440_320, 32_763_876_352),
        (700_416, 20_480, 8_388_608),
    ),
    "Qwen/Qwen2.5-VL-72B-Instruct": _vlm(
        "qwen2_5_vl",
        LayerSizes(80, 8192, 64, 8, 128, 29568),
        _QWEN2_5_LARGE_VISION,
        152064,
        False,
        (636_401_664, 68_172_032, 72_706_203_648),
        (700_416, 23_552, 13_158_400),
    ),
    "Qwen/Qwen2-VL-2B-Instruct": _vlm(
        "qwen2_vl",
        LayerSizes(28, 1536, 12, 2, 128, 8960),
        _QWEN2_VISION,
        151936,
        True,
        (631_183_360, 34_087_936, 1_543_714_304),
        (655_360, 16_896, 1_154_048),
    ),
    "Qwen/Qwen2-VL-7B-Instruct": _vlm(
        "qwen2_vl",
        LayerSizes(28, 3584, 28, 4, 128, 18944),
        _QWEN2_VISION,
        152064,
        False,
        (631_183_360, 44_575_744, 7_615_616_512),
        (655_360, 18_944, 2_523_136),
    ),
    "Qwen/Qwen3-VL-2B-Instruct": _vlm(
        "qwen3_vl",
        LayerSizes(28, 2048, 16, 8, 128, 6144, head_norms=True),
        _QWEN3_VISION,
        151936,
        True,
        (306_242_560, 100_714_496, 1_720_574_976),
        (393_216, 57_344, 1_089_536),
    ),
    "Qwen/Qwen3-VL-4B-Instruct": _vlm(
        "qwen3_vl",
        LayerSizes(36, 2560, 32, 8, 128, 9728, head_norms=True),
        _QWEN3_VISION,
        151936,
        True,
        (306_242_560, 109_105_152, 4_022_468_096),
        (393_216, 59_392, 2_064_384),
    ),
    "Qwen/Qwen3-VL-8B-Instruct": _vlm(
        "qwen3_vl",
        LayerSizes(36, 4096, 32, 8, 128, 12288, head_norms=True),
        _QWEN3_LARGE_VISION,
        151936,
        False,
        (415_891_440, 160_496_896, 8_190_735_360),
        (481_248, 71_680, 2_727_936),
    ),
    "HuggingFaceTB/SmolLM2-135M-Instruct": ModelSizes(
        "llama",
        LayerSizes(30, 576, 9, 3, 64, 1536),
        None,
        49152,
        True,
        {"language model": 134_515_008},
        {"language model": 305_280},
    ),
}
