"""Selection: sample batches of questions until enough groups are worth training on.

Rules look at raw accuracy and at whole groups, on the driver, before anything is cut or sharded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sharegrpo_rl.data.types import Group
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.ops.selection import dynamic_sampling, online_filter


@dataclass(frozen=True)
class Sampled:
    """What an iteration sampled: all groups, those it trains on, and how many batches and requests it took."""

    groups: list[Group]
    kept: list[Group]
    requests: int
    errors: list[str | None] = field(default_factory=list)
    batches: int = 1
    surplus: int = 0

    def metrics(self) -> dict[str, float]:
        """Counts for logging; `surplus_groups` passed the rule and were not needed."""
        return {
            "generation_batches": self.batches,
            "sampled_groups": len(self.groups),
            "trained_groups": len(self.kept),
            "surplus_groups": self.surplus,
            "kept_ratio": (len(self.kept) + self.surplus) / len(self.groups),
        }


def select(generate: Callable[[int], Sampled], config: Any) -> Sampled:
    """Call `generate(first_group)` until `num_questions` groups pass the rule, or the cap of batches is reached.

    Surplus groups are left out, latest first. At the cap training goes on with what there is, unless
    `selection_strict`: then UserError.
    """
    keeps = selection_rule(config)
    if keeps is None:
        return generate(0)
    groups: list[Group] = []
    errors: list[str | None] = []
    requests = batches = 0
    while batches < config.max_generation_batches and _passing(groups, keeps) < config.num_questions:
        batch = generate(len(groups))
        groups += batch.groups
        errors += batch.errors
        requests += batch.requests
        batches += 1
    passing = [g for g in groups if keeps(g)]
    if config.selection_strict and len(passing) < config.num_questions:
        raise UserError(
            f"selection: after {batches} generation batches {len(passing)} of {config.num_questions} groups pass "
            f"{config.selection}; raise max_generation_batches, change the questions, or set selection_strict: false"
        )
    kept = passing[: config.num_questions]
    return Sampled(groups, kept, requests, errors, batches, len(passing) - len(kept))


def selection_rule(config: Any) -> Callable[[Group], bool] | None:
    """Which groups are trained on; None = all."""
    if config.selection == "dynamic_sampling":
        return lambda group: dynamic_sampling(group.accuracies)
    if config.selection == "online_filter":
        return lambda group: online_filter(group.accuracies, config.filter_low, config.filter_high)
    return None


def _passing(groups: list[Group], keeps: Callable[[Group], bool]) -> int:
    return sum(keeps(g) for g in groups)
