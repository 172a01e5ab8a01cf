"""Bytes that a process holds: weights and optimizer, activations, and the KV cache of what generates.

Activations are counted from what the layers of transformers save for the backward pass (a test counts them again on a
real step): norms compute in float32, the MLP keeps the results of both its branches, attention its queries, keys, values
and output. Logits exist only a chunk at a time: see `head_bytes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sharegrpo_rl.models.sizes import LayerSizes, ModelSizes, VisionSizes
from sharegrpo_rl.planning.gpus import GIB
from sharegrpo_rl.planning.workload import MicroBatch, Workload

ITEMSIZE = {"float32": 4, "bfloat16": 2}
FLOAT32 = 4
LORA_PARTS = {"language": "language model", "vision": "vision tower", "projector": "projector"}

ALWAYS, LEARNING, GENERATING = "always", "learning", "generating"

GPU_RESERVE = 2 * GIB  # of a GPU, assumed: CUDA, libraries, communication buffers, fragments
HEAP_HOLES = 0.2  # of the activations on a CPU: freed memory that stays in the heap (measured 0.1 to 0.3)
ENGINE_WORK = 3 * GIB  # of each GPU of an engine, assumed: activations of prefill and of images, CUDA graphs
HF_CACHE_TOKENS = 65536  # cached tokens that generation/hf.py holds at once
CHUNK_VALUES = {"cpu": 1 << 24, "gpu": 1 << 27}  # as in ops/logprobs.py
FEWEST_ROWS = 64
CHANNELS, FRAMES = 3, 2  # of an image patch


@dataclass(frozen=True)
class Part:
    """One part of a process's memory, in bytes; `phase` says when it exists."""

    name: str
    bytes: int
    how: str = ""
    phase: str = ALWAYS


@dataclass(frozen=True)
class Training:
    """How the learner holds a model."""

    itemsize: int  # bytes of a weight, as the model computes
    trained: Mapping[str, int]  # part -> parameters that train (adapters, where there are any)
    adapters: bool
    ranks: int
    sharded: bool  # FSDP2: each matrix is spread over ranks
    offload: bool  # shards wait in host memory
    reference: bool  # a second, frozen copy of the model; with LoRA, the model without its adapters serves instead
    checkpointing: str  # none, selective or full
    fsdp_size: int | None = None  # ranks that a copy is spread over; None for all

    @classmethod
    def from_config(cls, config: Mapping[str, Any], sizes: ModelSizes) -> Training:
        """Read a resolved config."""
        lora = config["lora"]
        sharded = config["num_learners"] > 0 and config["sharding"] == "fsdp2"
        if lora is not None:
            parts = [LORA_PARTS[target] for target in lora["target_modules"]]
            trained = {part: lora["r"] * sizes.lora_width.get(part, 0) for part in parts}
        else:
            frozen = {"vision tower": config["freeze_vision_tower"], "projector": config["freeze_projector"]}
            trained = {part: 0 if frozen.get(part, False) else count for part, count in sizes.parameters.items()}
        return cls(
            itemsize=ITEMSIZE[config["dtype"]],
            trained=trained,
            adapters=lora is not None,
            ranks=max(1, config["num_learners"]),
            sharded=sharded,
            offload=sharded and config["cpu_offload"],
            reference=uses_reference(config) and lora is None,
            checkpointing=config["activation_checkpointing"],
            fsdp_size=config["fsdp_size"],
        )

    @property
    def shards(self) -> int:
        """Ranks that a matrix is spread over."""
        return (self.fsdp_size or self.ranks) if self.sharded else 1

    @property
    def parameters(self) -> int:
        return sum(self.trained.values())

    @property
    def committed_bytes(self) -> int:
        """On disk, what training goes on from: each trained weight and its two moments, in float32."""
        return 12 * self.parameters

    def trains(self, part: str) -> bool:
        return self.trained.get(part, 0) > 0


@dataclass(frozen=True)
class Activations:
    """Bytes at the peak of a micro-batch: what is saved, and what is at work on top of it."""

    language: int
    vision: int
    head: int  # a chunk of logits, with the gradient of the output head
    layer: int  # one layer's backward pass, and its forward again under activation checkpointing
    encoding: int  # one layer of the vision tower, before the language model runs

    @property
    def total(self) -> int:
        return max(self.language + self.vision + max(self.head, self.layer), self.vision + self.encoding)


def uses_reference(config: Mapping[str, Any]) -> bool:
    """Does a KL to the frozen model take part?"""
    if config.get("kl_schedule", "constant") != "constant":
        return bool(max(config["kl_min"], config["kl_max"]) > 0)
    return bool(config.get("kl_coeff", 0.0) > 0)


def learner_parts(sizes: ModelSizes, train: Training, peak: Activations, device: str) -> list[Part]:
    """The parts of one rank on its device: cpu or gpu."""
    parts = [*([] if train.offload else resident_parts(sizes, train)), *_gathered(sizes, train), *_micro_batch(peak)]
    if device == "gpu":
        parts.append(Part("reserve", GPU_RESERVE, "CUDA, libraries, communication, fragments (assumed)"))
    else:
        parts.append(Part("heap", int(HEAP_HOLES * peak.total), "holes left by freed tensors (assumed)", LEARNING))
    return [part for part in parts if part.bytes]


def resident_parts(sizes: ModelSizes, train: Training) -> list[Part]:
    """What stays between steps: on the rank's device, or under `cpu_offload` in host memory."""
    over = f", over {train.shards} ranks" if train.shards > 1 else ""
    trained = 0 if train.adapters else train.parameters  # weights of the model itself
    # FSDP2 holds trained weights in float32 and computes in the shorter type; elsewhere there is an additional float32 copy.
    wide = train.sharded and train.itemsize < FLOAT32
    weights = sizes.total * train.itemsize + (trained * (FLOAT32 - train.itemsize) if wide else 0)
    dtype = "float32 where they train" if wide and trained else "float32" if train.itemsize == FLOAT32 else "bfloat16"
    state = train.parameters * FLOAT32
    parts = [Part("weights", weights // train.shards, f"{_short_count(sizes.total)}, {dtype}{over}")]
    if train.adapters:
        parts.append(Part("adapters", state // train.shards, f"{_short_count(train.parameters)}, float32"))
    parts += [
        Part("gradients", state // train.shards, f"of {_short_count(train.parameters)}, float32{over}"),
        Part("optimizer", 2 * state // train.shards, f"AdamW's two moments, float32{over}"),
    ]
    if trained and not wide and train.itemsize < FLOAT32:
        parts.append(Part("master weights", trained * FLOAT32, "a float32 copy of the trained weights"))
    if train.reference:
        reference = sizes.total * train.itemsize // train.shards
        parts.append(Part("reference", reference, f"the frozen model of the KL{over}"))
    return parts


def _gathered(sizes: ModelSizes, train: Training) -> list[Part]:
    """What FSDP2 gathers whole: two layers, embeddings and head, and the gradients of a layer and of those."""
    if not train.sharded:
        return []
    ends = sizes.embedding * (1 if sizes.tied else 2)
    weights = (2 * sizes.layer + ends) * train.itemsize
    gradients = 0 if train.adapters else sizes.layer * (train.itemsize + FLOAT32) + ends * train.itemsize
    how = "two layers, embeddings and head, and their gradients"
    return [Part("unsharded parts", weights + gradients, how, LEARNING)]


def _micro_batch(peak: Activations) -> list[Part]:
    """What exists at the peak of a micro-batch: in the language model, or while images are encoded."""
    vision = Part("vision tower, saved", peak.vision, "the graph of the images held at once", LEARNING)
    if peak.vision + peak.encoding == peak.total:
        return [vision, Part("vision layer", peak.encoding, "one at work", LEARNING)]
    if peak.head > peak.layer:
        last = Part("output head", peak.head, "a chunk of logits, and the head's gradient", LEARNING)
    else:
        last = Part("one layer at work", peak.layer, "its backward pass, and what that recomputes", LEARNING)
    return [Part("layers, saved", peak.language, "activations for the backward pass", LEARNING), vision, last]


def _short_count(number: int) -> str:
    return f"{number / 1e9:.2f} G" if number >= 1e9 else f"{number / 1e6:.2f} M"


def engine_parts(
    sizes: ModelSizes, work: Workload, vllm: Mapping[str, Any], itemsize: int, budget: int | None
) -> list[Part]:
    """Parts of an engine on each of its GPUs. budget: the bytes it may use there, all of which it takes.

    The KV cache holds at least one longest sequence: with less vLLM does not start.
    """
    ways = vllm["tensor_parallel_size"]
    over = f", over {ways} GPUs" if ways > 1 else ""
    parts = [
        Part("weights", sizes.total * itemsize // ways, f"of the engine{over}", GENERATING),
        Part("engine at work", ENGINE_WORK, "prefill, images, CUDA graphs (assumed)", GENERATING),
    ]
    longest = work.longest * kv_bytes(sizes, itemsize, ways)
    if vllm["kv_cache_gb"] is not None:
        room = int(vllm["kv_cache_gb"] * GIB)
    else:
        room = 0 if budget is None else max(0, budget - sum(part.bytes for part in parts))
    sequences = room // longest
    how = f"{sequences:,} sequences of {work.longest:,} tokens at once" if room else "one longest sequence"
    return [*parts, Part("KV cache", max(longest, room), how, GENERATING)]


def hf_parts(sizes: ModelSizes, work: Workload, itemsize: int) -> list[Part]:
    """What the training model takes on top of its weights to generate: a batch's KV cache, and a step's logits."""
    each = work.prompt_limit + work.samples * work.completion_limit
    prompts = max(1, min(work.prompts, HF_CACHE_TOKENS // each))
    cached = prompts * each
    logits = prompts * work.samples * sizes.vocabulary * 4 * FLOAT32
    prefill = layer_bytes(sizes.text, itemsize, False, prompts * work.prompt_limit)
    return [
        Part(
            "KV cache",
            cached * kv_bytes(sizes, itemsize),
            f"{cached:,} tokens of {prompts} prompts at once",
            GENERATING,
        ),
        Part("logits", logits, f"of {prompts * work.samples} tokens, with probabilities", GENERATING),
        Part("prefill", prefill, "one layer over the batch's prompts", GENERATING),
    ]


def kv_bytes(sizes: ModelSizes, itemsize: int, ways: int = 1) -> int:
    """Keys and values of one token on each of `ways` GPUs; where there are fewer heads than GPUs, heads are repeated."""
    heads = max(1, sizes.text.kv_heads // ways)
    return 2 * sizes.text.attending * heads * sizes.text.head_dim * itemsize


def activations(sizes: ModelSizes, train: Training, work: Workload, micro: MicroBatch, device: str) -> Activations:
    """The activations of a rank's largest micro-batch; device: cpu or gpu."""
    text, itemsize, tokens = sizes.text, train.itemsize, micro.tokens
    saved = layer_bytes(text, itemsize, train.adapters, tokens) + attention_copies(text, itemsize, work, micro, device)
    full, selective = tokens * text.hidden * itemsize, tokens * product_bytes(text, itemsize)
    kept = {"none": saved, "full": full, "selective": selective}[train.checkpointing]
    again = {"none": 0, "full": saved, "selective": saved - selective}[train.checkpointing]
    ends = tokens * text.hidden * (FLOAT32 + 2 * itemsize)
    patches = work.patches * micro.images
    return Activations(
        language=text.layers * kept + ends,
        vision=patches * _saved_patch_bytes(sizes.vision, train) if sizes.vision else 0,
        head=head_bytes(sizes, train, tokens - micro.prompts * work.prompt, device),
        layer=again + backward_bytes(text, itemsize, tokens),
        encoding=patches * patch_bytes(sizes.vision, itemsize)
        if sizes.vision
        else 0,  # about what the layer would save
    )


def layer_bytes(stack: LayerSizes, itemsize: int, adapters: bool, tokens: int) -> int:
    """What a language layer saves."""
    hidden, inner = stack.hidden, stack.intermediate
    queries, keys = stack.heads * stack.head_dim, stack.kv_heads * stack.head_dim
    attention = (2 * queries + 2 * keys) * itemsize + stack.heads * FLOAT32
    if not adapters:
        # norm: its input in float32, normalized, multiplied; MLP: a matrix product each, the activation, their product
        norms, inputs = 2 * hidden * (FLOAT32 + 2 * itemsize), (4 if stack.gated else 2) * inner * itemsize
    else:
        # frozen matrices and norms keep no inputs; each adapter keeps its own in float32
        norms, inputs = 2 * hidden * FLOAT32, (3 if stack.gated else 1) * inner * itemsize + inner * FLOAT32
        inputs += (5 * hidden + queries) * FLOAT32 if itemsize < FLOAT32 else 2 * hidden * FLOAT32
    if stack.head_norms:
        inputs += (queries + keys) * (FLOAT32 + itemsize)
    return tokens * (norms + attention + inputs)


def attention_copies(stack: LayerSizes, itemsize: int, work: Workload, micro: MicroBatch, device: str) -> int:
    """In float32 on a GPU every completion attends to a copy of its prompt's keys and values, repeated for each head
    (`models/branch_attention.py`); in bfloat16, and on a CPU, nothing is copied."""
    if device == "cpu" or itemsize < FLOAT32 or work.rows == 1:
        return 0
    queries = stack.heads * stack.head_dim
    return itemsize * queries * (2 * micro.rows * (work.prompt + work.completion) + 2 * micro.tokens)


def product_bytes(stack: LayerSizes, itemsize: int) -> int:
    """A token's matrix products and attention, and a layer's input: what `activation_checkpointing: selective` keeps."""
    queries, keys = stack.heads * stack.head_dim, stack.kv_heads * stack.head_dim
    inner = stack.intermediate * (2 if stack.gated else 1)
    return itemsize * (3 * stack.hidden + 2 * queries + 2 * keys + inner) + stack.heads * FLOAT32


def backward_bytes(stack: LayerSizes, itemsize: int, tokens: int) -> int:
    """Gradients at work inside a layer: those of the MLP's inner values, and of the layer's own."""
    inner = (3 if stack.gated else 2) * stack.intermediate
    return tokens * (inner + 2 * stack.hidden) * itemsize


def head_bytes(sizes: ModelSizes, train: Training, labels: int, device: str) -> int:
    """A chunk of logits twice (with its gradient, or its probabilities), and the gradient of the head where it trains."""
    short = 0 if train.itemsize == FLOAT32 else train.itemsize
    rows = max(1, min(CHUNK_VALUES[device] // sizes.vocabulary, max(FEWEST_ROWS, -(-labels // 4))))
    chunk = rows * sizes.vocabulary * (2 * FLOAT32 + short)
    return chunk + (0 if train.adapters else sizes.embedding * (FLOAT32 + 2 * short))


def patch_bytes(vision: VisionSizes, itemsize: int) -> int:
    """What a layer of the vision tower saves for each patch; plain MLPs come with LayerNorm, which keeps less."""
    stack = vision.stack
    norms = 2 * stack.hidden * (FLOAT32 + 2 * itemsize if stack.gated else 2 * itemsize)
    attention = 7 * stack.hidden * itemsize + stack.heads * FLOAT32  # q, k, all three in one, output, outputs joined
    return norms + attention + (4 if stack.gated else 2) * stack.intermediate * itemsize


def _saved_patch_bytes(vision: VisionSizes, train: Training) -> int:
    """What the vision tower and the projector keep of each patch for the backward pass."""
    itemsize, stack = train.itemsize, vision.stack
    saved = 5 * stack.hidden * itemsize if train.trains("projector") or train.trains("vision tower") else 0
    if train.trains("vision tower"):
        layer = {
            "none": patch_bytes(vision, itemsize),
            "full": stack.hidden * itemsize,
            "selective": product_bytes(stack, itemsize),
        }[train.checkpointing]
        saved += CHANNELS * FRAMES * vision.patch**2 * itemsize + stack.layers * layer
    return saved
