"""Peak memory of a learner step, each side in fresh processes, less what was resident before it.

    uv run --group benchmark python benchmarks/memory.py --peer naive --image 448 --group 8 --tokens 64 --repeats 3

Weights, gradients and the optimizer's moments exist before (a tiny step makes them). `largest_tensor` is the largest
that one more step of ours creates, those of a parameter's size left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from arguments import add_learner_options, described, parser, report, work_of
from checkpoint import checkpoint
from fresh_process import in_fresh_process
from largest_tensor import LargestTensors
from learners import our_learner, peer_learner, require_equal
from peak import peak_mb
from timing import progress
from workload import Work, counts, off_policy, packs

TINY = Work(image=56, group=2, tokens=2, completions=2)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The measurement as its JSON fields."""
    work, folder = work_of(options), checkpoint(options.vocabulary, options.small, options.hybrid)
    sides = {"ours": "ours"} | ({} if options.peer == "none" else {"peer": options.peer})
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for _ in range(options.repeats):  # before anything is computed here: the processes begin as copies of this one
        for name, side in sides.items():
            found[name].append(in_fresh_process(one_side, side, folder, work))
            progress(f"{name}: {found[name][-1]['peak_mb']:.1f} MB")
    result = described("memory", options, work) | largest_tensor(folder, work)
    if "peer" in found:
        result["checked"] = require_equal(found["ours"][0]["step"], found["peer"][0]["step"])
    figures = {name: _figures([run["peak_mb"] for run in runs]) for name, runs in found.items()}
    ratio = None if "peer" not in figures else round(figures["peer"]["peak_mb"] / figures["ours"]["peak_mb"], 3)
    return result | {"peer": None, **figures, "ratio": ratio}


def one_side(side: str, folder: Path, work: Work) -> dict[str, Any]:
    """The peak of one step in this process, and what the step returned."""
    policy, prepare = our_learner(folder)
    given = off_policy(packs(policy, work), policy.model.get_output_embeddings().weight.shape[0])
    tiny = packs(policy, TINY)
    if side != "ours":
        del policy
        prepare = peer_learner(side, folder)
    step = prepare(given)
    prepare(tiny)()
    returned: list[Any] = []
    peak = peak_mb(lambda: returned.append(step()))
    if peak is None:
        raise SystemExit("memory is read from /proc, which only Linux has")
    return {"peak_mb": peak, "step": returned[0]}


def largest_tensor(folder: Path, work: Work) -> dict[str, Any]:
    """What a step of ours runs over, its largest tensor, and whether one is tokens x vocabulary or L x L."""
    policy, prepare = our_learner(folder)
    given = packs(policy, work)
    with LargestTensors(policy.model.parameters()) as seen:
        prepare(given)()
    sizes = counts(given)
    vocabulary = policy.model.get_output_embeddings().weight.shape[0]
    length = max(len(p.prompt.input_ids) + sum(len(c.token_ids) for c in p.completions) for p in given)
    largest = {
        "shape": list(seen.largest),
        "numel": int(np.prod(seen.largest)),
        "tokens_x_vocabulary": sizes["completion_tokens"] * vocabulary,
        "has_tokens_x_vocabulary": seen.has_logits(sizes["completion_tokens"], vocabulary),
        "l_x_l": length**2,
        "has_l_x_l": seen.has_square(length),
    }
    return sizes | {"largest_tensor": largest}


def _figures(peaks: list[float]) -> dict[str, float]:
    low, high = np.quantile(peaks, [0.25, 0.75])
    return {"peak_mb": round(median(peaks), 1), "peak_mb_iqr": round(float(high - low), 1)}


def main(words: Sequence[str] | None = None) -> None:
    command = parser(__doc__)
    add_learner_options(command)
    report(measure, command.parse_args(words))


if __name__ == "__main__":
    main()
