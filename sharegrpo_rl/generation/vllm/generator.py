"""Generation by vLLM: all samples of all prompts at once, every prompt handed over when its last sample has ended."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind

from sharegrpo_rl.data.types import Completion, Prompt
from sharegrpo_rl.generation.generator import EngineLost, PromptDone, Sampling
from sharegrpo_rl.generation.vllm.engine import VLLMEngine
from sharegrpo_rl.generation.vllm.prompts import engine_input
from sharegrpo_rl.models.policy import Policy


class VLLMGenerator:
    """A Generator over a running engine. Log-probs are those of the distribution that was sampled from, at the policy's
    temperature and without banned ids; of greedy answers, at temperature 1.

    Raises EngineLost where the engine fails, or has not answered everything after `timeout_s`.
    """

    def __init__(self, policy: Policy, engine: VLLMEngine, timeout_s: float = float("inf")) -> None:
        self.policy = policy
        self.engine = engine
        self.timeout_s = timeout_s

    def generate(
        self,
        prompts: Sequence[Prompt],
        num_samples: int,
        seeds: Sequence[int],
        sampling: Sampling,
        on_prompt_done: PromptDone | None = None,
    ) -> list[tuple[Completion, ...]]:
        """Completions of each prompt, in order; the samples of a prompt share its keys and values (prefix caching)."""
        results: dict[int, tuple[Completion, ...]] = {}
        waiting: dict[str, int] = {}  # request -> place among the prompts
        inputs = [engine_input(prompt, self.policy.encoder) for prompt in prompts]
        deadline = time.monotonic() + self.timeout_s
        with self.engine.awake():
            try:
                for place, (given, seed) in enumerate(zip(inputs, seeds, strict=True)):
                    waiting[self.engine.submit(given, self._parameters(num_samples, seed, sampling))] = place
                while waiting:
                    if time.monotonic() > deadline:
                        raise EngineLost(f"{len(waiting)} prompts unanswered after {self.timeout_s:g} s")
                    for output in self.engine.finished():
                        place = waiting.pop(output.request_id)
                        results[place] = self._completions(prompts[place], output, num_samples)
                        if on_prompt_done is not None:
                            on_prompt_done(place, results[place])
            finally:
                self.engine.abort(list(waiting))
        return [results[place] for place in range(len(prompts))]

    def _parameters(self, num_samples: int, seed: int, sampling: Sampling) -> SamplingParams:
        chosen = {"n": 1, "temperature": 0.0} if sampling.greedy else {"n": num_samples, "seed": seed}
        if not sampling.greedy:
            chosen |= {"temperature": self.policy.temperature, "top_p": sampling.top_p}
        return SamplingParams(
            **chosen,
            max_tokens=sampling.max_tokens,
            stop_token_ids=list(self.policy.end_ids),
            ignore_eos=True,  # the ends are the policy's own, whatever the folder's generation config says
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _completions(self, prompt: Prompt, output: Any, num_samples: int) -> tuple[Completion, ...]:
        if output.prompt_token_ids != prompt.input_ids.tolist():
            raise RuntimeError(
                f"vLLM answered another prompt than the trainer will see: {len(output.prompt_token_ids)} ids instead of "
                f"{len(prompt.input_ids)} (it begins {prompt.text[:60]!r})"
            )
        completions = tuple(self._completion(answer) for answer in sorted(output.outputs, key=lambda o: o.index))
        return completions * num_samples if len(completions) < num_samples else completions

    def _completion(self, answer: Any) -> Completion:
        tokens = np.asarray(answer.token_ids, np.int64)
        return Completion(
            token_ids=tokens,
            sampler_logprobs=np.asarray(answer.logprobs.logprobs, np.float32),
            text=self.policy.encoder.decode(tokens),
            truncated=int(tokens[-1]) not in self.policy.end_ids,
        )
