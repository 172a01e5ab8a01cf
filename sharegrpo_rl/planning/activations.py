"""Bytes that a forward pass keeps for the backward one, layer by layer.

Counted from what the layers of transformers save (a test counts it again on a real step): norms compute in float32, the
MLP keeps the results of both its branches, attention its queries, keys, values and output. No logits: see `head_bytes`.
"""

from __future__ import annotations

from dataclasses import dataclass

from sharegrpo_rl.models.sizes import LayerSizes, ModelSizes, VisionSizes
from sharegrpo_rl.planning.training import Training
from sharegrpo_rl.planning.workload import MicroBatch, Workload

WIDE = 4  # bytes of a float32 number
CHUNK_VALUES = {"cpu": 1 << 24, "gpu": 1 << 27}  # as in ops/head_logprobs.py
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
        None: saved,
        "nothing": tokens * text.hidden * b,
        "products": tokens * product_bytes(text, b),
    }[train.checkpointing]
    ends = tokens * text.hidden * (WIDE + 2 * b)
    again = saved - kept if train.checkpointing == "products" else saved if train.checkpointing else 0
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
    """A token's results of matrix products and attention, and a layer's input: what `checkpoint_keep: products` keeps."""
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
        layer = {None: patch_bytes(vision, b), "nothing": stack.hidden * b, "products": product_bytes(stack, b)}
        ends += CHANNELS * FRAMES * vision.patch**2 * b + stack.layers * layer[train.checkpointing]
    return patches * ends


def _encoding_bytes(vision: VisionSizes | None, train: Training, work: Workload, micro: MicroBatch) -> int:
    """One layer at work: about what it would save."""
    return 0 if vision is None else work.patches * micro.images * patch_bytes(vision, train.bytes)
