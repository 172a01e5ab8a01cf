"""CPU seconds of sampling G completions of T tokens for each prompt, against a peer's.

    uv run --group benchmark python benchmarks/generate.py --peer trl --image 448 --group 8 --tokens 64 --repeats 5

Before the clock starts, our sampler's log-probs are compared with a plain forward over what it sampled.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arguments import described, parser, report, work_of
from checkpoint import checkpoint, our_policy, plain_model
from row_generation import generate_rows, repeated_rows
from rows import row_logprobs, training_rows
from timing import measured, progress
from workload import Work, prompts, questions

from sharegrpo_rl.data.types import Completion, Prompt, PromptPack
from sharegrpo_rl.data.variants import derive_seed
from sharegrpo_rl.generation.generator import Sampling
from sharegrpo_rl.generation.hf import HFGenerator
from sharegrpo_rl.models.policy import Policy

TOLERANCE = 1e-5
Sampled = list[tuple[Completion, ...]]


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The measurement as its JSON fields."""
    work, folder = work_of(options), checkpoint(options.vocabulary, options.small, options.hybrid)
    policy = endless_policy(folder)
    given = prompts(policy, work)
    ours = our_sampling(policy, given, work)
    check(folder, policy, given, ours(), work)
    sides: dict[str, Callable[[], object]] = {"ours": ours}
    if options.peer == "naive":
        model = plain_model(folder)
        rows = repeated_rows(model, given, work.group)
        sides["peer"] = lambda: require_lengths(generate_rows(model, rows, work.tokens), work)
    elif options.peer == "trl":
        sides["peer"] = trl_sampling(folder, policy, given, work)
    counted = {"prompts": len(given), "prompt_tokens": max(len(p.input_ids) for p in given)}
    counted["completion_tokens"] = len(given) * work.group * work.tokens
    return described("generate", options, work) | counted | measured(sides, options.repeats)


def endless_policy(folder: Path) -> Policy:
    """The checkpoint without its end token, so that every completion gets as long as allowed."""
    policy = our_policy(folder, banned=True)
    policy.banned = torch.unique(torch.cat([policy.banned, torch.tensor(policy.end_ids)]))
    return policy


def our_sampling(policy: Policy, given: Sequence[Prompt], work: Work) -> Callable[[], Sampled]:
    generator = HFGenerator(policy)
    seeds = [derive_seed(work.seed, i) for i in range(len(given))]
    return lambda: generator.generate(given, work.group, seeds, Sampling(work.tokens))


def trl_sampling(folder: Path, policy: Policy, given: Sequence[Prompt], work: Work) -> Callable[[], object]:
    """TRL's generation of one turn, on prompts that its own code has tokenized."""
    from trl_peer import sampling_trainer, trl_prompts

    trainer = sampling_trainer(folder, work)
    asked = [q for variants in questions(policy, work) for q in variants]
    ids, images, fields = trainer._tokenize_prompts(trl_prompts(asked, work.group))
    if any(list(p.input_ids) != list(i) for p, i in zip(given, ids[:: work.group], strict=True)):
        raise SystemExit("refused: TRL's prompts have other tokens than ours")

    def sample() -> None:
        completions, _ = trainer._generate_single_turn(ids, images, fields, work.group)
        require_lengths(completions, work)

    return sample


def check(folder: Path, policy: Policy, given: Sequence[Prompt], sampled: Sampled, work: Work) -> None:
    """Ends the program where a completion is short, or a log-prob is not that of a plain forward."""
    require_lengths([c.token_ids for group in sampled for c in group], work)
    packs = [
        PromptPack(i, 0, prompt, group, np.zeros(work.group), np.ones(work.group, bool))
        for i, (prompt, group) in enumerate(zip(given, sampled, strict=True))
    ]
    model = plain_model(folder).eval()
    config = model.config
    with torch.no_grad():
        rows = training_rows(packs, config.text_config.pad_token_id, config.image_token_id)
        plain = row_logprobs(model, rows, policy.banned)[0].flatten()
    own = torch.from_numpy(np.concatenate([c.sampler_logprobs for group in sampled for c in group]))
    worst = float(((own - plain) / plain).abs().max())
    progress(f"sampler's log-probs against a plain forward: largest relative difference {worst:.1e}")
    if not worst <= TOLERANCE:
        raise SystemExit(
            f"refused: the sampler's log-probs differ from a plain forward's by {worst:.1e} of their value"
        )


def require_lengths(completions: Iterable[Any], work: Work) -> None:
    """Ends the program where a side has sampled more or fewer tokens than asked."""
    lengths = {len(c) for c in completions}
    if lengths != {work.tokens}:
        raise SystemExit(f"refused: completions of {sorted(lengths)} tokens where {work.tokens} were asked")


def main(words: Sequence[str] | None = None) -> None:
    report(measure, parser(__doc__).parse_args(words))


if __name__ == "__main__":
    main()
