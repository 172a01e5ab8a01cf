"""The learner step as group, completion length and image grow: a Markdown table with fitted exponents.

    uv run --group benchmark python benchmarks/sweep.py --groups 2 4 8 16 32 --tokens 32 64 128 256 512 --repeats 3

Each axis is varied alone, the others at 448 px, G = 8, T = 64; along G there is one prompt with all G completions.
Every point is a run of its own of learner_step.py. The exponent is the slope of log CPU seconds over the log of the axis.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from timing import progress

SCRIPT = Path(__file__).with_name("learner_step.py")
BASE = {"image": 448, "group": 8, "tokens": 64}


def point(axis: str, value: int, options: argparse.Namespace) -> dict[str, Any]:
    """The result of learner_step.py with one axis at a value of its own."""
    settings = BASE | {axis: value} | ({"completions": value} if axis == "group" else {})
    words = [word for key, number in settings.items() for word in (f"--{key}", str(number))]
    words += ["--peer", options.peer, "--repeats", str(options.repeats), *(["--small"] if options.small else [])]
    progress(f"{axis} = {value}")
    done = subprocess.run([sys.executable, str(SCRIPT), *words], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"learner_step.py {' '.join(words)} ended with {done.returncode}")
    return json.loads(done.stdout)


def exponent(values: list[int], seconds: list[float]) -> float:
    """Slope of log seconds over log value, least squares."""
    return float(np.polyfit(np.log(values), np.log(seconds), 1)[0])


def table(axis: str, results: dict[int, dict[str, Any]]) -> list[str]:
    """Markdown lines of one axis, its exponents in the last."""
    lines = [f"| {axis} | ours, CPU s | padded, CPU s | speedup | at most the padded path's |", "|---|---|---|---|---|"]
    for value, result in results.items():
        ours, peer = result["ours"]["cpu_s"], result["peer"]["cpu_s"]
        lines.append(
            f"| {value} | {ours:.3f} | {peer:.3f} | {result['speedup']:.2f} | {'yes' if ours <= peer else 'NO'} |"
        )
    if len(results) > 1:
        ours, peer = (exponent(list(results), [r[s]["cpu_s"] for r in results.values()]) for s in ("ours", "peer"))
        lines.append(f"| exponent | {ours:.2f} | {peer:.2f} | | |")
    return [*lines, ""]


def main() -> None:
    command = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = command.add_argument
    add("--groups", type=int, nargs="*", default=[2, 8, 32])
    add("--tokens", type=int, nargs="*", default=[32, 128])
    add("--images", type=int, nargs="*", default=[112, 224, 448])
    add("--peer", choices=("naive", "trl"), default="naive")
    add("--repeats", type=int, default=3)
    add("--small", action="store_true", help="a model of a few hundred thousand parameters, to try the command out")
    add("--out", type=Path, help="write the table to this file too")
    options = command.parse_args()
    lines: list[str] = []
    summary: dict[str, Any] = {}
    for axis, values in (("group", options.groups), ("tokens", options.tokens), ("image", options.images)):
        results = {value: point(axis, value, options) for value in values}
        lines += table(axis, results) if results else []
        summary[axis] = {value: {side: r[side]["cpu_s"] for side in ("ours", "peer")} for value, r in results.items()}
    text = "\n".join(lines)
    progress(text)
    if options.out:
        options.out.write_text(text)
    never = all(p["ours"] <= p["peer"] for axis in summary.values() for p in axis.values())
    print(json.dumps({"measurement": "sweep", "never_slower": never, "cpu_s": summary, "table": text}))


if __name__ == "__main__":
    main()
