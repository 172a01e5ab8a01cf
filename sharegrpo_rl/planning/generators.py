"""Memory of what generates: an engine of vLLM, or the training model itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sharegrpo_rl.models.sizes import ModelSizes
from sharegrpo_rl.planning.activations import layer_bytes
from sharegrpo_rl.planning.process import GENERATING, Part
from sharegrpo_rl.planning.workload import Workload

ENGINE_WORK = 3 * 2**30  # of each GPU of an engine, assumed: activations of prefill and of images, CUDA graphs
HF_TOKENS = 65536  # cached tokens that generation/hf.py holds at once
FLOAT32 = 4


def kv_bytes(sizes: ModelSizes, b: int, ways: int = 1) -> int:
    """Keys and values of one token on each of `ways` GPUs; heads that are fewer than GPUs are repeated."""
    heads = max(1, sizes.text.kv_heads // ways)
    return 2 * sizes.text.layers * heads * sizes.text.head_dim * b


def engine_parts(sizes: ModelSizes, work: Workload, vllm: Mapping[str, Any], b: int, budget: int | None) -> list[Part]:
    """Parts of an engine on each of its GPUs. budget: bytes that it may use there, all of which it takes.

    Of the KV cache only what one longest sequence takes is asked for: with less vLLM does not start.
    """
    ways = vllm["tensor_parallel_size"]
    over = f", over {ways} GPUs" if ways > 1 else ""
    parts = [
        Part("weights", sizes.total * b // ways, f"of the engine{over}", GENERATING),
        Part("engine at work", ENGINE_WORK, "prefill, images, CUDA graphs (assumed)", GENERATING),
    ]
    least = work.longest * kv_bytes(sizes, b, ways)
    room = _room(parts, vllm, budget)
    sequences = (room or least) // (kv_bytes(sizes, b, ways) * work.longest)
    held = f"{sequences:,} sequences of {work.longest:,} tokens at once" if room else "one longest sequence"
    return [*parts, Part("KV cache", max(least, room or 0), held, GENERATING)]


def _room(parts: list[Part], vllm: Mapping[str, Any], budget: int | None) -> int | None:
    """Bytes that are left for the KV cache."""
    if vllm["kv_cache_gb"] is not None:
        return int(vllm["kv_cache_gb"] * 2**30)
    return None if budget is None else max(0, budget - sum(p.bytes for p in parts))


def model_parts(sizes: ModelSizes, work: Workload, b: int) -> list[Part]:
    """What the training model takes on top of its weights to generate: the KV cache of a batch, and a step's logits."""
    each = work.prompt_limit + work.samples * work.completion_limit
    prompts = max(1, min(work.prompts, HF_TOKENS // each))
    cached = prompts * each
    logits = prompts * work.samples * sizes.vocabulary * 4 * FLOAT32
    prefill = layer_bytes(sizes.text, b, False, prompts * work.prompt_limit)
    return [
        Part("KV cache", cached * kv_bytes(sizes, b), f"{cached:,} tokens of {prompts} prompts at once", GENERATING),
        Part("logits", logits, f"of {prompts * work.samples} tokens, with probabilities", GENERATING),
        Part("prefill", prefill, "one layer over the batch's prompts", GENERATING),
    ]
