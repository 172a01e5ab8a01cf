"""The vision tower: each distinct image goes through it once, however many prompts show it, and as fast as it can."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise
from types import MethodType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from sharegrpo_rl.data.types import PixelInput, Prompt
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.models.branch_attention import Sequences, has_kernels, varlen_forward

WINDOW_ATTENTION = "window_flash"  # transformers passes the windows' ends to implementations with flash in their name


@dataclass(frozen=True)
class Features:
    """One image's features: tokens [n, D] (or [crops, n, D]), and those that some families add to later layers."""

    tokens: Tensor
    deepstack: tuple[Tensor, ...] = ()

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.tokens, *self.deepstack)

    @property
    def count(self) -> int:
        """Image tokens of the prompt that these features stand for."""
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
    """The features of several images, run as one batch; pictures that are cut into crops run one by one."""
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
    if sum(pictures) != len(out.pooler_output):  # entries of another kind, as MiniCPM's slices: nobody says whose
        if len(images) > 1:
            return [features for image in images for features in _encode_together(model, [image], [1])]
        pictures = [len(out.pooler_output)]
    layers = [out.pooler_output, *(getattr(out, "deepstack_features", None) or [])]
    ends = [0, *accumulate(pictures)]
    # As the tower gave them, a list or one tensor [crops, tokens, D]: its model goes on with the same.
    whole = isinstance(out.pooler_output, Tensor) and out.pooler_output.ndim == 3
    joined = [[layer[a:b] if whole else torch.cat(list(layer[a:b])) for a, b in pairwise(ends)] for layer in layers]
    return [Features(tokens, tuple(deeper)) for tokens, *deeper in zip(*joined, strict=True)]


def _run_tower(model: Any, images: Sequence[PixelInput]) -> Any:
    """The encoder's output. Several pictures of one PixelInput come out in their order."""
    accepted = inspect.signature(model.model.get_image_features).parameters
    head = model.get_output_embeddings().weight  # gathered even in a sharded model: has the right device and dtype
    arguments = {
        name: value.to(head.device, head.dtype if value.is_floating_point() else value.dtype)
        for name, value in stack_images(images).items()
        if name in accepted
    }
    return model.model.get_image_features(**arguments, return_dict=True)


def stack_images(images: Sequence[PixelInput], names: Sequence[str] | None = None) -> dict[str, Tensor]:
    """The tensors (or those in `names`) of several images joined along their first dimension; {} without images."""
    if not images:
        return {}
    chosen = images[0].tensors if names is None else [n for n in names if n in images[0].tensors]
    sized = any(name in images[0].tensors for name in _SIZES)
    return {name: torch.from_numpy(_join(name, [i.tensors[name] for i in images], sized)) for name in chosen}


_SIZES = ("image_sizes", "pixel_attention_mask")  # by these a model finds the real part of padded pictures


def _join(name: str, arrays: Sequence[NDArray[Any]], sized: bool) -> NDArray[Any]:
    """Concatenated; of unequal shapes they are padded at the end, with empty crops or pixels, as processors do it and their
    models undo it: Idefics3's crops [1, crops, ...], LLaVA-NeXT's tiles, Mistral 3's pixels [1, 3, H, W]."""
    shapes = np.array([a.shape[1:] for a in arrays])
    padding = shapes.max(0) - shapes
    if padding.any():
        if not sized:
            one, other = min(map(tuple, shapes.tolist())), max(map(tuple, shapes.tolist()))
            raise UserError(
                f"model: its processor makes pictures of several shapes ({name}: {one} and {other}) and does not say how to "
                "join them; make all pictures of the data equally large"
            )
        arrays = [np.pad(a, [(0, 0), *((0, p) for p in more)]) for a, more in zip(arrays, padding, strict=True)]
    return np.concatenate(arrays)


def encoder_output(features: Sequence[Features]) -> dict[str, EncoderOutput]:
    """Features in the order in which prompts show them -> the argument `mm_encoder_outputs` of a model's forward."""
    layers = [tuple(f.deepstack[i] for f in features) for i in range(len(features[0].deepstack))]
    tokens = [f.tokens for f in features]
    # Crops [n, tokens, D] are joined by the families that make them; one list entry per picture is for the others.
    pooled: Sequence[Tensor] | Tensor = torch.cat(tokens) if tokens[0].ndim == 3 else tokens
    return {"image": EncoderOutput(pooled, layers)}


def encode_prompts(model: Any, prompts: Iterable[Prompt]) -> dict[str, Features]:
    """Key -> features of every distinct image that the prompts show."""
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
        """Key -> features of every image that these prompts show; missing ones are encoded together."""
        shown = _distinct(prompts)
        missing = {key: image for key, image in shown.items() if key not in self._features}
        attached = dict(zip(missing, encode(self.model, list(missing.values())), strict=True))
        self.encodes += len(attached)
        for key, features in attached.items():
            leaves = [t.detach().requires_grad_(t.requires_grad) for t in features.tensors]
            self._features[key] = Features(leaves[0], tuple(leaves[1:]))
        if any(t.requires_grad for f in attached.values() for t in f.tensors):
            self._encoded.append(list(attached.items()))
        return {key: self._features[key] for key in shown}

    def release(self, batch: Sequence[Prompt]) -> None:
        """A batch is done: images encoded together that no later batch shows run backward and are freed."""
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


def count_distinct(prompts: Iterable[Prompt]) -> int:
    """How many different images the prompts show."""
    return len(_distinct(prompts))


def _distinct(prompts: Iterable[Prompt]) -> dict[str, PixelInput]:
    return {image.key: image for prompt in prompts for image in prompt.images}


def use_matrix_products(model: nn.Module) -> int:
    """Replace the convolutions over ready-cut patches (Qwen's vision towers); returns how many.

    A convolution that neither overlaps nor pads is a matrix product, and several times faster as one. Weights keep their
    names.
    """
    embeddings = [m for m in model.modules() if type(m).__name__.endswith("PatchEmbed") and _covers_patches(m)]
    for module in embeddings:
        module.forward = MethodType(_embed_patches, module)
    return len(embeddings)


def _covers_patches(module: nn.Module) -> bool:
    """Does the kernel cover each patch, [patches, channels * time * height * width], exactly once?"""
    conv = getattr(module, "proj", None)
    return (
        isinstance(conv, nn.Conv3d) and conv.kernel_size == conv.stride and conv.groups == 1 and not any(conv.padding)
    )


def _embed_patches(self: Any, hidden_states: Tensor, **kwargs: Any) -> Tensor:
    """[patches, values] -> [patches, width]."""
    weight = self.proj.weight.flatten(1)
    return F.linear(hidden_states.reshape(-1, weight.shape[1]).to(weight.dtype), weight, self.proj.bias)


def use_window_attention(model: Any) -> None:
    """Switch a vision tower that works on windows of one row (Qwen's) to `window_attention`.

    The tower gets a copy of its config: transformers may build other models from the original.
    """
    original = getattr(model.config, "vision_config", None)
    if original is None or not original.model_type.startswith("qwen"):
        return
    AttentionInterface.register(WINDOW_ATTENTION, window_attention)
    config = copy(original)
    config._attn_implementation = WINDOW_ATTENTION
    for module in model.modules():
        if getattr(module, "config", None) is original:
            module.config = config


def window_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function over windows of several sizes: [1, H, L, D] -> [1, L, H, D].

    A window ends at each of `cu_seq_lens_q` [n + 1]. One launch on CUDA, one call for each run of equal windows elsewhere;
    transformers runs each window by itself, 64 calls a layer for one picture of 1,024 tokens.
    """
    if attention_mask is not None or dropout:
        raise ValueError("windows take no attention mask and no attention dropout")
    if has_kernels(query):
        windows = Sequences(cu_seq_lens_q.to(torch.int32), max_length_q)
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        return varlen_forward(q, k, v, windows, windows, False, scaling)[0][None], None
    runs = [(length, len(list(same))) for length, same in groupby(cu_seq_lens_q.diff().tolist())]
    sizes = [length * count for length, count in runs]
    outs = []
    for (length, count), *parts in zip(runs, *(x.split(sizes, 2) for x in (query, key, value)), strict=True):
        windows_of_run = (x[0].unflatten(1, (count, length)).transpose(0, 1) for x in parts)
        out, _ = sdpa_attention_forward(module, *windows_of_run, None, scaling=scaling, is_causal=False)
        outs.append(out.flatten(0, 1))
    return torch.cat(outs)[None], None
