"""Every method on drawn shapes from one shared warm start: `uv run python benchmarks/methods_table.py --seeds 0 1 2`.

Each run has the same optimizer steps and, selection apart, the same number of completions. Finished runs are read, not
run again. Prints a Markdown table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

BASE = Path(__file__).with_name("methods.yaml")
SIX = ["run=ShareGRPO"]  # 2 x 6 completions and transforms at 0.3 are its defaults
TWELVE = ["run=GRPO", "config.num_generations=12"]
TARGETS = ["run=SFT", "config.num_questions=192", "config.lr=5e-4"]  # as many targets as the others have completions
# GRPO-D's form of reward and loss is its own; the KL's range is that of the paper's geometry task.
DYNAMIC = ["run=GRPOD", "config.num_generations=12", "config.kl_min=0.0", "config.kl_max=0.02"]
STEPS = ["run=StepGRPO", "config.num_generations=12", "config.temperature=1.0", "config.max_completion_tokens=96"]

METHODS: dict[str, list[str]] = {
    "GRPO, N = 12": TWELVE,
    "Share-GRPO, 2 x 6": SIX,
    "  without transforms": [*SIX, "config.transform_probability=0"],
    "  global advantage only": [*SIX, "config.advantage_levels=global"],
    "  no sharing of completions": [*SIX, "config.pairing=native"],
    "GRPO-D, v_shape": [*DYNAMIC, "config.kl_schedule=v_shape"],
    "GRPO-D, linear_increase": [*DYNAMIC, "config.kl_schedule=linear_increase"],
    "GRPO + dynamic sampling": [*TWELVE, "config.selection=dynamic_sampling"],
    "GRPO + online filter": [*TWELVE, "config.selection=online_filter"],
    "GRPO + replay": [*TWELVE, "config.replay_size=2000"],
    "SFT, all wordings": TARGETS,
    "StepGRPO, own warm start": STEPS,
}


def folder_name(method: str, seed: int) -> str:
    words = "".join(c if c.isalnum() else "-" for c in method.strip().lower())
    return f"{words}-{seed}"


def train(method: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """The summary of one run; an error where it ends badly."""
    name = folder_name(method, seed)
    summary = options.out / name / "summary.json"
    if not summary.exists():
        sets = [f"stop.training_iteration={options.iterations}", "config.evaluation_interval=0", *METHODS[method]]
        command = [sys.executable, "-m", "sharegrpo_rl.cli", "train", str(options.file)]
        command += ["--seed", str(seed), "--name", name, "--storage-path", str(options.out)]
        command += [word for s in sets for word in ("--set", s)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            raise SystemExit(f"{name} ended with {done.returncode}: {done.stderr[-800:]}")
    return json.loads(summary.read_text())


def cell(values: list[float | None], scale: float = 100, digits: int = 1) -> str:
    """Mean and range over seeds; a dash where the method has no such figure."""
    known = [scale * v for v in values if v is not None]
    if not known:
        return "-"
    return f"{mean(known):.{digits}f} ({min(known):.{digits}f} to {max(known):.{digits}f})"


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    lines = [
        "| method | before | after | blind | valid-advantage ratio | reward density | completions | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    keys = ("accuracy_before", "accuracy_after", "blind_accuracy_after", "valid_advantage_ratio", "reward_density")
    for method, runs in results.items():
        cells = [cell([s[key] for s in runs]) for key in keys]
        completions = f"{mean(s['completions'] for s in runs):,.0f}"
        seconds = cell([s["seconds_without_warm_start"] for s in runs], 1, 0)
        lines.append(f"| {method.replace('  ', '- ', 1)} | " + " | ".join([*cells, completions, seconds]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--iterations", type=int, default=80)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--file", type=Path, default=BASE)
    parser.add_argument("--out", type=Path, default=Path("runs/methods"))
    options = parser.parse_args()
    for seed in options.seeds:  # makes the shared warm start, once for each seed
        train(options.methods[0], seed, options)
    with ThreadPoolExecutor(options.jobs) as pool:
        waiting = {m: [pool.submit(train, m, seed, options) for seed in options.seeds] for m in options.methods}
        results = {m: [f.result() for f in futures] for m, futures in waiting.items()}
    print(table(results))
    print(json.dumps({m: [s["accuracy_after"] for s in runs] for m, runs in results.items()}))


if __name__ == "__main__":
    main()
