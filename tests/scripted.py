"""A generator that replays hand-written completions, for exact comparisons."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sharegrpo_rl.data.types import Completion, Prompt
from sharegrpo_rl.generation.generator import PromptDone, Sampling
from sharegrpo_rl.models.policy import Policy


class ScriptedGenerator:
    """`script(prompt, sample)` is the text of the prompt's completion number `sample`.

    Tokens are those of the policy's tokenizer, the end token included; a text over `max_tokens` is cut and marked
    truncated. The sampler's log-probs are 0, as nothing was sampled.
    """

    def __init__(self, policy: Policy, script: Callable[[Prompt, int], str]) -> None:
        self.policy = policy
        self.script = script

    def generate(
        self,
        prompts: Sequence[Prompt],
        num_generations: int,
        seeds: Sequence[int],
        sampling: Sampling,
        on_prompt_done: PromptDone | None = None,
    ) -> list[tuple[Completion, ...]]:
        """The scripted completions of each prompt; seeds play no part."""
        results = []
        for index, prompt in enumerate(prompts):
            results.append(tuple(self._completion(self.script(prompt, i), sampling) for i in range(num_generations)))
            if on_prompt_done is not None:
                on_prompt_done(index, results[-1])
        return results

    def _completion(self, text: str, sampling: Sampling) -> Completion:
        encoder = self.policy.encoder
        ids = [*encoder.tokenizer(text, add_special_tokens=False)["input_ids"], self.policy.end_ids[0]]
        kept = np.asarray(ids[: sampling.max_tokens], np.int64)
        truncated = len(ids) > len(kept)
        return Completion(kept, np.zeros(len(kept), np.float32), encoder.decode(kept), truncated)
