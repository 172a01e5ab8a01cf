"""What a benchmark's row says beside the question itself, carried along with the question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sharegrpo_rl.data.types import SeedQuestion

COLUMN = "benchmark_facts"  # in the row, and so among the question's extra values


@dataclass(frozen=True)
class BenchmarkFacts:
    """`categories` break accuracy down, `labels` feed the benchmark's own metric, `row` is the published row, imageless."""

    categories: Mapping[str, list[str]] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    accepted_answers: tuple[str, ...] = ()
    row: Mapping[str, Any] = field(default_factory=dict)


_NONE = BenchmarkFacts()


def facts_of(question: SeedQuestion) -> BenchmarkFacts:
    """The question's facts; empty where it comes from no benchmark (a user's column of that name is none)."""
    found = question.extra.get(COLUMN)
    return found if isinstance(found, BenchmarkFacts) else _NONE
