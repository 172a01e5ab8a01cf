"""Features of images: each distinct image goes through the vision tower once, however many prompts show it."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from sharegrpo_rl.data.types import PixelInput, Prompt
from sharegrpo_rl.models.batch import stack_images


@dataclass(frozen=True)
class Features:
    """One image's features: tokens [n, D] (or [crops, n, D]), and what some families add to later layers."""

    tokens: Tensor
    deepstack: tuple[Tensor, ...] = ()

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.tokens, *self.deepstack)

    @property
    def count(self) -> int:
        """Image places in the prompt that these features fill."""
        return self.tokens.shape[:-1].numel()


@dataclass
class EncoderOutput:
    """What transformers' models take as `mm_encoder_outputs["image"]` in place of pixels."""

    pooler_output: Sequence[Tensor] | Tensor
    deepstack_features: list[tuple[Tensor, ...]]


def accepts_features(model: Any) -> bool:
    """Does the model's forward take features in place of pixels? Text-only models have no use for it."""
    return "mm_encoder_outputs" in inspect.signature(model.model.forward).parameters


def encode(model: Any, images: Sequence[PixelInput]) -> list[Features]:
    """The features of some images, run as one batch; pictures that are cut into crops run one by one."""
    if not images:
        return []
    shapes = {i.tensors["pixel_values"].shape[1:] for i in images}
    if "image_grid_thw" in images[0].tensors:
        return _encode_together(model, images, [len(i.tensors["image_grid_thw"]) for i in images])
    if len(shapes) == 1 and images[0].tensors["pixel_values"].ndim == 4:
        return _encode_together(model, images, [len(i.tensors["pixel_values"]) for i in images])
    pooled = [_run_tower(model, [image]).pooler_output for image in images]
    return [Features(p if isinstance(p, Tensor) else torch.cat(list(p))) for p in pooled]


def _encode_together(model: Any, images: Sequence[PixelInput], pictures: Sequence[int]) -> list[Features]:
    """One run of the tower; `pictures`: how many each of the images holds (a prompt's may travel together)."""
    out = _run_tower(model, images)
    layers = [out.pooler_output, *(getattr(out, "deepstack_features", None) or [])]
    ends = [0, *accumulate(pictures)]
    joined = [[torch.cat(list(layer[a:b])) for a, b in pairwise(ends)] for layer in layers]
    return [Features(tokens, tuple(deeper)) for tokens, *deeper in zip(*joined, strict=True)]


def _run_tower(model: Any, images: Sequence[PixelInput]) -> Any:
    """The encoder's output. Several pictures of one PixelInput come out in their order."""
    accepted = inspect.signature(model.model.get_image_features).parameters
    head = (
        model.get_output_embeddings().weight
    )  # of a sharded model the part that is whole: where, and in what, it runs
    arguments = {
        name: value.to(head.device, head.dtype if value.is_floating_point() else value.dtype)
        for name, value in stack_images(images).items()
        if name in accepted
    }
    return model.model.get_image_features(**arguments, return_dict=True)


def encoder_output(features: Sequence[Features]) -> dict[str, EncoderOutput]:
    """Features in the order in which prompts show them -> the argument `mm_encoder_outputs` of a model's forward."""
    layers = [tuple(f.deepstack[i] for f in features) for i in range(len(features[0].deepstack))]
    tokens = [f.tokens for f in features]
    # Crops [n, tokens, D] are joined by the families that make them; one list entry per picture is for the others.
    pooled: Sequence[Tensor] | Tensor = torch.cat(tokens) if tokens[0].ndim == 3 else tokens
    return {"image": EncoderOutput(pooled, layers)}


def encode_prompts(model: Any, prompts: Iterable[Prompt]) -> dict[str, Features]:
    """Key -> features of every distinct image of some prompts."""
    distinct = _distinct(prompts)
    return dict(zip(distinct, encode(model, list(distinct.values())), strict=True))


class ImageBank:
    """The images of several batches of prompts, with their gradients: encoded at first use, run backward after the last.

    Batches see detached features. Their gradients add up there, over prompts and over batches, and go through the
    vision tower once: `release` is called when a batch is done, in training after its backward pass.
    """

    def __init__(self, model: Any, batches: Sequence[Sequence[Prompt]]) -> None:
        self.model = model
        self._uses = Counter(key for batch in batches for key in _distinct(batch))
        self._features: dict[str, Features] = {}
        self._encoded: list[list[tuple[str, Features]]] = []  # images that were encoded together, with their graph
        self.encodes = 0

    def of(self, prompts: Sequence[Prompt]) -> dict[str, Features]:
        """Key -> features of every image that these prompts show; those not at hand are encoded together."""
        wanted = _distinct(prompts)
        missing = {key: image for key, image in wanted.items() if key not in self._features}
        attached = dict(zip(missing, encode(self.model, list(missing.values())), strict=True))
        self.encodes += len(attached)
        for key, features in attached.items():
            self._features[key] = Features(*_leaves(features))
        if any(t.requires_grad for f in attached.values() for t in f.tensors):
            self._encoded.append(list(attached.items()))
        return {key: self._features[key] for key in wanted}

    def release(self, batch: Sequence[Prompt]) -> None:
        """Note that a batch is done; images encoded together that no later one shows run backward and are freed."""
        for key in _distinct(batch):
            self._uses[key] -= 1
        waiting = []
        for together in self._encoded:
            if any(self._uses[key] > 0 for key, _ in together):
                waiting.append(together)
            else:
                self._backward(together)
        self._encoded = waiting
        kept = {key for together in waiting for key, _ in together}
        self._features = {k: f for k, f in self._features.items() if self._uses[k] > 0 or k in kept}

    def _backward(self, together: list[tuple[str, Features]]) -> None:
        pairs = [
            (attached, leaf.grad)
            for key, features in together
            for attached, leaf in zip(features.tensors, self._features[key].tensors, strict=True)
            if leaf.grad is not None
        ]
        if pairs:
            torch.autograd.backward([p[0] for p in pairs], [p[1] for p in pairs])


def _leaves(features: Features) -> tuple[Tensor, tuple[Tensor, ...]]:
    leaves = [t.detach().requires_grad_(t.requires_grad) for t in features.tensors]
    return leaves[0], tuple(leaves[1:])


def count_distinct(prompts: Iterable[Prompt]) -> int:
    """How many different pictures some prompts show."""
    return len(_distinct(prompts))


def _distinct(prompts: Iterable[Prompt]) -> dict[str, PixelInput]:
    return {image.key: image for prompt in prompts for image in prompt.images}
