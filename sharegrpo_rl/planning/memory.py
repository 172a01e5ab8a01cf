"""Bytes that a forward pass keeps for the backward one, layer by layer.

Counted from what the layers of transformers save (a test counts it again on a real step): norms compute in float32, the
MLP keeps the results of both its branches, attention its queries, keys, values and output. No logits: see `head_bytes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sharegrpo_rl.models.sizes import LayerSizes, ModelSizes, VisionSizes
from sharegrpo_rl.planning.workload import GENERATING, LEARNING, MicroBatch, Part, Workload

# ---- Which parameters of a run train, in which types, and over how many ranks they are spread.

BYTES = {"float32": 4, "bfloat16": 2}
TARGETS = {"language": "language model", "vision": "vision tower", "projector": "projector"}


@dataclass(frozen=True)
class Training:
    """How the learner holds a model."""

    bytes: int  # of a weight, as the model computes
    trained: Mapping[str, int]  # part -> parameters that train (adapters, where there are any)
    adapters: bool
    ranks: int
    sharded: bool  # FSDP2: each matrix is spread over the ranks
    offload: bool  # what is spread waits in host memory
    reference: bool  # a frozen copy of the model beside it; with LoRA the model without adapters does
    checkpointing: str  # none, selective or full

    @property
    def shards(self) -> int:
        """Ranks that a matrix is spread over."""
        return self.ranks if self.sharded else 1

    @property
    def parameters(self) -> int:
        return sum(self.trained.values())

    def trains(self, part: str) -> bool:
        return self.trained.get(part, 0) > 0


def training(config: Mapping[str, Any], sizes: ModelSizes) -> Training:
    """Read a resolved config."""
    sharded = config["num_learners"] > 0 and config["sharding"] == "fsdp2"
    return Training(
        bytes=BYTES[config["dtype"]],
        trained=_trained(config, sizes),
        adapters=config["lora"] is not None,
        ranks=max(1, config["num_learners"]),
        sharded=sharded,
        offload=sharded and config["cpu_offload"],
        reference=uses_reference(config) and config["lora"] is None,
        checkpointing=config["activation_checkpointing"],
    )


def uses_reference(config: Mapping[str, Any]) -> bool:
    """Does a KL to the frozen model take part?"""
    if config.get("kl_schedule", "constant") != "constant":
        return max(config["kl_min"], config["kl_max"]) > 0
    return config.get("kl_coeff", 0.0) > 0


def _trained(config: Mapping[str, Any], sizes: ModelSizes) -> dict[str, int]:
    lora = config["lora"]
    if lora is not None:
        parts = [TARGETS[target] for target in lora["target_modules"]]
        return {part: lora["r"] * sizes.lora_width.get(part, 0) for part in parts}
    frozen = {"vision tower": config["freeze_vision_tower"], "projector": config["freeze_projector"]}
    return {part: 0 if frozen.get(part, False) else count for part, count in sizes.parameters.items()}


WIDE = 4  # bytes of a float32 number
CHUNK_VALUES = {"cpu": 1 << 24, "gpu": 1 << 27}  # as in ops/logprobs.py
FEWEST_ROWS = 64
CHANNELS, FRAMES = 3, 2  # of an image patch


@dataclass(frozen=True)
class Activations:
    """Bytes at the height of a micro-batch: what is saved, and what is at work on top of it."""

    language: int
    vision: int
    head: int  # a chunk of logits, with the gradient of the output head
    layer: int  # one layer's backward pass, run again before it under gradient checkpointing
    encoding: int  # one layer of the vision tower, before the language model runs

    @property
    def peak(self) -> int:
        return max(self.language + self.vision + max(self.head, self.layer), self.vision + self.encoding)


def activations(sizes: ModelSizes, train: Training, work: Workload, micro: MicroBatch, device: str) -> Activations:
    """The activations of a rank's largest micro-batch; device: cpu or gpu."""
    text, b, tokens = sizes.text, train.bytes, micro.tokens
    saved = layer_bytes(text, b, train.adapters, tokens) + attention_copies(text, b, work, micro, device)
    kept = {
        "none": saved,
        "full": tokens * text.hidden * b,
        "selective": tokens * product_bytes(text, b),
    }[train.checkpointing]
    ends = tokens * text.hidden * (WIDE + 2 * b)
    again = saved - kept if train.checkpointing == "selective" else saved if train.checkpointing == "full" else 0
    return Activations(
        language=text.layers * kept + ends,
        vision=_vision_bytes(sizes.vision, train, work, micro),
        head=head_bytes(sizes, train, tokens - micro.prompts * work.prompt, device),
        layer=again + backward_bytes(text, b, tokens),
        encoding=_encoding_bytes(sizes.vision, train, work, micro),
    )


def layer_bytes(stack: LayerSizes, b: int, adapters: bool, tokens: int) -> int:
    """What a language layer saves."""
    hidden, inner = stack.hidden, stack.intermediate
    heads, pairs = stack.heads * stack.head_dim, stack.kv_heads * stack.head_dim
    attention = (heads + 2 * pairs) * b + heads * b + stack.heads * WIDE
    matrices = 3 if stack.gated else 1
    if not adapters:
        # norm: its input in float32, normalized, multiplied; MLP: a matrix product each, the activation, their product
        norms, inputs = 2 * hidden * (WIDE + 2 * b), (4 if stack.gated else 2) * inner * b
    else:
        # frozen matrices and norms keep no inputs; each adapter keeps its own in float32
        norms, inputs = 2 * hidden * WIDE, matrices * inner * b + inner * WIDE
        inputs += (5 * hidden + heads) * WIDE if b < WIDE else 2 * hidden * WIDE
    if stack.head_norms:
        inputs += (heads + pairs) * (WIDE + b)
    return tokens * (norms + attention + inputs)


def attention_copies(stack: LayerSizes, b: int, work: Workload, micro: MicroBatch, device: str) -> int:
    """In float32 on a GPU every completion attends to a copy of its prompt's keys and values, repeated for each head
    (`models/branch_attention.py`); in bfloat16, and on a CPU, nothing is copied."""
    if device == "cpu" or b < WIDE or work.rows == 1:
        return 0
    heads = stack.heads * stack.head_dim
    return b * heads * (2 * micro.rows * (work.prompt + work.completion) + 2 * micro.tokens)


def product_bytes(stack: LayerSizes, b: int) -> int:
    """A token's matrix products and attention, and a layer's input: what `activation_checkpointing: selective` keeps."""
    heads, pairs = stack.heads * stack.head_dim, stack.kv_heads * stack.head_dim
    inner = stack.intermediate * (2 if stack.gated else 1)
    return b * (3 * stack.hidden + 2 * heads + 2 * pairs + inner) + stack.heads * WIDE


def backward_bytes(stack: LayerSizes, b: int, tokens: int) -> int:
    """Gradients at work inside a layer: those of the MLP's inner values, and of the layer's own."""
    inner = (3 if stack.gated else 2) * stack.intermediate
    return tokens * (inner + 2 * stack.hidden) * b


def head_bytes(sizes: ModelSizes, train: Training, labels: int, device: str) -> int:
    """A chunk of logits twice (with its gradient, or its probabilities), and the gradient of the head where it trains."""
    rows = max(1, min(CHUNK_VALUES[device] // sizes.vocabulary, max(FEWEST_ROWS, -(-labels // 4))))
    chunk = rows * sizes.vocabulary * (2 * WIDE + (0 if train.bytes == WIDE else train.bytes))
    trained = 0 if train.adapters else sizes.embedding * (WIDE if train.bytes == WIDE else WIDE + 2 * train.bytes)
    return chunk + trained


def patch_bytes(vision: VisionSizes, b: int) -> int:
    """What a layer of the vision tower saves for each patch; plain MLPs come with LayerNorm, which keeps less."""
    stack = vision.stack
    norms = 2 * stack.hidden * (WIDE + 2 * b if stack.gated else 2 * b)
    attention = 7 * stack.hidden * b + stack.heads * WIDE  # q, k, all three in one, output, outputs joined
    return norms + attention + (4 if stack.gated else 2) * stack.intermediate * b


def _vision_bytes(vision: VisionSizes | None, train: Training, work: Workload, micro: MicroBatch) -> int:
    """The graph of the images that are held at once."""
    if vision is None:
        return 0
    b, patches, stack = train.bytes, work.patches * micro.images, vision.stack
    ends = 5 * stack.hidden * b if train.trains("projector") or train.trains("vision tower") else 0
    if train.trains("vision tower"):
        layer = {"none": patch_bytes(vision, b), "full": stack.hidden * b, "selective": product_bytes(stack, b)}
        ends += CHANNELS * FRAMES * vision.patch**2 * b + stack.layers * layer[train.checkpointing]
    return patches * ends


def _encoding_bytes(vision: VisionSizes | None, train: Training, work: Workload, micro: MicroBatch) -> int:
    """One layer at work: about what it would save."""
    return 0 if vision is None else work.patches * micro.images * patch_bytes(vision, train.bytes)


# ---- Memory of what generates: an engine of vLLM, or the training model itself.

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


# ---- Memory of a learner rank: what stays (weights, gradients, optimizer), and what a micro-batch takes on top.

CUDA = 2 * 2**30  # of a GPU, assumed: CUDA, libraries, communication buffers, fragments
HEAP = 0.2  # of the activations on a CPU: holes in the heap, which freed memory does not leave (measured 0.1 to 0.3)


def learner_parts(sizes: ModelSizes, train: Training, at_work: Activations, device: str) -> list[Part]:
    """The parts of one rank on its device: cpu or gpu."""
    parts = [*([] if train.offload else kept(sizes, train)), *_unsharded(sizes, train), *_micro_batch(at_work)]
    if device == "gpu":
        parts.append(Part("reserve", CUDA, "CUDA, libraries, communication, fragments (assumed)"))
    else:
        parts.append(Part("heap", int(HEAP * at_work.peak), "holes that freed tensors leave (assumed)", LEARNING))
    return [p for p in parts if p.bytes]


def kept(sizes: ModelSizes, train: Training) -> list[Part]:
    """What stays between steps: on the rank's device, or under `cpu_offload` in host memory."""
    spread = f", over {train.shards} ranks" if train.shards > 1 else ""
    full = 0 if train.adapters else train.parameters  # weights of the model itself that train
    # FSDP2 holds what trains in float32 and computes with it in the shorter type; elsewhere a float32 copy stands beside.
    wide = train.sharded and train.bytes < FLOAT32
    held = sizes.total * train.bytes + (full * (FLOAT32 - train.bytes) if wide else 0)
    number = f"{_count(sizes.total)}, {'float32 where they train' if wide and full else _type(train.bytes)}"
    parts = [
        Part("weights", held // train.shards, number + spread),
        Part(
            "gradients", train.parameters * FLOAT32 // train.shards, f"of {_count(train.parameters)}, float32{spread}"
        ),
        Part("optimizer", 2 * train.parameters * FLOAT32 // train.shards, f"AdamW's two moments, float32{spread}"),
    ]
    if train.adapters:
        parts.insert(
            1, Part("adapters", train.parameters * FLOAT32 // train.shards, f"{_count(train.parameters)}, float32")
        )
    if full and not wide and train.bytes < FLOAT32:
        parts.append(Part("master weights", full * FLOAT32, "a float32 copy of what trains"))
    if train.reference:
        reference = sizes.total * train.bytes // train.shards
        parts.append(Part("reference", reference, f"the frozen model that the KL looks at{spread}"))
    return parts


def _unsharded(sizes: ModelSizes, train: Training) -> list[Part]:
    """FSDP2's parts that are whole: two layers, embeddings and head, and the gradients of a layer and of those."""
    if not train.sharded:
        return []
    ends = sizes.embedding * (1 if sizes.tied else 2)
    weights = (2 * sizes.layer + ends) * train.bytes
    gradients = 0 if train.adapters else sizes.layer * (train.bytes + FLOAT32) + ends * train.bytes
    return [
        Part("unsharded parts", weights + gradients, "two layers, embeddings and head, and their gradients", LEARNING)
    ]


def _micro_batch(at_work: Activations) -> list[Part]:
    """What is there at the height of a micro-batch, which is in the language model, or while images are encoded."""
    vision = Part("vision tower, saved", at_work.vision, "the graph of the images that are held at once", LEARNING)
    if at_work.vision + at_work.encoding == at_work.peak:
        return [vision, Part("vision layer", at_work.encoding, "one at work", LEARNING)]
    if at_work.head > at_work.layer:
        last = Part("output head", at_work.head, "a chunk of logits, and the head's gradient", LEARNING)
    else:
        last = Part("one layer at work", at_work.layer, "its backward pass, and what that computes again", LEARNING)
    return [Part("layers, saved", at_work.language, "activations for the backward pass", LEARNING), vision, last]


def _count(number: int) -> str:
    return f"{number / 1e9:.2f} G" if number >= 1e9 else f"{number / 1e6:.2f} M"


def _type(size: int) -> str:
    return {4: "float32", 2: "bfloat16"}[size]
