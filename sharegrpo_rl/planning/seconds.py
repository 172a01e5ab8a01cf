"""An estimate of time from operations and bytes: good enough to tell hours from days."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sharegrpo_rl.config.run import correction_of
from sharegrpo_rl.models.sizes import ModelSizes
from sharegrpo_rl.planning.gpus import GPU
from sharegrpo_rl.planning.memory import ITEMSIZE, Training, kv_bytes, uses_reference
from sharegrpo_rl.planning.workload import Workload

MFU = 0.3  # of a learner step (measured on an H200 with a 3B model: 0.29 to 0.32)
PREFILL_MFU = 0.4  # (assumed)
BANDWIDTH = {"vllm": 0.6, "hf": 0.2}  # share of the memory's speed that decoding gets (assumed)
MAX_SEQUENCES = 256  # that an engine decodes at once
SEEDED = 1e-5  # seconds a step for each sequence: vLLM draws the token of a request with a seed by itself (assumed)
ALL_REDUCE = 1.5e-5  # seconds before one moves anything: two a layer and step of a tensor-parallel engine (assumed)
SYNC = 1.0  # seconds a GB of new weights by the object store (measured between two processes on a CPU, not on GPUs)
LINK = 0.5  # share of a link's speed that new weights and an engine's own exchanges get between GPUs (assumed)
NETWORK = 12.5e9  # bytes a second between nodes: 100 Gbit/s (assumed)
NODE = 8  # GPUs of a node (assumed)
RENDER = 0.02 / 1e6  # seconds a pixel in a runner's image processor, one thread (measured: 16 ms for 1 MP)
FLOAT32_SPEED = 1 / 16  # of bfloat16's operations


@dataclass(frozen=True)
class Seconds:
    """Wall seconds of one iteration and its phases, and of the whole run. `syncing`: new weights on their way to engines."""

    generating: float
    learning: float
    syncing: float
    iteration: float
    run: float
    assumptions: tuple[str, ...]


def estimate_seconds(
    config: Mapping[str, Any], sizes: ModelSizes, train: Training, work: Workload, gpu: GPU, kv_cache: int | None
) -> Seconds | None:
    """Seconds on a GPU type whose speeds are known, else None. kv_cache: bytes of an engine's KV cache on each GPU."""
    if gpu.flops is None or gpu.bandwidth is None:
        return None
    flops = gpu.flops * (FLOAT32_SPEED if train.itemsize == 4 else 1)
    learning = step_operations(config, sizes, train, work) / (train.ranks * flops * MFU)
    generating = _generating(config, sizes, work, flops, gpu, kv_cache) if work.samples else 0.0
    generating += _rendering(config, sizes, work)
    link = _slowest_link(config, gpu)
    syncing = _sent_bytes(config, sizes, train) / (1e9 / SYNC if link is None else link * LINK)
    both = max(generating, learning) if config.get("max_staleness", 0) else generating + learning
    iteration = both + syncing
    assumptions = [
        f"prompts of {work.prompt:,} tokens, completions of {work.completion:,}",
        f"the learner at {MFU:.0%} of {gpu.flops / 1e12:.0f} TFLOP/s",
    ]
    if work.samples:
        engine, speed = config["engine"], gpu.bandwidth / 1e12
        assumptions.append(
            f"decoding ({engine}) at {BANDWIDTH[engine]:.0%} of {speed:.2f} TB/s, prefill at {PREFILL_MFU:.0%}"
            + (f", {SEEDED * 1e6:.0f} us to draw a token" if engine == "vllm" else "")
        )
    if syncing:
        assumptions.append(
            f"weight sync at {SYNC:g} s a GB" if link is None else f"weight sync at {LINK:.0%} of {link / 1e9:g} GB/s"
        )
    assumptions.append("grading, evaluation and checkpoints not counted")
    return Seconds(generating, learning, syncing, iteration, iteration * work.iterations, tuple(assumptions))


def _rendering(config: Mapping[str, Any], sizes: ModelSizes, work: Workload) -> float:
    """The image processor over an iteration's distinct pictures, which each runner does before its engine begins."""
    if sizes.vision is None or not work.samples:
        return 0.0
    return (
        RENDER * work.patches * sizes.vision.patch**2 * _distinct_images(work) / max(1, int(config["num_env_runners"]))
    )


def _sent_bytes(config: Mapping[str, Any], sizes: ModelSizes, train: Training) -> float:
    """Of new weights, an iteration, from learners to engines in other processes; adapters alone are next to nothing."""
    if not config["num_env_runners"] or not (train.parameters and config.get("num_generations")):
        return 0.0
    return 0.0 if train.adapters else train.itemsize * train.parameters


def _slowest_link(config: Mapping[str, Any], gpu: GPU) -> float | None:
    """Bytes a second of the slowest link between learners and engines, which NCCL sends over; None: the object store."""
    of_learners = max(1, config["num_learners"]) * config["num_gpus_per_learner"]
    of_engines = config["num_env_runners"] * config.get("num_gpus_per_env_runner", 0)
    if config.get("engine") != "vllm" or gpu.link is None or not (of_learners and of_engines):
        return None
    return gpu.link if of_learners + of_engines <= NODE else min(gpu.link, NETWORK)


def step_operations(config: Mapping[str, Any], sizes: ModelSizes, train: Training, work: Workload) -> float:
    """Operations of the learner in one iteration, over all ranks: two for each weight and token of a forward pass."""
    pieces = work.pieces(config["max_tokens_per_microbatch"])
    language, vision, head = _forward(sizes, work, pieces, pieces if train.sharded else 1)
    again = 1 if train.checkpointing == "full" else 0
    backward = 1 if train.adapters else 2
    encoded = 3 + again if train.trains("vision tower") else 1
    once = language * (1 + again + backward) + vision * encoded + head * (2 + backward)
    # Passes without gradient: old log-probs (where samples are corrected for, of all minibatches; else of all but the
    # first), and the reference's.
    first = 0 if correction_of(config) != "none" else 1 / work.minibatches
    old = 1 - first if work.samples else 0.0
    inference = old + (work.epochs if uses_reference(config) else 0)
    return work.epochs * once + inference * (language + vision + head)


def model_operations(sizes: ModelSizes, work: Workload) -> float:
    """Operations of a forward and a backward pass over each distinct token and image once, the whole model trained."""
    return 3 * sum(_forward(sizes, work))


def attention_operations(sizes: ModelSizes, work: Workload, pieces: int = 1) -> float:
    """Operations of attention in a forward pass: a token attends to what precedes it, on average half of its own part."""
    prompt = pieces * work.prompts * work.prompt_runs * work.prompt * work.prompt / 2
    completions = work.prompts * work.rows * work.completion * (work.prompt + work.completion / 2)
    return 4 * sizes.text.attending * sizes.text.heads * sizes.text.head_dim * (prompt + completions)


def _forward(sizes: ModelSizes, work: Workload, pieces: int = 1, encodes: int = 1) -> tuple[float, float, float]:
    """Operations of one forward over an iteration's packs: layers, images, output head.

    pieces: how often a cut pack's prompt runs; encodes: how often its images do, for a sharded tower has no memory of them.
    """
    sampled, prompts = (
        work.prompts * work.rows * work.completion,
        work.prompts * work.prompt_runs * work.prompt * pieces,
    )
    layers = 2 * sizes.active_layer * sizes.text.layers * (prompts + sampled)
    distinct = _images(sizes, work) * encodes
    images = distinct if work.prompt_runs == 1 else distinct * work.prompts * work.rows / _distinct_images(work)
    return layers + attention_operations(sizes, work, pieces), images, 2 * sizes.embedding * sampled


def _images(sizes: ModelSizes, work: Workload) -> float:
    """The vision tower over an iteration's distinct images, without its attention, most of which is in windows."""
    parts = sizes.parameters
    return _distinct_images(work) * (2 * work.patches * (parts.get("vision tower", 0) + parts.get("projector", 0) / 4))


def _distinct_images(work: Workload) -> float:
    return work.prompts if work.own_images else work.prompts / work.variants


def _generating(
    config: Mapping[str, Any], sizes: ModelSizes, work: Workload, flops: float, gpu: GPU, kv_cache: int | None
) -> float:
    assert gpu.bandwidth is not None
    engines, engine, itemsize = max(1, int(config["num_env_runners"])), config["engine"], ITEMSIZE[config["dtype"]]
    ways = int(config["vllm"]["tensor_parallel_size"]) if engine == "vllm" else 1
    weights = sizes.parameters["language model"]
    sequence = (work.prompt + work.completion / 2) * kv_bytes(sizes, itemsize, ways)  # bytes while it is decoded
    fitting = int(kv_cache / sequence) if kv_cache else MAX_SEQUENCES
    sequences = work.prompts * work.samples / engines
    at_once = max(1.0, min(MAX_SEQUENCES, fitting, sequences))
    step = max(
        (weights * itemsize / ways + at_once * sequence) / (gpu.bandwidth * BANDWIDTH[engine]),
        2 * weights * at_once / (ways * flops * PREFILL_MFU),
    )
    layers = work.prompts / engines * 2 * sizes.active_layer * sizes.text.layers * work.prompt
    prefill = (layers + _images(sizes, work) / engines) / (ways * flops * PREFILL_MFU)
    if engine == "vllm":
        step += SEEDED * at_once
    if ways > 1:
        link = LINK * (gpu.link or NETWORK)
        token = 2 * sizes.text.layers * sizes.text.hidden * itemsize / link  # what its hidden states take on the way
        step += 2 * sizes.text.layers * ALL_REDUCE + token * at_once
        prefill += token * work.prompt * work.prompts / engines
    return sequences / at_once * work.completion * step + prefill
