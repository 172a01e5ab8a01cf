"""CPU seconds of a whole iteration (decode, sample, grade, learn) against TRL's GRPOTrainer.train() on the same data.

    uv run --group benchmark python benchmarks/iteration.py --peer trl --image 448 --group 8 --tokens 64 --repeats 5

Ours runs in this process, without Ray. Before the clock starts, one learner step of both sides is compared.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from arguments import described, parser, report, work_of
from checkpoint import checkpoint
from generate import endless_policy
from iterations import Stored, our_iteration, row_iteration, stored_batches
from learners import our_learner, peer_learner, require_equal_steps
from peak import peak_mb
from timing import Sample, Stopwatch, compared, figures, measured, progress, tell
from workload import Work, packs

EXTRA = 2  # beside the repeats: a warm-up, and an untimed iteration whose memory is measured


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The measurement as its JSON fields."""
    work, folder = work_of(options), checkpoint(options.vocabulary, options.small)
    result = described("iteration", options, work)
    if options.peer != "none":
        policy, ours = our_learner(folder)
        result["checked"] = require_equal_steps(policy, ours, peer_learner(options.peer, folder), packs(policy, work))
    policy = endless_policy(folder)
    batches = stored_batches(policy, work, options.repeats + EXTRA)
    result |= {"prompts": work.questions, "completion_tokens": work.completions * work.tokens}
    own = _next_of(our_iteration(policy, work), batches)
    if options.peer == "trl":
        return result | against_trainer(folder, work, batches, own, options.repeats)
    sides = {"ours": own}
    if options.peer == "naive":
        sides["peer"] = _next_of(row_iteration(folder, policy, work), batches)
    return result | measured(sides, options.repeats)


def against_trainer(
    folder: Path, work: Work, batches: list[list[Stored]], ours: Callable[[], None], repeats: int
) -> dict[str, Any]:
    """Run TRL's own training loop; after each of its steps its clock stops, and one of our iterations runs."""
    from trl_iteration import train

    samples: dict[str, list[Sample]] = {"ours": [], "peer": []}
    peaks: dict[str, float | None] = {}

    def after_step(turn: int, peer: Sample, peer_peak: float | None) -> None:
        if turn > repeats:
            peaks.update(peer=peer_peak, ours=peak_mb(ours))
            return
        watch = Stopwatch()
        ours()
        for name, sample in (("peer", peer), ("ours", watch.stop())):
            tell(name, turn, sample)
            samples[name] += [sample] if turn else []

    shortest = train(folder, work, batches, repeats + EXTRA, after_step)
    if shortest != work.tokens:
        raise SystemExit(f"refused: TRL sampled completions of {shortest:.0f} tokens where {work.tokens} were asked")
    progress(f"all completions of TRL have {work.tokens} tokens")
    return compared({name: figures(samples[name], peaks[name]) for name in samples})


def _next_of(iterate: Callable[[list[Stored]], None], batches: list[list[Stored]]) -> Callable[[], None]:
    """A call that runs the next batch each time, the last one again where none is left."""
    turns = chain(batches, repeat(batches[-1]))
    return lambda: iterate(next(turns))


def main(words: Sequence[str] | None = None) -> None:
    report(measure, parser(__doc__).parse_args(words))


if __name__ == "__main__":
    main()
