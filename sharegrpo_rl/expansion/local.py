"""A model in a local folder, through the package's own loading and generation; requests that wait together run together."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from sharegrpo_rl.data.cache import file_identity
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.expansion.endpoint import Reply, Request, Unanswered, one_line

_FALLBACK_POSITIONS = 4096  # of a model whose config names no limit


class LocalModel:
    """Batches of requests in a thread of their own. A reply depends on its request alone, never on its batch."""

    def __init__(self, folder: str, *, max_images_pixels: int = 1_003_520) -> None:
        if not Path(folder).is_dir():
            raise UserError(f"--local {folder}: no such folder; give a Hugging Face folder, such as RUN/export")
        from sharegrpo_rl.generation.hf import HFGenerator
        from sharegrpo_rl.models.loading import ModelSettings, load_policy
        from sharegrpo_rl.models.prompts import PromptSettings

        self._folder = folder
        prompts = PromptSettings(max_prompt_tokens=_FALLBACK_POSITIONS, max_pixels=max_images_pixels)
        self._policy: Any = load_policy(ModelSettings(folder, prompts=prompts))
        self._policy.encoder.settings = replace(prompts, max_prompt_tokens=_positions(self._policy.model))
        self._generator = HFGenerator(self._policy)
        self._waiting: list[tuple[Request, asyncio.Future[Reply]]] = []
        self._runner: asyncio.Task[None] | None = None
        self._identity = _content_identity(Path(folder))

    @property
    def identity(self) -> str:
        """Digest of the folder's files: other weights in the same place are another model."""
        return self._identity

    @property
    def name(self) -> str:
        """The folder."""
        return self._folder

    async def check(self) -> None:
        """UserError where the tokenizer has no chat template."""
        if (
            not getattr(self._policy.processor, "chat_template", None)
            and not self._policy.encoder.tokenizer.chat_template
        ):
            raise UserError(
                f"--local {self._folder}: its tokenizer has no chat template; take an instruction-tuned model"
            )

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
            await asyncio.sleep(0)  # the others that are about to ask join this batch
            (first, _), batch = self._waiting[0], []
            for entry in list(self._waiting):  # one temperature and one limit a batch
                if (entry[0].temperature, entry[0].max_tokens) == (first.temperature, first.max_tokens):
                    batch.append(entry)
                    self._waiting.remove(entry)
            try:
                outcomes = await asyncio.to_thread(self._answer, [request for request, _ in batch])
            except Exception as error:  # whoever waits must hear of it, whatever it is
                outcomes = [error] * len(batch)
            for (_, answer), outcome in zip(batch, outcomes, strict=True):
                if answer.done():
                    continue  # given up meanwhile
                if isinstance(outcome, Exception):
                    answer.set_exception(outcome)
                else:
                    answer.set_result(outcome)

    def _answer(self, requests: list[Request]) -> list[Reply | Exception]:
        from sharegrpo_rl.generation.generator import Sampling

        first = requests[0]
        greedy = first.temperature == 0
        self._policy.temperature = 1.0 if greedy else first.temperature
        encoded = [self._encoded(request, first.max_tokens) for request in requests]
        prompts = [prompt for prompt in encoded if not isinstance(prompt, Exception)]
        seeds = [r.seed for r, prompt in zip(requests, encoded, strict=True) if not isinstance(prompt, Exception)]
        made = iter(self._generator.generate(prompts, 1, seeds, Sampling(first.max_tokens, greedy=greedy)))
        outcomes: list[Reply | Exception] = []
        for prompt in encoded:
            if isinstance(prompt, Exception):
                outcomes.append(prompt)
            else:
                (completion,) = next(made)
                outcomes.append(Reply(completion.text, completion.truncated))
        return outcomes

    def _encoded(self, request: Request, max_tokens: int) -> Any:
        """The prompt, or what is wrong with it."""
        from sharegrpo_rl.models.prompts import Question

        if request.images and self._policy.encoder.image_processor is None:
            return UserError(
                f"--local {self._folder} is text-only and --verify shows it images; take a model that sees"
            )
        pictures = tuple(np.asarray(image.open()) for image in request.images)
        try:
            (prompt,) = self._policy.encoder.encode([Question(request.prompt, pictures)])
        except UserError as error:
            return Unanswered(one_line(error))
        limit = self._policy.encoder.settings.max_prompt_tokens
        if len(prompt.input_ids) + max_tokens > limit:
            return Unanswered(
                f"{len(prompt.input_ids)} prompt tokens and --max-tokens {max_tokens} exceed the model's {limit}"
            )
        return prompt


def _positions(model: Any) -> int:
    config = model.config.get_text_config()
    return int(getattr(config, "max_position_embeddings", None) or _FALLBACK_POSITIONS)


def _content_identity(folder: Path) -> str:
    """Digest of names, sizes and times of the files."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    known = "\n".join(f"{path.name} {file_identity(path)}" for path in files)
    return f"local:{blake2b(known.encode(), digest_size=12).hexdigest()}"
