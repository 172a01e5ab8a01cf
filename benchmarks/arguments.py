"""The command line that the measurements share, one thread for all of them, and their JSON line."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import torch
from workload import Work

from sharegrpo_rl.models.loading import keep_freed_memory

PEERS = ("trl", "naive", "none")
LIBRARIES = ("torch", "transformers", "trl")


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options of every measurement."""
    result = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    add = result.add_argument
    add("--peer", choices=PEERS, default="naive", help="trl: its trainer; naive: a row for each completion")
    add("--image", type=int, default=448, metavar="PX", help="edge of the images, a multiple of 28; 0: text only")
    add("--group", type=int, default=8, metavar="G", help="completions sampled from each prompt")
    add("--tokens", type=int, default=64, metavar="T", help="tokens of each completion")
    add("--completions", type=int, metavar="B", help="completions of a batch; default: 16, or G where that is more")
    add("--repeats", type=int, default=5, metavar="N", help="runs of each side, after a warm-up")
    add("--seed", type=int, default=0)
    add("--vocabulary", type=int, default=0, metavar="V", help="rows of the output head; 0: as the tokenizer has")
    add("--small", action="store_true", help="a model of a few hundred thousand parameters, to try a command out")
    add("--hybrid", action="store_true", help="Qwen3.5: layers of linear attention, and every third of full attention")
    return result


def add_learner_options(to: argparse.ArgumentParser) -> None:
    """The options of measurements whose completions are given."""
    add = to.add_argument
    add("--ragged", nargs="?", const="16..128", metavar="MIN..MAX", help="lengths drawn from a range (16..128)")
    add("--share", type=int, default=0, metavar="M", help="Share-GRPO's update: M variants of each question")
    add("--transform-probability", type=float, default=0.0, metavar="P", help="share of variants with own images")


def work_of(options: argparse.Namespace) -> Work:
    """The size of the work that the options ask for; ends with a line where it makes no sense."""
    if options.peer == "trl" and find_spec("trl") is None:
        raise SystemExit("--peer trl: TRL is not installed; run with `uv run --group benchmark python ...`")
    if options.image % 28:
        raise SystemExit(f"--image {options.image}: give a multiple of 28, the edge of an image token")
    completions = options.completions or max(16, options.group)
    share, ragged = getattr(options, "share", 0), getattr(options, "ragged", None)
    if completions % options.group and not share:
        raise SystemExit(f"--completions {completions}: give a multiple of --group {options.group}")
    return Work(
        image=options.image,
        group=options.group,
        tokens=options.tokens,
        completions=completions,
        ragged=_range(ragged) if ragged else None,
        share=share,
        transform_probability=getattr(options, "transform_probability", 0.0),
        seed=options.seed,
    )


def report(measure: Callable[[argparse.Namespace], dict[str, Any]], options: argparse.Namespace) -> None:
    """Measure on one thread and print the result as one JSON line; whatever libraries print goes to stderr."""
    one_thread()
    with redirect_stdout(sys.stderr):
        result = measure(options)
    print(json.dumps(result | {"threads": torch.get_num_threads(), "versions": versions()}))


def one_thread() -> None:
    """This process and those it starts compute on one thread and stay off the network."""
    torch.set_num_threads(1)
    keep_freed_memory()  # for both sides
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def described(name: str, options: argparse.Namespace, work: Work) -> dict[str, Any]:
    """The beginning of a result: what was measured."""
    extra = {
        "repeats": options.repeats,
        "vocabulary": options.vocabulary,
        "small": options.small,
        "hybrid": options.hybrid,
    }
    return {"measurement": name, "peer_name": options.peer, "parameters": asdict(work) | extra}


def _range(text: str) -> tuple[int, int]:
    try:
        low, high = (int(n) for n in text.split(".."))
    except ValueError:
        raise SystemExit(f"--ragged {text}: give MIN..MAX, as in 16..128") from None
    if not 0 < low <= high:
        raise SystemExit(f"--ragged {text}: give 0 < MIN <= MAX")
    return low, high


def versions() -> dict[str, str | None]:
    """Of the libraries that the figures depend on; None for one that is not installed."""
    found: dict[str, str | None] = {}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = None
    return found
