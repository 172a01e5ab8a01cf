"""GPU types: how much memory they have, how fast it is read, how fast matrices are multiplied."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from sharegrpo_rl.errors import UserError

MIB, GIB = 2**20, 2**30


@dataclass(frozen=True)
class GPU:
    """One GPU type. The speeds are the makers' figures, without sparsity; None where only the memory is known."""

    name: str
    memory: int  # bytes that a process can have
    bandwidth: float | None = None  # bytes a second
    flops: float | None = None  # of bfloat16 matrix products, a second
    link: float | None = None  # bytes a second to another GPU of its node, one way


# Memory in MiB as nvidia-smi reports it, TB/s, TFLOP/s and GB/s of NVLink or PCIe from NVIDIA's data sheets (SXM where there
# are two forms).
GPUS = {
    name: GPU(name, mib * MIB, terabytes * 1e12, teraflops * 1e12, gigabytes * 1e9)
    for name, mib, terabytes, teraflops, gigabytes in (
        ("h200-141", 143_771, 4.8, 989, 450),
        ("h100-80", 81_559, 3.35, 989, 450),
        ("a100-80", 81_920, 2.04, 312, 300),
        ("a100-40", 40_960, 1.56, 312, 300),
        ("l40s-48", 46_068, 0.864, 362, 32),
        ("a10g-24", 23_028, 0.6, 70, 32),
        ("l4-24", 23_034, 0.3, 121, 32),
        ("rtx4090-24", 24_564, 1.01, 165, 32),
        ("rtx3090-24", 24_576, 0.936, 71, 32),
    )
}


_DRIVER_FILE = Path("/proc/driver/nvidia/version")


def driver_version() -> str | None:
    """The version of this machine's NVIDIA driver; None without one."""
    try:
        found = re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)", _DRIVER_FILE.read_text(errors="replace"))
    except OSError:
        return None
    return found.group(1) if found else None


def choose_gpu(name: str | None, memory_gb: float | None) -> GPU | None:
    """The named type, else this machine's first GPU; None where there is neither.

    memory_gb: GiB of a GPU that is not listed, or less than the named one has. UserError for a type that is not listed.
    """
    if name is not None and name not in GPUS:
        raise UserError(f"--gpu {name}: no such type (known: {', '.join(GPUS)}); or give its memory: --gpu-memory 80")
    if memory_gb is None:
        return GPUS[name] if name is not None else _local_gpu()
    memory = int(memory_gb * GIB)
    return replace(GPUS[name], memory=memory) if name is not None else GPU(f"{memory_gb:g} GiB", memory)


def _local_gpu() -> GPU | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    return parse_smi(done.stdout) if done.returncode == 0 else None


def parse_smi(text: str) -> GPU | None:
    """The first line of nvidia-smi's `name, MiB`, with the speeds of its type where that is listed."""
    name, _, mib = text.strip().split("\n")[0].rpartition(",")
    if not mib.strip().isdigit():
        return None
    memory = int(mib) * MIB
    plain = name.lower().replace(" ", "").replace("geforce", "").replace("-", "")
    for gpu in GPUS.values():
        if gpu.name.split("-")[0] in plain and abs(gpu.memory - memory) < 2 * GIB:
            return replace(gpu, name=name.strip(), memory=memory)
    return GPU(name.strip(), memory)
