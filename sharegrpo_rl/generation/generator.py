"""What every generation engine offers: completions of prompts, replayable by seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sharegrpo_rl.data.types import Completion, Prompt

PromptDone = Callable[[int, tuple[Completion, ...]], None]
"""Called with a prompt's place among the prompts and its completions, as soon as the last of them has ended."""


@dataclass(frozen=True)
class Sampling:
    """How to sample. The temperature is the policy's; greedy takes the most likely token at every step."""

    max_tokens: int
    top_p: float = 1.0
    greedy: bool = False


class Generator(Protocol):
    """Turns prompts into completions; the same prompts, seeds and weights give the same completions."""

    def generate(
        self,
        prompts: Sequence[Prompt],
        num_samples: int,
        seeds: Sequence[int],
        sampling: Sampling,
        on_prompt_done: PromptDone | None = None,
    ) -> list[tuple[Completion, ...]]:
        """`num_samples` completions of each prompt; `seeds` holds one seed for each prompt.

        `on_prompt_done` hears of every prompt once, in the order in which they end.
        """


class EngineLost(RuntimeError):
    """An engine failed or hangs. Requests are seeded: a new engine gives the same answers."""
