"""Features of images: each distinct image goes through the vision tower once, however many prompts show it."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from sharegrpo_rl.data.types import PixelInput, Prompt
from sharegrpo_rl.models.batch import stack_images
from sharegrpo_rl.models.branch_attention import Sequences, has_kernels, varlen_forward

# ---- A patch embedding whose convolution neither overlaps nor pads is a matrix product, and several times faster as one.


def use_matrix_products(model: Any) -> int:
    """Replace the convolutions over ready-cut patches (Qwen's vision towers); weights stay where they are. Returns how many."""
    found = [m for m in model.modules() if type(m).__name__.endswith("PatchEmbed") and _cuts_nothing(m)]
    for module in found:
        module.forward = MethodType(_embed, module)
    return len(found)


def _cuts_nothing(module: nn.Module) -> bool:
    """Does every patch come alone, [patches, channels * time * height * width], so that the kernel covers all of it?"""
    conv = getattr(module, "proj", None)
    return (
        isinstance(conv, nn.Conv3d) and conv.kernel_size == conv.stride and conv.groups == 1 and not any(conv.padding)
    )


def _embed(self: Any, hidden_states: Tensor, **kwargs: Any) -> Tensor:
    """[patches, values] -> [patches, width]."""
    weight = self.proj.weight.flatten(1)
    return F.linear(hidden_states.reshape(-1, weight.shape[1]).to(weight.dtype), weight, self.proj.bias)


# ---- Attention of Qwen's vision towers over pictures and windows of several sizes: one launch on CUDA, few calls elsewhere.
#
# transformers runs each window by itself: 64 calls a layer for one picture of 1,024 tokens.

NAME = "window_flash"  # transformers hands out where windows end to implementations whose name says flash


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
    """transformers' attention function: query, key, value [1, H, L, D] -> [1, L, H, D]; a window ends at each of
    `cu_seq_lens_q` [n + 1]."""
    if attention_mask is not None or dropout:
        raise ValueError("windows take no attention mask and no attention dropout")
    if has_kernels(query):
        windows = Sequences(cu_seq_lens_q.to(torch.int32), max_length_q)
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        return varlen_forward(q, k, v, windows, windows, False, scaling)[0][None], None
    return _by_length(module, query, key, value, cu_seq_lens_q.diff().tolist(), scaling), None


def _by_length(module: Any, query: Tensor, key: Tensor, value: Tensor, lengths: list[int], scale: float) -> Tensor:
    """Neighbours of equal length as one batch."""
    runs = [(length, len(list(same))) for length, same in groupby(lengths)]
    sizes = [length * count for length, count in runs]
    outs = []
    for (length, count), *parts in zip(runs, *(x.split(sizes, 2) for x in (query, key, value)), strict=True):
        windows = (x[0].unflatten(1, (count, length)).transpose(0, 1) for x in parts)
        out, _ = sdpa_attention_forward(module, *windows, None, scaling=scale, is_causal=False)
        outs.append(out.flatten(0, 1))
    return torch.cat(outs)[None]


def use_window_attention(model: Any) -> None:
    """Switch a vision tower that works on windows of one row (Qwen's) to this attention; the model's own config, of which
    transformers may build others, stays as it is."""
    usual = getattr(model.config, "vision_config", None)
    if usual is None or not usual.model_type.startswith("qwen"):
        return
    AttentionInterface.register(NAME, window_attention)
    config = copy(usual)
    config._attn_implementation = NAME
    for module in model.modules():
        if getattr(module, "config", None) is usual:
            module.config = config


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
