"""CPU seconds of a whole learner step (forward, loss, backward, clipping, AdamW) against a peer's on the same completions.

    uv run --group benchmark python benchmarks/learner_step.py --peer trl --image 448 --group 8 --tokens 64 --repeats 5

`--share M` makes it Share-GRPO's update: every completion under the prompt of each of M variants. `--against grpo`
compares that update with GRPO on the same prompts, `--bare` the step with a bare forward and backward of its packs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from arguments import add_learner_options, described, parser, report, work_of
from checkpoint import checkpoint, our_policy
from learners import our_learner, peer_learner, require_equal_steps
from timing import measured
from workload import counts, packs

from sharegrpo_rl.data.types import PromptPack


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The measurement as its JSON fields."""
    work, folder = work_of(options), checkpoint(options.vocabulary, options.small, options.hybrid)
    policy, ours = our_learner(folder)
    given = packs(policy, work)
    result = described("learner_step", options, work) | counts(given)
    sides: dict[str, Callable[[], object]] = {"ours": ours(given)}
    if options.bare:
        result["peer_name"] = "bare forward and backward"
        sides["peer"] = bare(folder, given)
    elif options.against == "grpo":
        result["peer_name"] = "GRPO on the same prompts"
        other, grpo = our_learner(folder)
        sides["peer"] = grpo(packs(other, work, shared=False))
    elif options.peer != "none":
        peer = peer_learner(options.peer, folder)
        result["checked"] = require_equal_steps(policy, ours, peer, given)
        sides["peer"] = peer(given)
    return result | measured(sides, options.repeats)


def bare(folder: Path, given: list[PromptPack]) -> Callable[[], object]:
    """Forward and backward of the packs, without loss function, optimizer or log."""
    policy = our_policy(folder)
    policy.model.train()
    tokens = sum(len(c.token_ids) for p in given for c in p.completions)
    weights = torch.linspace(-1, 1, tokens) / tokens

    def step() -> None:
        policy.model.zero_grad(set_to_none=True)
        (policy.logprobs(given).logprobs * weights).sum().backward()

    return step


def main(words: Sequence[str] | None = None) -> None:
    command = parser(__doc__)
    add_learner_options(command)
    command.add_argument("--against", choices=("grpo",), help="compare with our own GRPO update on the same prompts")
    command.add_argument("--bare", action="store_true", help="compare with a bare forward and backward of the packs")
    report(measure, command.parse_args(words))


if __name__ == "__main__":
    main()
