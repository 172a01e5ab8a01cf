"""How much work a config asks for: completions, packs, pairs and optimizer steps."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any


def batch_arithmetic(config: Mapping[str, Any], iterations: int) -> dict[str, int]:
    """Counts by name for one iteration and for the whole run.

    A group that shrinks for want of transforms has less; selection samples more, up to max_generation_batches times.
    """
    questions = config["num_questions"]
    steps = config["num_epochs"] * ceil(questions / (config["minibatch_size"] or questions))
    longest = config["max_prompt_tokens"] + config["max_completion_tokens"]
    if "num_samples" not in config:
        return {
            "seed questions an iteration": questions,
            "optimizer steps an iteration": steps,
            "iterations": iterations,
            "taught targets": questions * iterations,
            "optimizer steps": steps * iterations,
            "longest sequence in tokens": longest,
        }
    variants, samples = config["num_variants"], config["num_samples"]
    shared = variants if config.get("pairing", "native") == "all" else 1
    return {
        "seed questions an iteration": questions,
        "completions an iteration": questions * variants * samples,
        "prompt packs an iteration": questions * variants,
        "pairs of prompt and completion an iteration": questions * variants * samples * shared,
        "optimizer steps an iteration": steps,
        "iterations": iterations,
        "completions": questions * variants * samples * iterations,
        "optimizer steps": steps * iterations,
        "longest sequence in tokens": longest,
    }
