"""`doctor`: what this machine has, and what is missing; nothing is changed."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import psutil
from packaging.requirements import Requirement
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sharegrpo_rl.errors import package_version
from sharegrpo_rl.statistics.formatting import memory_size

REQUIRED = (
    "torch",
    "torchvision",
    "transformers",
    "ray",
    "gymnasium",
    "datasets",
    "numpy",
    "pillow",
    "math-verify",
    "peft",
)
OPTIONAL = {
    "matplotlib": ("plots", "report, compare, tune and watch"),
    "tensorboard": ("tensorboard", "TensorBoard's events of a run"),
    "openai": ("expand", "expand --endpoint"),
    "optuna": ("optuna", "tune with searcher: optuna"),
    "easy-vqa": ("easy-vqa", "the data of easy_vqa-tiny"),
}
"""Package -> the extra that brings it, and what it is for."""


def diagnosis() -> dict[str, Any]:
    """`ready` (can training start?), `packages` (versions; null: missing), `machine` (as text, by label), `problems`."""
    packages = {name: package_version(name) for name in ("sharegrpo-rl", *REQUIRED, *OPTIONAL)}
    missing = [name for name, version in packages.items() if version is None and name not in OPTIONAL]
    problems = (
        [f"{name} is not installed: pip install sharegrpo-rl" for name in missing]
        + untested_versions()
        + _platform_problems()
    )
    machine = dict((*_machine(), *_devices(), *_folders()))
    return {"ready": not missing, "packages": packages, "machine": machine, "problems": problems}


def print_diagnosis(found: Mapping[str, Any]) -> None:
    """What `diagnosis` has, as a table and a list."""
    console = Console()
    table = Table(show_header=False, box=None, padding=(0, 2))
    for name, version in found["packages"].items():
        extra, purpose = OPTIONAL.get(name, ("", ""))
        absent = f"not installed; for {purpose}: pip install 'sharegrpo-rl[{extra}]'" if extra else "missing"
        table.add_row(name, Text(version or absent))
    for label, text in found["machine"].items():
        table.add_row(label, text)
    console.print(table)
    for problem in found["problems"]:
        console.print(f"- {problem}", markup=False, soft_wrap=True)
    console.print("ready to train" if found["ready"] else "not ready", markup=False)


def untested_versions() -> list[str]:
    """A line for each installed package outside the versions that the tests have run with."""
    lines = []
    for requirement in map(Requirement, requires("sharegrpo-rl") or []):
        installed = package_version(requirement.name)
        if installed and not requirement.specifier.contains(installed, prereleases=True):
            lines.append(f"{requirement.name} {installed} is not among the versions tested ({requirement.specifier})")
    return lines


def _machine() -> list[tuple[str, str]]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return [
        ("python", f"{platform.python_version()} ({sys.executable})"),
        ("system", f"{platform.system()} {platform.machine()}"),
        ("CPU cores", str(cores)),
        ("memory", _memory()),
    ]


def _memory() -> str:
    memory = psutil.virtual_memory()
    return f"{memory_size(memory.total)}, {memory_size(memory.available)} available"


def _devices() -> list[tuple[str, str]]:
    if importlib.util.find_spec("torch") is None:
        return []
    import torch

    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        properties = [torch.cuda.get_device_properties(i) for i in range(count)]
        return [(f"GPU {i}", f"{p.name}, {memory_size(p.total_memory)}") for i, p in enumerate(properties)]
    if torch.backends.mps.is_available():
        return [("device", "MPS (best effort)")]
    return [("device", "CPU only: the tiny examples are made for it")]


def _folders() -> list[tuple[str, str]]:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    existing = next(p for p in (cache, *cache.parents) if p.exists())
    writable = "writable" if os.access(existing, os.W_OK) else "NOT writable: set XDG_CACHE_HOME"
    return [
        ("cache folder", f"{cache} ({writable})"),
        ("disk here", f"{memory_size(shutil.disk_usage(Path.cwd()).free)} free"),
    ]


def _platform_problems() -> list[str]:
    from sharegrpo_rl.planning.gpus import driver_version

    if driver_version() is not None and all(importlib.util.find_spec(name) for name in ("torch", "ray")):
        import torch

        from sharegrpo_rl.learners.placement import why_torch_sees_no_gpu

        if not torch.cuda.is_available():
            return [f"there is a GPU that torch does not see: {why_torch_sees_no_gpu()}"]
    if platform.system() == "Windows":
        return ["Windows is supported only through WSL; use that"]
    if platform.system() == "Darwin":
        return ["macOS is best effort: what is tested is Linux on x86-64"]
    return []
