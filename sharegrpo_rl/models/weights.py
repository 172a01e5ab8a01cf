"""A model's weights for an engine: by checkpoint name, adapters merged or alone, in buckets of bounded size."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharegrpo_rl.models.policy import unwrapped

BUCKET_BYTES = 256 * 2**20
Weights = list[tuple[str, Tensor]]


def engine_weights(model: Any, everything: bool = True) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of the model's weights; without `everything` only of modules that training changes.

    LoRA is merged into copies: the model's own weights are left unchanged.
    """
    base = unwrapped(model)
    adapters = {name: module for name, module in base.named_modules() if hasattr(module, "get_delta_weight")}
    trained = [n for n, p in base.named_parameters(remove_duplicate=False) if p.requires_grad]  # tied heads among them
    changing = {_block(_plain(name)) for name in trained}
    for name, tensor in base.state_dict().items():
        plain = _plain(name)
        if ".lora_" in name or not (everything or _block(plain) in changing):
            continue
        adapted = adapters.get(plain.removesuffix(".weight"))
        if adapted is None:
            yield plain, tensor
        else:
            with torch.no_grad():
                deltas = [adapted.get_delta_weight(adapter) for adapter in adapted.active_adapters]
                yield plain, sum(deltas, tensor)


def adapter_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of the LoRA adapter alone, named as peft saves it; A and B of every layer that has one."""
    for name, tensor in unwrapped(model).state_dict().items():
        if ".lora_" in name:
            layer, _, kind = name.partition(".lora_")
            yield f"base_model.model.{layer}.lora_{kind.split('.')[0]}.weight", tensor


def _plain(name: str) -> str:
    """A tensor's name in the checkpoint; for an adapter's, the name of what it adapts."""
    return f"{name.split('.lora_')[0]}.weight" if ".lora_" in name else name.replace(".base_layer.", ".")


def _block(name: str) -> str:
    """The module whose tensors are always sent together: an engine may hold its layers fused, such as q, k and v."""
    return name.rsplit(".", 2)[0]


def in_buckets(weights: Iterable[tuple[str, Tensor]], size: int = BUCKET_BYTES) -> Iterator[tuple[Weights, bool]]:
    """Runs of weights of at most `size` bytes (or one larger tensor), and whether it is the last."""
    bucket: Weights = []
    held = 0
    for name, tensor in weights:
        if bucket and held + tensor.nbytes > size:
            yield bucket, False
            bucket, held = [], 0
        bucket.append((name, tensor))
        held += tensor.nbytes
    yield bucket, True


def to_array(tensor: Tensor) -> NDArray[np.generic]:
    """The tensor as an array, a view where it lies in host memory; bfloat16, which numpy lacks, as uint16."""
    tensor = tensor.detach().cpu().contiguous()
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


def to_tensor(array: NDArray[np.generic]) -> Tensor:
    """A tensor over an array of `to_array`, not copied: read-only."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # arrays in the object store are not writable
        tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor
