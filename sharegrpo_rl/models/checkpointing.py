"""Activations computed again in the backward pass, all of them or only the cheap ones (1604.06174, 2205.05198)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from sharegrpo_rl.models.pack_layout import Layout, current_layout, use_layout

Contexts = tuple[AbstractContextManager[None], AbstractContextManager[None]]
NOTHING, PRODUCTS = "nothing", "products"
_PRODUCTS = (
    "mm",
    "addmm",
    "bmm",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_flash_attention_forward",
)


def enable_checkpointing(model: Any, keep: str) -> None:
    """Every layer of the model keeps its input, and of what it computes `keep`: nothing, or products (matrix products
    and attention: most of the time and about half of the memory)."""
    if keep not in (NOTHING, PRODUCTS):
        raise ValueError(f"keep is {NOTHING} or {PRODUCTS}, not {keep!r}")
    contexts = _keep_products if keep == PRODUCTS else _keep_nothing
    model.gradient_checkpointing_enable({"use_reentrant": False, "context_fn": _with_layout(contexts)})


def _keep_nothing() -> Contexts:
    return nullcontext(), nullcontext()


def _keep_products() -> Contexts:
    kept = {getattr(torch.ops.aten, name).default for name in _PRODUCTS}

    def policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        return CheckpointPolicy.MUST_SAVE if operation in kept else CheckpointPolicy.PREFER_RECOMPUTE

    forward, again = create_selective_checkpoint_contexts(policy)
    return forward, again


def _with_layout(contexts: Callable[[], Contexts]) -> Callable[[], Contexts]:
    """A layer that runs again in the backward pass follows the layout that it ran with: the context has ended then."""

    def both() -> Contexts:
        forward, again = contexts()
        layout = current_layout()
        return forward, again if layout is None else _joined(again, layout)

    return both


@contextmanager
def _joined(again: AbstractContextManager[None], layout: Layout) -> Iterator[None]:
    with again, use_layout(layout):
        yield
