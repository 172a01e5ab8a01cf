"""Markdown rows of docs/benchmarks.md: `python docs/make_benchmarks.py RESULT.json ...`, JSON lines as benchmarks/ print them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

Result = dict[str, Any]
HEAD = "| work | against | ours, CPU s | theirs, CPU s | speedup |\n|---|---|---|---|---|"


def work(result: Result) -> str:
    """The settings of a measurement in words."""
    p = result["parameters"]
    words = [f"{p['image']} px" if p["image"] else "text only"]
    words.append(f"m = {p['share']}, n = {p['group']}" if p.get("share") else f"G = {p['group']}")
    words.append(f"T = {'{}..{}'.format(*p['ragged'])}" if p.get("ragged") else f"T = {p['tokens']}")
    if p.get("transform_probability"):
        words.append(f"own images {p['transform_probability']:g}")
    return ", ".join(words)


def seconds(side: Result) -> str:
    """Median and interquartile range."""
    return f"{side['cpu_s']:.2f} ({side['cpu_s_iqr']:.2f})"


def timed(results: list[Result]) -> list[str]:
    """A row of each timed measurement; for a ratio of ours to ours, the ratio."""
    rows = []
    for r in results:
        last = f"{r['speedup']:.1f}" if r["peer_name"] in ("naive", "trl") else f"ratio {r['ratio']:.2f}"
        rows.append(f"| {work(r)} | {r['peer_name']} | {seconds(r['ours'])} | {seconds(r['peer'])} | {last} |")
    return rows


def main(files: list[str]) -> None:
    results = [json.loads(line) for file in files for line in Path(file).read_text().splitlines()]
    for name in dict.fromkeys(r["measurement"] for r in results):
        own = [r for r in results if r["measurement"] == name]
        if name == "memory":
            print(f"\n{name}\n\n| work | against | ours, MB | theirs, MB | theirs / ours |\n|---|---|---|---|---|")
            for r in own:
                print(
                    f"| {work(r)} | {r['peer_name']} | {r['ours']['peak_mb']:.0f} | {r['peer']['peak_mb']:.0f} | "
                    f"{r['ratio']:.1f} |"
                )
        else:
            print(f"\n{name}\n\n{HEAD}", *timed(own), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
