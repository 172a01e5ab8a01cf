"""Memory of a learner rank: what stays (weights, gradients, optimizer), and what a micro-batch takes on top."""

from __future__ import annotations

from sharegrpo_rl.models.sizes import ModelSizes
from sharegrpo_rl.planning.activations import Activations
from sharegrpo_rl.planning.process import LEARNING, Part
from sharegrpo_rl.planning.training import Training

CUDA = 2 * 2**30  # of a GPU, assumed: CUDA, libraries, communication buffers, fragments
HEAP = 0.2  # of the activations on a CPU: holes in the heap, which freed memory does not leave (measured 0.1 to 0.3)
FLOAT32 = 4


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
