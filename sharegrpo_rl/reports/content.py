"""Everything that a rendered report shows, gathered once for HTML and Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sharegrpo_rl.reports.examples import Disagreement, Example
from sharegrpo_rl.reports.plots import Picture


@dataclass(frozen=True)
class Content:
    """The figures, the pictures beside the report, the examples, and images of questions (PNG as base64)."""

    title: str
    analysis: dict[str, Any]
    pictures: Sequence[Picture]
    samples: Sequence[Example]
    disagreements: Sequence[Disagreement]
    images: dict[str, list[str]]
    notes: Sequence[str]
    command: str
