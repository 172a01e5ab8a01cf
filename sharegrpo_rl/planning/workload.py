"""A kind of process, and the memory of its parts."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.models.sizes import ModelSizes

# ---- GPU types: how much memory, how fast it is read, how fast matrices are multiplied.

GIB = 2**30


@dataclass(frozen=True)
class GPU:
    """One GPU type. The speeds are the makers' figures, without sparsity; None where only the memory is known."""

    name: str
    memory: int  # bytes that a process can have
    bandwidth: float | None = None  # bytes a second
    flops: float | None = None  # of bfloat16 matrix products, a second


def _gpu(name: str, mib: int, tb_per_s: float, tflops: float) -> tuple[str, GPU]:
    return name, GPU(name, mib * 2**20, tb_per_s * 1e12, tflops * 1e12)


# Memory in MiB as nvidia-smi reports it; speeds from NVIDIA's data sheets (SXM where there are two forms).
GPUS: dict[str, GPU] = dict(
    [
        _gpu("h200-141", 143_771, 4.8, 989),
        _gpu("h100-80", 81_559, 3.35, 989),
        _gpu("a100-80", 81_920, 2.04, 312),
        _gpu("a100-40", 40_960, 1.56, 312),
        _gpu("l40s-48", 46_068, 0.864, 362),
        _gpu("a10g-24", 23_028, 0.6, 70),
        _gpu("l4-24", 23_034, 0.3, 121),
        _gpu("rtx4090-24", 24_564, 1.01, 165),
        _gpu("rtx3090-24", 24_576, 0.936, 71),
    ]
)


def choose_gpu(name: str | None, memory_gb: float | None) -> GPU | None:
    """The GPU that is asked for, else this machine's first; None where there is neither.

    memory_gb: GiB of a GPU that is not listed, or less than the named one has. UserError for a type that is not listed.
    """
    if name is not None and name not in GPUS:
        raise UserError(f"--gpu {name}: no such type (known: {', '.join(GPUS)}); or give its memory: --gpu-memory 80")
    gpu = GPUS[name] if name is not None else None
    if memory_gb is not None:
        memory = int(memory_gb * GIB)
        return GPU(gpu.name, memory, gpu.bandwidth, gpu.flops) if gpu else GPU(f"{memory_gb:g} GiB", memory)
    return gpu or _first_here()


def _first_here() -> GPU | None:
    """This machine's first GPU as nvidia-smi describes it, with the speeds of its type where that is listed."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    return parse_smi(done.stdout) if done.returncode == 0 else None


def parse_smi(text: str) -> GPU | None:
    """The first line of nvidia-smi's `name, MiB`."""
    name, _, mib = text.strip().split("\n")[0].rpartition(",")
    if not mib.strip().isdigit():
        return None
    memory = int(mib) * 2**20
    plain = name.lower().replace(" ", "").replace("geforce", "").replace("-", "")
    alike = [g for g in GPUS.values() if g.name.split("-")[0] in plain and abs(g.memory - memory) < 2 * GIB]
    return GPU(name.strip(), memory, alike[0].bandwidth, alike[0].flops) if alike else GPU(name.strip(), memory)


# ---- What an iteration runs over: prompts, completions and micro-batches, in tokens.

TEXT_TOKENS = 256  # assumed for a question, the format prompt and the chat template


@dataclass(frozen=True)
class Workload:
    """Lengths in tokens and counts of one iteration. In SFT nothing is sampled: `samples` is 0, `rows` 1."""

    prompt: int  # mean tokens of a prompt, its image among them
    completion: int  # mean tokens of a completion
    prompt_limit: int
    completion_limit: int
    patches: int  # of the image of a prompt; 0 for a text-only model
    prompts: int  # an iteration
    variants: int  # prompts about the same image
    samples: int  # completions sampled for each prompt
    rows: int  # completions trained under each prompt
    minibatches: int
    epochs: int
    iterations: int
    own_images: bool  # may each variant have an image of its own

    @property
    def pack(self) -> int:
        """Tokens that run through the model for one prompt and its completions."""
        return self.prompt + self.rows * self.completion

    @property
    def longest(self) -> int:
        return self.prompt_limit + self.completion_limit


@dataclass(frozen=True)
class MicroBatch:
    """The largest micro-batch of a rank."""

    tokens: int
    rows: int  # completions in it
    prompts: int
    images: int  # whose features, with their graph, are held at once


def workload(
    config: Mapping[str, Any],
    sizes: ModelSizes,
    iterations: int,
    prompt_tokens: int | None = None,
    completion_tokens: int | None = None,
) -> Workload:
    """The lengths and counts of a resolved config. Means that are not given: one image at `max_pixels` with 256 tokens of
    text, at most `max_prompt_tokens`; completions of half their limit."""
    vision = sizes.vision
    pixels = 0 if vision is None else vision.patch**2
    patches = config["max_pixels"] // pixels if pixels else 0
    image_tokens = patches // vision.merge**2 if vision else 0
    longest = config["max_prompt_tokens"]
    prompt = min(longest, prompt_tokens or TEXT_TOKENS + image_tokens)
    if vision:
        patches = min(patches, prompt * vision.merge**2)
    limit = config["max_completion_tokens"]
    variants, samples = config.get("num_variants", 1), config.get("num_generations", 0)
    shared = variants if config.get("pairing", "native") == "all" else 1
    questions = config["num_questions"]
    return Workload(
        prompt=prompt,
        completion=min(limit, completion_tokens or ceil(limit / 2)),
        prompt_limit=longest,
        completion_limit=limit,
        patches=patches,
        prompts=questions * variants,
        variants=variants,
        samples=samples,
        rows=max(1, samples * shared),
        minibatches=ceil(questions / (config["minibatch_size"] or questions)),
        epochs=config["num_epochs"],
        iterations=iterations,
        own_images=config["transform_probability"] > 0,
    )


def largest_micro_batch(work: Workload, max_tokens_per_microbatch: int, ranks: int) -> MicroBatch:
    """What a rank runs at once: `max_tokens_per_microbatch` tokens where it has so many, at least the longest sequence."""
    prompts = ceil(work.prompts / work.minibatches / ranks)  # of a minibatch
    have = prompts * (work.prompt + work.rows * work.completion_limit)
    tokens = min(max(max_tokens_per_microbatch, work.longest), have)
    if work.pack > tokens:  # a pack is cut into parts that repeat its prompt
        return MicroBatch(tokens, max(1, (tokens - work.prompt) // work.completion), 1, min(1, work.patches))
    whole = min(prompts, tokens // work.pack)
    # One question more than fits: the images of a question that lies across a boundary are held beside the next ones.
    images = (
        min(prompts, whole + 1) if work.own_images else min(ceil(prompts / work.variants), whole // work.variants + 1)
    )
    return MicroBatch(tokens, whole * work.rows, whole, images if work.patches else 0)


ALWAYS, LEARNING, GENERATING = "always", "learning", "generating"


@dataclass(frozen=True)
class Part:
    """One part of a process's memory, in bytes; `phase` says when it is there."""

    name: str
    bytes: int
    how: str = ""
    phase: str = ALWAYS


@dataclass(frozen=True)
class Process:
    """`count` processes of a kind, with `gpus` GPUs each. Bytes are those of one GPU (of the process, on a CPU)."""

    kind: str
    count: int
    gpus: float
    parts: tuple[Part, ...]
    available: int | None = None  # bytes that the parts may take; None where no GPU is known
    notes: tuple[str, ...] = field(default=())

    def bytes_in(self, phase: str) -> int:
        """Bytes while learning or generating, with what is always there."""
        return sum(p.bytes for p in self.parts if p.phase in (ALWAYS, phase))

    @property
    def height(self) -> str:
        """The phase that takes most."""
        return max((LEARNING, GENERATING), key=self.bytes_in)

    @property
    def total(self) -> int:
        """Bytes at the height."""
        return self.bytes_in(self.height)

    @property
    def fits(self) -> bool | None:
        return None if self.available is None else self.total <= self.available
