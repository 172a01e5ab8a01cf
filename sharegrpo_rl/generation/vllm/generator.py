"""Generation by vLLM: all samples of all prompts at once, each prompt returned when its last sample has finished."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from sharegrpo_rl.data.types import Completion, PixelInput, Prompt, PromptPack
from sharegrpo_rl.errors import NotFiniteError, UserError
from sharegrpo_rl.generation.generator import EngineLost, PromptDone, Prompts, Sampling, check_finite, is_ready
from sharegrpo_rl.generation.vllm import private
from sharegrpo_rl.generation.vllm.engine import VLLMEngine
from sharegrpo_rl.generation.vllm.private import GRID, reason_of
from sharegrpo_rl.models.policy import Policy, unwrapped
from sharegrpo_rl.models.probe import check_engine_answers, probe_questions
from sharegrpo_rl.models.prompts import PIXELS, PromptEncoder
from sharegrpo_rl.models.vision import to_device


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
        prompts: Prompts,
        num_generations: int,
        seeds: Sequence[int],
        sampling: Sampling,
        on_prompt_done: PromptDone | None = None,
    ) -> list[tuple[Completion, ...]]:
        """Completions of each prompt, in order; the samples of a prompt share its keys and values (prefix caching).

        Prompts that are still being made join the engine's work when they are ready.
        """
        results: dict[int, tuple[Completion, ...]] = {}
        waiting: dict[str, int] = {}  # request -> index of its prompt
        submitted = 0
        deadline = time.monotonic() + self.timeout_s
        with self.engine.awake():
            try:
                while waiting or submitted < len(prompts):
                    while submitted < len(prompts) and (not waiting or is_ready(prompts, submitted)):
                        asked = engine_input(prompts[submitted], self.policy.encoder, self.engine)
                        parameters = self._parameters(num_generations, seeds[submitted], sampling)
                        waiting[self.engine.submit(asked, parameters)] = submitted
                        submitted += 1
                    if time.monotonic() > deadline:
                        raise EngineLost(f"{len(waiting)} prompts unanswered after {self.timeout_s:g} s")
                    for output in self.engine.finished():
                        index = waiting.pop(output.request_id)
                        results[index] = self._completions(prompts[index], output, num_generations)
                        if on_prompt_done is not None:
                            on_prompt_done(index, results[index])
            finally:
                self.engine.abort(list(waiting))
        return [results[index] for index in range(len(prompts))]

    def check_once(self) -> None:
        """`check`, at an engine's first use."""
        if not self.engine.is_checked:
            self.check()
            self.engine.is_checked = True

    def check(self) -> None:
        """Ask the engine, which has the policy's weights, two texts and pictures. UserError where it answers other prompts
        than the trainer's, or with other probabilities than the trainer sees.

        Beside GPUs a policy on the CPU would take minutes: there the probabilities are left to `logprob_diff_mean`.
        """
        packs, model = self.answer_probe(), unwrapped(self.policy.model)
        if model.device.type != "cpu" or not torch.cuda.is_available():
            check_engine_answers(self.policy, packs)

    def answer_probe(self) -> list[PromptPack]:
        """Short answers of the engine to the questions of the check at load, as far as it is asked such ones at all.

        UserError where it fails on one, or answers another prompt than the trainer's.
        """
        encoder = self.policy.encoder
        asked = [q for q in probe_questions(self.policy) if len(q.pictures) <= self.engine.images_per_prompt]
        prompts = [
            p
            for p in encoder.encode(asked, check_length=False)
            if len(p.input_ids) <= encoder.settings.max_prompt_tokens
        ]
        try:
            answers = self.generate(prompts, 2, range(len(prompts)), Sampling(4))
        except Exception as error:
            if isinstance(error, NotFiniteError) or (isinstance(error, EngineLost) and error.__cause__ is None):
                raise  # not the family's fault: weights, or an engine that is never done
            raise UserError(f"config.engine: vLLM fails on a text or a picture ({reason_of(error)}); use hf") from error
        return [
            PromptPack(group, 0, prompt, said, np.ones(len(said)), np.ones(len(said), bool))
            for group, (prompt, said) in enumerate(zip(prompts, answers, strict=True))
        ]

    def _parameters(self, num_generations: int, seed: int, sampling: Sampling) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        options = {"n": 1, "temperature": 0.0} if sampling.greedy else {"n": num_generations, "seed": seed}
        if not sampling.greedy:
            options |= {"temperature": self.policy.temperature, "top_p": sampling.top_p}
        return SamplingParams(
            **options,
            max_tokens=sampling.max_tokens,
            stop_token_ids=list(self.policy.end_ids),
            ignore_eos=True,  # only the policy's end ids, whatever the folder's generation config says
            allowed_token_ids=self.engine.allowed_ids,
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _completions(self, prompt: Prompt, output: Any, num_generations: int) -> tuple[Completion, ...]:
        if output.prompt_token_ids != prompt.input_ids.tolist():
            raise RuntimeError(
                f"vLLM answered a different prompt from the trainer's: {len(output.prompt_token_ids)} ids instead of "
                f"{len(prompt.input_ids)} (it begins {prompt.text[:60]!r})"
            )
        completions = tuple(self._completion(answer) for answer in sorted(output.outputs, key=lambda o: o.index))
        return completions * num_generations if len(completions) < num_generations else completions

    def _completion(self, answer: Any) -> Completion:
        tokens = np.asarray(answer.token_ids, np.int64)
        return check_finite(
            Completion(
                token_ids=tokens,
                sampler_logprobs=np.asarray(answer.logprobs.logprobs, np.float32),
                text=self.policy.encoder.decode(tokens),
                truncated=int(tokens[-1]) not in self.policy.end_ids,
            )
        )


def engine_input(prompt: Prompt, encoder: PromptEncoder, engine: VLLMEngine) -> Any:
    """What `LLMEngine.add_request` takes: the very ids and pixels that the trainer sees, nothing tokenized or resized again.

    Of families whose processor expands placeholders itself, vLLM's own processor makes ids and pixels of text and pictures;
    the ids of its answers are compared with ours. vLLM's caches know an image by our key.
    """
    ids = prompt.input_ids.tolist()
    if not prompt.images:
        return private.text_input(ids)
    if not encoder.has_grids:
        (image,) = prompt.images
        unexpanded = encoder.tokenizer(prompt.text, add_special_tokens=False)["input_ids"]
        # One picture may be cut otherwise among several: its key is that of the prompt's pictures, and its place.
        keys = [f"{image.key}#{place}" for place in range(len(prompt.pictures))]
        return engine.process(unexpanded, [Image.fromarray(picture) for picture in prompt.pictures], keys)
    counts = [_tokens(image, encoder) for image in prompt.images]
    spans = image_spans(prompt.input_ids, encoder.processor.image_token_id, counts)
    return private.picture_input(ids, [i.key for i in prompt.images], spans, [_item(i, engine) for i in prompt.images])


def image_spans(ids: NDArray[np.int64], image_token: int, counts: Sequence[int]) -> list[tuple[int, int]]:
    """(offset, tokens) of each image in the prompt; RuntimeError where ids and images do not match."""
    (positions,) = np.nonzero(ids == image_token)
    starts = np.cumsum([0, *counts])
    if len(positions) != starts[-1]:
        raise RuntimeError(f"the prompt has {len(positions)} image tokens, its images need {starts[-1]}")
    spans = []
    for count, start in zip(counts, starts, strict=False):
        offset = int(positions[start])
        if positions[start + count - 1] != offset + count - 1:
            raise RuntimeError(f"the {count} tokens of an image at {offset} are not contiguous")
        spans.append((offset, count))
    return spans


def _tokens(image: PixelInput, encoder: PromptEncoder) -> int:
    merge: int = encoder.image_processor.merge_size  # type: ignore[union-attr]
    return int(image.tensors[GRID].prod()) // merge**2


def _item(image: PixelInput, engine: VLLMEngine) -> Any:
    """The picture in vLLM's form, in the engine's own precision. Prompts that share it hold it once, as long as one of them
    is not answered."""
    if (item := engine.pictures.get(image.key)) is not None:
        return item
    pixels = to_device(image.tensors[PIXELS], torch.device("cpu"), engine.dtype)
    item = private.picture_item(PIXELS, {PIXELS: pixels, GRID: torch.from_numpy(image.tensors[GRID])})
    engine.pictures[image.key] = item
    return item
