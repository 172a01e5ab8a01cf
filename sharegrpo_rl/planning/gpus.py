"""GPU types: how much memory, how fast it is read, how fast matrices are multiplied."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass

from sharegrpo_rl.errors import UserError

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
