"""The vision tower: each distinct image goes through it once, however many prompts show it, and as fast as it can."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
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
from transformers.utils import ModelOutput

from sharegrpo_rl.data.types import CodedArray, PixelInput, Prompt
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
class EncoderOutput(ModelOutput):
    """What transformers' models take as `mm_encoder_outputs["image"]` in place of pixels; later ones hand it on."""

    pooler_output: Sequence[Tensor] | Tensor | None = None
    deepstack_features: Sequence[tuple[Tensor, ...]] | None = None


def accepts_features(model: Any) -> bool:
    """Does the model's forward take features in place of pixels? Text-only models have no use for it."""
    return hasattr(model.model, "get_image_features")


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
    if not isinstance(layers[0], Tensor):  # before transformers 5.18 the deeper ones were not split by picture
        tokens = [len(picture) for picture in layers[0]]
        layers = [layer.split(tokens) if isinstance(layer, Tensor) else layer for layer in layers]
    ends = [0, *accumulate(pictures)]
    # As the tower gave them, a list or one tensor [crops, tokens, D]: its model goes on with the same.
    whole = isinstance(out.pooler_output, Tensor) and out.pooler_output.ndim == 3
    joined = [[layer[a:b] if whole else torch.cat(list(layer[a:b])) for a, b in pairwise(ends)] for layer in layers]
    return [Features(tokens, tuple(deeper)) for tokens, *deeper in zip(*joined, strict=True)]


def _run_tower(model: Any, images: Sequence[PixelInput]) -> Any:
    """The encoder's output. Several pictures of one PixelInput come out in their order."""
    accepted = inspect.signature(model.model.get_image_features).parameters
    head = model.get_output_embeddings().weight  # gathered even in a sharded model: has the right device and dtype
    arguments = stack_images(images, head.device, head.dtype, list(accepted))
    return model.model.get_image_features(**arguments, return_dict=True)


def stack_images(
    images: Sequence[PixelInput], device: torch.device, dtype: torch.dtype, names: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """The tensors (or those in `names`) of several images joined along their first dimension; {} without images.

    dtype: of those that hold real numbers.
    """
    if not images:
        return {}
    chosen = [name for name in images[0].tensors if names is None or name in names]
    sized = any(name in images[0].tensors for name in _SIZES)
    joined = {name: _join(name, [i.tensors[name] for i in images], sized) for name in chosen}
    return {name: to_device(array, device, dtype) for name, array in joined.items()}


def to_device(array: NDArray[Any] | CodedArray, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The array as a tensor, of `dtype` if it holds real numbers. Coded pixels travel as bytes and are decoded there."""
    if not isinstance(array, CodedArray):
        tensor = torch.from_numpy(array)
        return tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype)
    codes = torch.from_numpy(array.codes).to(device).view(-1, len(array.levels), array.stride)
    levels = torch.from_numpy(array.levels.copy()).to(device, dtype)  # rounding commutes with looking up
    decoded = torch.empty(codes.shape, dtype=dtype, device=device)
    for channel, values in enumerate(levels):
        index = codes[:, channel].reshape(-1).int()
        decoded[:, channel] = values.index_select(0, index).view(len(codes), array.stride)
    for start, end in array.blanks.tolist():
        decoded.view(-1)[start:end] = 0
    return decoded.view(array.shape)


UNSCALED = {"do_rescale": False, "do_normalize": False}  # a processor's options for the bytes themselves
# Where processors have the three channels in their arrays: how many elements in a row belong to one.
_STRIDES: dict[str, Callable[[tuple[int, ...]], int]] = {
    "[..., 3]": lambda shape: 1,
    "[..., 3 * n]": lambda shape: shape[-1] // 3,  # Qwen's patches
    "[..., 3, H, W]": lambda shape: shape[-2] * shape[-1] if len(shape) > 2 and shape[-3] == 3 else 0,
}


@dataclass(frozen=True)
class PixelCodes:
    """What a processor makes of a byte in each channel, `levels` [3, 256], and where its arrays have the channels."""

    levels: NDArray[np.float32]
    layout: str

    @classmethod
    def learned(cls, process: Callable[[NDArray[np.uint8], Mapping[str, Any]], Any]) -> PixelCodes | None:
        """From `process(picture, options)`, the pixels of the processor, with and without UNSCALED. None where its pixels
        are not made of bytes one by one, by one rule."""
        seen: list[tuple[NDArray[np.float32], NDArray[np.uint8]]] = []
        for pictures in _probe_pictures():
            for picture in pictures:
                pixels, bare = (np.asarray(process(picture, options)) for options in ({}, UNSCALED))
                codes = bare.astype(np.uint8)
                if pixels.dtype != np.float32 or pixels.shape != bare.shape or not np.array_equal(codes, bare):
                    return None
                seen.append((pixels, codes))
            for layout in _STRIDES:
                found = cls(_levels_of(seen, layout), layout)
                if np.isfinite(found.levels).all() and None not in [found.coded(codes, exact) for exact, codes in seen]:
                    return found
        return None

    def coded(self, codes: NDArray[np.uint8], exact: NDArray[np.float32] | None = None) -> CodedArray | None:
        """Codes as the array that they stand for; None where that is not `exact`, but for zeros of padding."""
        stride = _STRIDES[self.layout](codes.shape)
        if not stride or codes.size % (3 * stride):
            return None
        array = CodedArray(codes, self.levels, stride, np.empty((0, 2), np.int64))
        if exact is None:
            return array
        wrong = (np.asarray(array).view(np.int32) != exact.view(np.int32)).reshape(-1)
        if exact.reshape(-1)[wrong].any():
            return None
        return replace(array, blanks=np.flatnonzero(np.diff(wrong, prepend=False, append=False)).reshape(-1, 2))

    def code(self, exact: NDArray[np.float32]) -> CodedArray | None:
        """A processor's own pixels in codes; None where these would not give them back exactly."""
        stride = _STRIDES[self.layout](exact.shape)
        if exact.dtype != np.float32 or not stride or exact.size % (3 * stride):
            return None
        lowest, highest = self.levels[:, :1], self.levels[:, -1:]
        scaled = (exact.reshape(-1, 3, stride) - lowest) * (255 / (highest - lowest))
        codes = np.rint(scaled, out=scaled).clip(0, 255, out=scaled).astype(np.uint8)
        return self.coded(codes.reshape(exact.shape), exact)


def _probe_pictures() -> Iterator[list[NDArray[np.uint8]]]:
    """Pictures that hold all bytes in each channel, even where they are made smaller: in the second list in larger squares."""
    noise = np.random.default_rng(0).integers(0, 256, (70, 98, 3), np.uint8)
    values = np.arange(256)[:, None] + np.array([0, 85, 170])
    for edge, more in ((16, [noise]), (4, [])):
        squares = (values % 256).astype(np.uint8).reshape(-1, edge, edge, 3)
        yield [*more, *squares.repeat(28, 1).repeat(28, 2)]


def _levels_of(seen: Sequence[tuple[NDArray[np.float32], NDArray[np.uint8]]], layout: str) -> NDArray[np.float32]:
    """[3, 256] the value of each byte, NaN where it was not seen; 0, which may be padding, only where there is no other."""
    levels = np.full((3, 256), np.nan, np.float32)
    for zeros in (True, False):
        for pixels, codes in seen:
            stride = _STRIDES[layout](codes.shape)
            if not stride or codes.size % (3 * stride):
                return levels
            for channel in range(3):
                values, places = (a.reshape(-1, 3, stride)[:, channel].reshape(-1) for a in (pixels, codes))
                chosen = (values == 0) == zeros
                levels[channel, places[chosen]] = values[chosen]
    return levels


_SIZES = ("image_sizes", "pixel_attention_mask")  # by these a model finds the real part of padded pictures


def _join(name: str, arrays: Sequence[Any], sized: bool) -> NDArray[Any] | CodedArray:
    """Concatenated; of unequal shapes they are padded at the end, with empty crops or pixels, as processors do it and their
    models undo it: Idefics3's crops [1, crops, ...], LLaVA-NeXT's tiles, Mistral 3's pixels [1, 3, H, W]."""
    shapes = np.array([a.shape[1:] for a in arrays])
    padding = shapes.max(0) - shapes
    if not padding.any() and all(_joins(a, arrays[0]) for a in arrays):
        return replace(arrays[0], codes=np.concatenate([a.codes for a in arrays]))
    arrays = [np.asarray(a) for a in arrays]
    if padding.any():
        if not sized:
            one, other = min(map(tuple, shapes.tolist())), max(map(tuple, shapes.tolist()))
            raise UserError(
                f"model: its processor makes pictures of several shapes ({name}: {one} and {other}) and does not say how to "
                "join them; make all pictures of the data equally large"
            )
        arrays = [np.pad(a, [(0, 0), *((0, p) for p in more)]) for a, more in zip(arrays, padding, strict=True)]
    return np.concatenate(arrays)


def _joins(array: Any, first: Any) -> bool:
    """Are both coded, in the same way and without padding?"""
    return (
        isinstance(array, CodedArray)
        and isinstance(first, CodedArray)
        and not array.blanks.size
        and array.stride == first.stride
        and np.array_equal(array.levels, first.levels)
    )


@contextmanager
def features_for_pixels(model: Any, features: Sequence[Features]) -> Iterator[dict[str, Any]]:
    """The forward's arguments that stand for pixels, to be used inside; {} without features.

    features: in the order in which prompts show them. Before transformers 5.18 a forward has no argument for them: it gets
    pixels that are none, and the tower that it asks for their features answers with these.
    """
    if not features:
        yield {}
        return
    inner, output = model.model, encoder_output(features)
    if "mm_encoder_outputs" in inspect.signature(inner.forward).parameters:
        yield {"mm_encoder_outputs": {"image": output}}
        return
    layers = [torch.cat(layer) for layer in output.deepstack_features or ()]
    inner.get_image_features = lambda *_, **__: EncoderOutput(output.pooler_output, layers)
    try:
        yield {"pixel_values": features[0].tokens.new_empty(1)}
    finally:
        del inner.get_image_features  # the class has its own


def encoder_output(features: Sequence[Features]) -> EncoderOutput:
    """What the tower would have said of these pictures."""
    layers = [tuple(f.deepstack[i] for f in features) for i in range(len(features[0].deepstack))]
    tokens = [f.tokens for f in features]
    # Crops [n, tokens, D] are joined by the families that make them; one list entry per picture is for the others.
    pooled: Sequence[Tensor] | Tensor = torch.cat(tokens) if tokens[0].ndim == 3 else tokens
    return EncoderOutput(pooled, layers)


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
