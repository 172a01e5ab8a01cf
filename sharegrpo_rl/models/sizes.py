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
