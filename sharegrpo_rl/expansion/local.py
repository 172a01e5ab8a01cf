"""A model in a local folder, through the package's own loading and generation; requests that wait together run together."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.expansion.session import Reply, Request, Unanswered, one_line
from sharegrpo_rl.files import file_identity

_FALLBACK_POSITIONS = 4096  # of a model whose config names no limit


class LocalModel:
    """Generates batches of requests in a thread. A reply depends on its request alone, never on its batch."""

    def __init__(self, folder: str, *, max_pixels: int = 1_003_520) -> None:
        if not Path(folder).is_dir():
            raise UserError(f"--local {folder}: no such folder; give a Hugging Face folder, such as RUN/export")
        from sharegrpo_rl.generation.hf import HFGenerator
        from sharegrpo_rl.models.loading import ModelSettings, load_policy
        from sharegrpo_rl.models.prompts import PromptSettings

        prompts = PromptSettings(max_prompt_tokens=_FALLBACK_POSITIONS, max_pixels=max_pixels)
        self._policy: Any = load_policy(ModelSettings(folder, prompts=prompts))
        config = self._policy.model.config.get_text_config()
        positions = int(getattr(config, "max_position_embeddings", None) or _FALLBACK_POSITIONS)
        self._policy.encoder.settings = replace(prompts, max_prompt_tokens=positions)
        self._generator = HFGenerator(self._policy)
        self._waiting: list[tuple[Request, asyncio.Future[Reply]]] = []
        self._runner: asyncio.Task[None] | None = None
        self.name = folder
        self.identity = _content_identity(Path(folder))  # other weights in the same place are another model

    async def check(self) -> None:
        """UserError where the tokenizer has no chat template."""
        processor, tokenizer = self._policy.processor, self._policy.encoder.tokenizer
        if not getattr(processor, "chat_template", None) and not tokenizer.chat_template:
            raise UserError(f"--local {self.name}: its tokenizer has no chat template; take an instruction-tuned model")

    async def ask(self, request: Request) -> Reply:
        """Waits for the batch that the request joins."""
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, answer))
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        return await answer

    async def close(self) -> None:
        """Nothing is open."""

    async def _run(self) -> None:
        while self._waiting:
            await asyncio.sleep(0)  # others that are about to ask join this batch
            (first, _), batch = self._waiting[0], []
            for entry in list(self._waiting):  # one temperature and one token limit a batch
                if (entry[0].temperature, entry[0].max_tokens) == (first.temperature, first.max_tokens):
                    batch.append(entry)
                    self._waiting.remove(entry)
            try:
                outcomes = await asyncio.to_thread(self._generate, [request for request, _ in batch])
            except Exception as error:  # whoever waits must hear of it, whatever it is
                outcomes = [error] * len(batch)
            for (_, answer), outcome in zip(batch, outcomes, strict=True):
                if answer.done():
                    continue  # given up meanwhile
                if isinstance(outcome, Exception):
                    answer.set_exception(outcome)
                else:
                    answer.set_result(outcome)

    def _generate(self, requests: list[Request]) -> list[Reply | Exception]:
        """For each request of a batch its reply, or why there is none."""
        from sharegrpo_rl.generation.generator import Sampling

        temperature, max_tokens = requests[0].temperature, requests[0].max_tokens
        self._policy.temperature = temperature or 1.0
        outcomes: dict[int, Reply | Exception] = {}
        prompts: dict[int, Any] = {}
        for index, request in enumerate(requests):
            try:
                prompts[index] = self._encode(request)
            except (UserError, Unanswered) as error:
                outcomes[index] = error
        seeds, sampling = [requests[i].seed for i in prompts], Sampling(max_tokens, greedy=temperature == 0)
        completions = self._generator.generate(list(prompts.values()), 1, seeds, sampling)
        for index, (completion,) in zip(prompts, completions, strict=True):
            outcomes[index] = Reply(completion.text, completion.truncated)
        return [outcomes[index] for index in range(len(requests))]

    def _encode(self, request: Request) -> Any:
        from sharegrpo_rl.models.prompts import Question

        encoder = self._policy.encoder
        if request.images and encoder.image_processor is None:
            raise UserError(f"--local {self.name} is text-only and --verify shows it images; take a model that sees")
        pictures = tuple(np.asarray(image.open()) for image in request.images)
        try:
            (prompt,) = encoder.encode([Question(request.prompt, pictures)])
        except UserError as error:
            raise Unanswered(one_line(error)) from None
        length, limit = len(prompt.input_ids), encoder.settings.max_prompt_tokens
        if length + request.max_tokens > limit:
            raise Unanswered(f"{length} prompt tokens and --max-tokens {request.max_tokens} exceed the model's {limit}")
        return prompt


def _content_identity(folder: Path) -> str:
    """Digest of names, sizes and times of the files."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    listing = "\n".join(f"{path.name} {file_identity(path)}" for path in files)
    return f"local:{blake2b(listing.encode(), digest_size=12).hexdigest()}"
