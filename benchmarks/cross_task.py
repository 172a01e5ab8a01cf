"""Trained on one task, tested on both: `uv run python benchmarks/cross_task.py --seeds 0 1 2` (OThink-MR1, Figure 7).

Counting against geometry-like drawn questions (sides, lengths, angles). All methods leave from one warm start that knows
one wording of every kind. Prints a Markdown table (absolute and relative to the untrained model) and one JSON line.
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

BASE = Path(__file__).with_name("cross_task.yaml")
TASKS = {"counting": ["counting"], "geometry": ["sides", "length", "angle"]}
METHODS = {
    "GRPO-D": ["run=GRPOD", "config.num_generations=12", "config.kl_min=0.0", "config.kl_max=0.02"],
    "SFT": ["run=SFT", "config.num_questions=192", "config.lr=5e-4"],
}


def command(words: list[str]) -> str:
    """What one command of the package prints; an error where it ends badly."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    whole = [sys.executable, "-m", "sharegrpo_rl.cli", *words]
    done = subprocess.run(whole, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}: {done.stderr[-800:]}")
    return done.stdout


def train(name: str, seed: int, sets: list[str], out: Path) -> Path:
    """The exported model of one run; a finished run is not run again."""
    folder = out / f"{name}-{seed}"
    if not (folder / "summary.json").exists():
        words = ["train", str(BASE), "--seed", str(seed), "--name", folder.name, "--storage-path", str(out)]
        command([*words, *(word for s in sets for word in ("--set", s))])
    return folder / "export"


def accuracies(model: Path) -> dict[str, float]:
    """Greedy accuracy on 500 test questions of each task."""
    return {
        task: json.loads(command(["evaluate", str(model), "--kinds", ",".join(kinds), "--json"]))["accuracy"]
        for task, kinds in TASKS.items()
    }


def results_of(seed: int, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Accuracy by task of the untrained model and of each method trained on each task."""
    # One step of a learning rate that changes nothing exports the warm start as it is.
    start = train("untrained", seed, ["stop.training_iteration=1", "config.lr=1e-12", "run=GRPO"], options.out)
    results = {"untrained": accuracies(start)}
    for task, kinds in TASKS.items():
        own = [
            f"config.model={start.resolve()}",
            "config.warm_start=null",
            f"config.env_config.kinds=[{', '.join(kinds)}]",
        ]
        own += ["config.env_config.skip_questions=28800", f"stop.training_iteration={options.iterations}"]
        own += ["config.evaluation_interval=10"]  # for accuracy by step
        for method, sets in METHODS.items():
            model = train(f"{method.lower()}-{task}", seed, [*own, *sets], options.out)
            results[f"{method} on {task}"] = accuracies(model)
    return results


def cell(values: list[float], digits: int = 1) -> str:
    scaled = [100 * v for v in values]
    return f"{mean(scaled):.{digits}f} ({min(scaled):.{digits}f} to {max(scaled):.{digits}f})"


def table(by_seed: list[dict[str, dict[str, float]]]) -> str:
    lines = ["| model | counting | geometry | counting, relative | geometry, relative |", "|---|---|---|---|---|"]
    for name in by_seed[0]:
        absolute = [cell([r[name][task] for r in by_seed]) for task in TASKS]
        relative = [cell([r[name][task] / r["untrained"][task] - 1 for r in by_seed]) for task in TASKS]
        lines.append(f"| {name} | " + " | ".join([*absolute, *relative]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/cross_task"))
    options = parser.parse_args()
    with ThreadPoolExecutor(options.jobs) as pool:
        by_seed = list(pool.map(lambda seed: results_of(seed, options), options.seeds))
    print(table(by_seed))
    print(json.dumps(dict(zip(map(str, options.seeds), by_seed, strict=True))))


if __name__ == "__main__":
    main()
