"""An estimate of time from operations and bytes: it tells hours from days."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sharegrpo_rl.models.sizes import ModelSizes
from sharegrpo_rl.planning.memory import BYTES, Training, kv_bytes, uses_reference
from sharegrpo_rl.planning.workload import GPU, Workload

MFU = 0.3  # share of the GPU's operations that a learner step gets (measured on an H200 with a 3B model: 0.29 to 0.32)
PREFILL = 0.4  # and that prefill gets (assumed)
BANDWIDTH = {"vllm": 0.6, "hf": 0.2}  # share of the memory's speed that decoding gets (assumed)
SEQUENCES = 256  # that an engine decodes at once, at most
FLOAT32_SPEED = 1 / 16  # of bfloat16's operations


@dataclass(frozen=True)
class Seconds:
    """Of one iteration, and of all."""

    generating: float
    learning: float
    iteration: float
    run: float
    assumptions: tuple[str, ...]


def estimate(
    config: Mapping[str, Any], sizes: ModelSizes, train: Training, work: Workload, gpu: GPU, kv_room: int | None
) -> Seconds | None:
    """Seconds on GPUs of a type whose speeds are known, else None. kv_room: bytes of an engine's KV cache on each GPU."""
    if gpu.flops is None or gpu.bandwidth is None:
        return None
    flops = gpu.flops * (FLOAT32_SPEED if train.bytes == 4 else 1)
    learning = step_operations(config, sizes, train, work) / (train.ranks * flops * MFU)
    generating = _generating(config, sizes, work, flops, gpu.bandwidth, kv_room) if work.samples else 0.0
    both = max(generating, learning) if config.get("max_staleness", 0) else generating + learning
    engine = config.get("engine", "hf")
    said = [
        f"prompts of {work.prompt:,} tokens, completions of {work.completion:,}",
        f"the learner at {MFU:.0%} of {gpu.flops / 1e12:.0f} TFLOP/s",
    ]
    if work.samples:
        said.append(
            f"decoding ({engine}) at {BANDWIDTH[engine]:.0%} of {gpu.bandwidth / 1e12:.2f} TB/s, prefill at {PREFILL:.0%}"
        )
    said.append("weight sync, grading, evaluation and checkpoints not counted")
    return Seconds(generating, learning, both, both * work.iterations, tuple(said))


def step_operations(config: Mapping[str, Any], sizes: ModelSizes, train: Training, work: Workload) -> float:
    """Operations of the learner in one iteration, over all ranks: two for each weight and token of a forward pass."""
    language, vision, head = _forward(sizes, work)
    again = 1 if train.checkpointing == "full" else 0
    backward = 1 if train.adapters else 2
    encoded = 3 + again if train.trains("vision tower") else 1
    once = language * (1 + again + backward) + vision * encoded + head * (2 + backward)
    known = _passes_without_gradient(config, work)
    return work.epochs * once + known * (language + vision + head)


def model_operations(sizes: ModelSizes, work: Workload) -> float:
    """Operations of a forward and a backward pass over each distinct token and image once, all of the model trained."""
    return 3 * sum(_forward(sizes, work))


def _forward(sizes: ModelSizes, work: Workload) -> tuple[float, float, float]:
    """Operations of one forward over an iteration's packs: layers, images, output head."""
    said, asked = work.prompts * work.rows * work.completion, work.prompts * work.prompt
    layers = 2 * sizes.layer * sizes.text.layers * (asked + said)
    return layers + attention_operations(sizes, work), _images(sizes, work), 2 * sizes.embedding * said


def attention_operations(sizes: ModelSizes, work: Workload) -> float:
    """Operations of attention in a forward: a token looks at what stands before it, half of its own part on average."""
    asked = work.prompts * work.prompt * work.prompt / 2
    said = work.prompts * work.rows * work.completion * (work.prompt + work.completion / 2)
    return 4 * sizes.text.layers * sizes.text.heads * sizes.text.head_dim * (asked + said)


def _images(sizes: ModelSizes, work: Workload) -> float:
    """The vision tower over an iteration's distinct images; its attention is left out, most of it is in windows."""
    distinct = work.prompts if work.own_images else work.prompts / work.variants
    parts = sizes.parameters
    each = 2 * work.patches * (parts.get("vision tower", 0) + parts.get("projector", 0) / 4)
    return distinct * each


def _passes_without_gradient(config: Mapping[str, Any], work: Workload) -> float:
    """Forwards for old log-probs (of all minibatches but the first) and for the reference."""
    old = 1 - 1 / work.minibatches if work.samples else 0.0
    return old + (work.epochs if uses_reference(config) else 0)


def _generating(
    config: Mapping[str, Any], sizes: ModelSizes, work: Workload, flops: float, bandwidth: float, kv_room: int | None
) -> float:
    engines, engine, b = max(1, config["num_env_runners"]), config["engine"], BYTES[config["dtype"]]
    ways = config["vllm"]["tensor_parallel_size"] if engine == "vllm" else 1
    weights = sizes.parameters["language model"] * b / ways
    length = work.prompt + work.completion / 2  # of a sequence while it is decoded
    each = length * kv_bytes(sizes, b, ways)
    fit = int(kv_room / each) if kv_room else SEQUENCES
    wanted = work.prompts * work.samples / engines
    at_once = max(1.0, min(SEQUENCES, fit, wanted))
    step = max(
        (weights + at_once * each) / (bandwidth * BANDWIDTH[engine]),
        2 * sizes.parameters["language model"] * at_once / (ways * flops * PREFILL),
    )
    asked = work.prompts / engines * 2 * sizes.layer * sizes.text.layers * work.prompt + _images(sizes, work) / engines
    return wanted / at_once * work.completion * step + asked / (ways * flops * PREFILL)
