"""Host memory of several ranks while they load and shard a model: each reads it for itself, or one for all.

    uv run python benchmarks/loading.py --ranks 2 4 --sharding fsdp2 --types float32:float32 bfloat16:float32

Processes on gloo, a tiny Qwen2.5-VL of some hundred MB. `peak` and `held` are the sum over the ranks of what the kernel
counts as theirs (PSS: a page that several share counts once), above what they had before; in copies of the model, as large
as the ranks compute with it. Pages of a mapped file are among them, though the kernel may drop those at any time: `own` is
the peak without them.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from arguments import report
from resident import give_back_freed_memory
from timing import progress

from sharegrpo_rl.config.run import TinyModelOptions
from sharegrpo_rl.models.loading import ModelSettings, load_policy
from sharegrpo_rl.models.policy import Policy
from sharegrpo_rl.models.tiny import build_tiny
from sharegrpo_rl.training.sharding import load_on_ranks, shard

CORPUS = ("How many red circles are there? 0 1 2 3 4 5 6 7 8 9", "<think>I look.</think><answer>blue</answer>")
SIDES: dict[str, Callable[[ModelSettings], Policy]] = {"each": load_policy, "one": load_on_ranks}
PAUSE_S = 0.02


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The measurement as its JSON fields."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for types in options.types:
            stored, computed = types.split(":")
            model, small = Path(folder) / stored, Path(folder) / f"small-{stored}"
            megabytes = write_model(model, stored, options.hidden, options.layers) * SIZES[computed] / SIZES[stored]
            write_model(small, stored, 64, 1)
            for ranks in options.ranks:
                for side in options.sides:
                    found = peaks(ranks, side, options.sharding, [small, model], computed)
                    row = {"types": types, "ranks": ranks, "side": side, "model_mb": round(megabytes)}
                    results.append(row | {name: round(mb / megabytes, 2) for name, mb in found.items()})
                    progress(str(results[-1]))
    return {"measurement": "loading", "sharding": options.sharding, "results": results}


SIZES = {"float32": 4, "bfloat16": 2}


def write_model(folder: Path, dtype: str, hidden: int, layers: int) -> float:
    """MB of the weights in the folder, which have this type."""
    size = {"hidden_size": hidden, "num_layers": layers, "num_heads": 8, "num_kv_heads": 2, "vision_layers": 1}
    model, processor = build_tiny(TinyModelOptions(**size), CORPUS, 0, 784, 3136)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    processor.save_pretrained(folder)
    return sum(weight.nbytes for weight in model.parameters()) / 2**20


def peaks(ranks: int, side: str, sharding: str, folders: Sequence[Path], dtype: str) -> dict[str, float]:
    """MB at the height, and afterwards, of loading and sharding the last folder's model; the others' come before."""
    processes = get_context("spawn")
    pipes = [processes.Pipe() for _ in range(ranks)]
    store = f"{tempfile.mkdtemp()}/store"
    group = [
        processes.Process(target=_rank, args=(rank, ranks, store, theirs, side, sharding, dtype), daemon=True)
        for rank, (_, theirs) in enumerate(pipes)
    ]
    for process in group:
        process.start()
    pids = [process.pid for process in group if process.pid is not None]
    for folder in folders:
        before = _shared_mb(pids)
        highest = dict.fromkeys(before, 0.0)
        for ours, _ in pipes:
            ours.send(str(folder))
        while not all(ours.poll() for ours, _ in pipes):
            highest = {name: max(highest[name], mb) for name, mb in _shared_mb(pids).items()}
            time.sleep(PAUSE_S)
        for ours, _ in pipes:
            ours.recv()
        held = _shared_mb(pids)
    for process in group:
        process.kill()
    return {
        "peak": highest["Pss"] - before["Pss"],
        "own": highest["Pss_Anon"] - before["Pss_Anon"],
        "held": held["Pss"] - before["Pss"],
    }


def _shared_mb(pids: Sequence[int]) -> dict[str, float]:
    """MB of the processes, what several share once: all of it, and without files."""
    total = {"Pss": 0.0, "Pss_Anon": 0.0}
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, kilobytes = line.split()[:2]
            if name[:-1] in total:
                total[name[:-1]] += int(kilobytes) / 1024
    return total


def _rank(rank: int, size: int, store: str, pipe: Connection, side: str, sharding: str, dtype: str) -> None:
    give_back_freed_memory()
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=timedelta(seconds=300)
    )
    while True:
        policy = SIDES[side](ModelSettings(pipe.recv(), dtype))
        shard(policy, sharding)
        torch.distributed.barrier()
        pipe.send("sharded")


def main(words: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = options.add_argument
    add("--ranks", type=int, nargs="+", default=[2, 4])
    add("--sharding", choices=("ddp", "fsdp2"), default="fsdp2")
    add("--types", nargs="+", default=["float32:float32"], metavar="STORED:COMPUTED", help="of the weights")
    add("--sides", nargs="+", choices=tuple(SIDES), default=list(SIDES))
    add("--hidden", type=int, default=768, help="width of the model")
    add("--layers", type=int, default=10)
    report(measure, options.parse_args(words))


if __name__ == "__main__":
    main()
