"""A whole learner step on a GPU, of a random model of real sizes: seconds, memory, and operations of the model a second.

    uv run --group benchmark python benchmarks/gpu_step.py --sides ours rows trl --group 8 --tokens 256 512 1024

Each side has a process of its own, with all shapes in turn. Sides: `ours`, `rows` (a row for each completion, with our
optimizer) and `trl`, with words behind them: `checkpointed` (activations are computed again), `products` (the cheap ones
are), `portable` (no kernels for sequences of several lengths), `windows` (our attention in the vision tower of `rows`),
`compiled` (norms and MLPs), `lora` (ours alone: adapters of the language model), as in `ours+portable+checkpointed`. The
learning rate is 0: every step starts from the same weights, and losses and gradient norms can be compared.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

import numpy as np
import torch
from arguments import versions
from gpu_sides import Step, make_side
from real_sizes import TEXT
from workload import Work, counts, off_policy, packs

from sharegrpo_rl.models.sizes import measure as measure_sizes
from sharegrpo_rl.planning.seconds import model_operations
from sharegrpo_rl.planning.workload import Workload

GIB = 2**30
TINY = Work(image=56, group=2, tokens=2, completions=2)


def measure_side(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All shapes on one side, in this process."""
    model, policy, prepare = make_side(options)
    sizes, vocabulary = measure_sizes(model.config), model.get_output_embeddings().weight.shape[0]
    prepare(packs(policy, TINY))()  # gradients and the optimizer's moments exist from here on
    for tokens in options.tokens:
        work = Work(options.image, options.group, tokens, options.group * options.prompts)
        given = off_policy(packs(policy, work), vocabulary)
        shape = {"side": options.side, "tokens": tokens} | counts(given)
        try:
            result = measured(prepare(given), options)
        except torch.OutOfMemoryError:
            result = {"seconds": None}
            torch.cuda.empty_cache()
        if result["seconds"]:
            result["completion_tokens_per_s"] = round(shape["completion_tokens"] / result["seconds"])
            operations = model_operations(sizes, workload(shape, options))
            result["model_tflops"] = round(operations / result["seconds"] / 1e12, 2)
        yield shape | result


def measured(step: Step, options: argparse.Namespace) -> dict[str, Any]:
    """Loss, gradient norm and peak of a first step, seconds of the others."""
    held, times = start_peak(options), []
    loss, norm = step()
    on_gpu = options.device == "cuda"
    peak = torch.cuda.max_memory_allocated() if on_gpu else 0
    reserved = torch.cuda.max_memory_reserved() if on_gpu else 0
    for _ in range(options.repeats):
        start = time.perf_counter()
        step()
        if on_gpu:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    low, high = np.quantile(times, [0.25, 0.75])
    return {
        "loss": loss,
        "grad_norm": norm,
        "seconds": round(median(times), 4),
        "seconds_iqr": round(float(high - low), 4),
        "between_steps_gib": round(held / GIB, 2),  # weights, gradients, optimizer
        "peak_gib": round(peak / GIB, 2),
        "reserved_gib": round(reserved / GIB, 2),  # by the allocator, at its height
    }


def start_peak(options: argparse.Namespace) -> int:
    """Bytes that are held now; the high-water mark starts again."""
    if options.device != "cuda":
        return 0
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def workload(shape: dict[str, Any], options: argparse.Namespace) -> Workload:
    """The shape as the planner counts it."""
    prompts, prompt, rows = shape["packs"], shape["prompt_tokens"], options.group
    patches = shape["image_patches"] // prompts
    tokens = shape["tokens"]
    return Workload(prompt, tokens, prompt, tokens, patches, prompts, 1, rows, rows, 1, 1, 1, False)


def main(words: Sequence[str] | None = None) -> None:
    command = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = command.add_argument
    add("--sides", nargs="+", default=["ours", "rows", "trl"], metavar="SIDE")
    add("--side", help=argparse.SUPPRESS)  # of a process of its own
    add("--model", choices=TEXT, default="3b", help="Qwen2.5-VL's sizes, or a tiny one to try a command out")
    add("--device", choices=("cuda", "cpu"), default="cuda")
    add("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    add("--image", type=int, default=896, metavar="PX", help="edge; a token for each 28 x 28 pixels; 0: text only")
    add("--group", type=int, default=8, metavar="G", help="completions of each prompt")
    add("--prompts", type=int, default=4, metavar="P", help="of an optimizer step, each with an image of its own")
    add("--tokens", type=int, nargs="+", default=[512], metavar="T", help="of each completion")
    add(
        "--max-tokens-per-microbatch",
        type=int,
        default=16_384,
        metavar="N",
        help="tokens of a micro-batch of ours; peers: a prompt's",
    )
    add("--repeats", type=int, default=5, metavar="N")
    options = command.parse_args(words)
    if options.side:
        device = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
        for found in measure_side(options):
            result = {"measurement": "gpu_step", "device": device, "repeats": options.repeats} | found
            print(json.dumps(result | {"versions": versions()}), flush=True)
        return
    for side in options.sides:
        arguments = [*(sys.argv[1:] if words is None else words), "--side", side]
        subprocess.run([sys.executable, __file__, *arguments], check=True)


if __name__ == "__main__":
    main()
