"""Markdown rows of docs/benchmarks.md: `python docs/make_benchmarks.py RESULT.json ...`, JSON lines as benchmarks/ print them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

Result = dict[str, Any]


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
    """One row per timed measurement; where both sides are ours, their ratio instead of a speedup."""
    rows = ["| work | against | ours, CPU s | theirs, CPU s | speedup |", "|---|---|---|---|---|"]
    for r in results:
        last = f"{r['speedup']:.1f}" if r["peer_name"] in ("naive", "trl") else f"ratio {r['ratio']:.2f}"
        rows.append(f"| {work(r)} | {r['peer_name']} | {seconds(r['ours'])} | {seconds(r['peer'])} | {last} |")
    return rows


def memory(results: list[Result]) -> list[str]:
    rows = ["| work | against | ours, MB | theirs, MB | theirs / ours |", "|---|---|---|---|---|"]
    for r in results:
        peaks = f"{r['ours']['peak_mb']:.0f} | {r['peer']['peak_mb']:.0f}"
        rows.append(f"| {work(r)} | {r['peer_name']} | {peaks} | {r['ratio']:.1f} |")
    return rows


def rollout_overhead(results: list[Result]) -> list[str]:
    rows = ["| work | `LLM.generate` | ours, CPU s | its, CPU s | overhead | by turn |", "|---|---|---|---|---|---|"]
    for r in results:
        turns = sorted(100 * share for share in r["overhead_by_turn"])
        form = "`--lean`" if r["lean"] else "as its users call it"
        rows.append(
            f"| {work(r)} | {form} | {seconds(r['ours'])} | {seconds(r['peer'])} | {100 * r['overhead']:+.1f} % | "
            f"{turns[0]:+.0f} to {turns[-1]:+.0f} % |"
        )
    return rows


def weight_sync(results: list[Result]) -> list[str]:
    rows = ["| seconds | ours | put + get + copy | ratio | fixed |", "|---|---|---|---|---|"]
    for r in results:
        for name, line in (("wall", r), ("CPU, both processes", r["cpu"])):
            rows += [
                f"| {name}, {size:.2f} GB | {ours:.2f} | {plain:.2f} | | |"
                for size, ours, plain in zip(r["gigabytes"], line["ours_s"], line["put_get_copy_s"], strict=True)
            ]
            slopes = f"{line['ours_s_per_gb']:.2f} | {line['put_get_copy_s_per_gb']:.2f}"
            rows.append(f"| **{name}, per GB** | {slopes} | **{line['ratio']:.2f}** | {line['fixed_s']:.2f} |")
    return rows


def engines(results: list[Result]) -> list[str]:
    rows = [
        "| seed | before, % | after, hf, % | after, vLLM, % | difference | training, hf, s | training, vLLM, s |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in results:
        hf, vllm = r["hf"], r["vllm"]
        columns = [hf["accuracy_before"], hf["accuracy_after"], vllm["accuracy_after"], r["difference"]]
        columns = [[100 * share for share in column] for column in columns]
        columns += [hf["seconds_of_training"], vllm["seconds_of_training"]]
        for name, values in [*zip(r["seeds"], zip(*columns, strict=True), strict=True), ("mean", map(mean, columns))]:
            before, one, other, difference, *times = values
            shares = f"{before:.1f} | {one:.1f} | {other:.1f} | {difference:+.1f}"
            rows.append(f"| {name} | {shares} | " + " | ".join(f"{t:.0f}" for t in times) + " |")
    return rows


def host_memory(results: list[Result]) -> list[str]:
    rows = ["| engine | env runners | part | " + " | ".join(f"{q} questions, MB" for q in results[0]["questions"])]
    rows[0] += " | copies |"
    rows.append("|---|---|---|" + "---|" * (len(results[0]["questions"]) + 1))
    for r in results:
        for runners, found in r["env_runners"].items():
            begin = f"| {r['parameters']['engine']} | {runners} "
            rows.append(f"{begin}| distinct pixels | " + " | ".join(f"{mb:.0f}" for mb in found["pixels_mb"]) + " | |")
            for part, copies in found["copies"].items():
                if any(found[f"{part}_mb"]):
                    peaks = " | ".join(f"{mb:.0f}" for mb in found[f"{part}_mb"])
                    rows.append(f"{begin}| {part} | {peaks} | {copies:.2f} |")
    return rows


TABLES: dict[str, Callable[[list[Result]], list[str]]] = {
    "memory": memory,
    "rollout_overhead": rollout_overhead,
    "weight_sync": weight_sync,
    "engines": engines,
    "host_memory": host_memory,
}


def main(files: list[str]) -> None:
    results = [json.loads(line) for file in files for line in Path(file).read_text().splitlines()]
    for name in dict.fromkeys(r["measurement"] for r in results):
        own = [r for r in results if r["measurement"] == name]
        print(f"\n{name}\n", *TABLES.get(name, timed)(own), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
