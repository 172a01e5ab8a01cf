"""Whether a model can be asked the questions of a data set, found out before anything is trained.

Texts are searched for the model's special tokens, the most extreme pictures go through its processor, and every ground
truth is written with its tokenizer and graded.
"""

from __future__ import annotations

import numpy as np

from sharegrpo_rl.data.bank_check import naming_row
from sharegrpo_rl.data.images import size_of
from sharegrpo_rl.data.messages import chat_messages
from sharegrpo_rl.data.types import SeedQuestion
from sharegrpo_rl.envs.multimodal_qa import MultimodalQAEnv
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.models.prompts import PromptEncoder, Question


def check_prompts(env: MultimodalQAEnv, encoder: PromptEncoder) -> None:
    """Have a PromptCheck look at every row; UserError names the file, the row and its id. Generated rows are right."""
    check = PromptCheck(env, encoder)
    for bank, _ in env.read_banks():
        for index in range(len(bank)):
            question = bank[index]
            with naming_row(bank, index, question):
                check(question)


class PromptCheck:
    """UserError for a row that the model cannot be asked, or whose ground truth it cannot write; it is called with each.

    Whether the model's template takes a prompt, and the run's own texts, is found out when it is made.
    """

    def __init__(self, env: MultimodalQAEnv, encoder: PromptEncoder) -> None:
        encoder.template(Question("?"))
        for name in ("system_prompt", "format_prompt"):
            if tokens := encoder.special_tokens(getattr(encoder.settings, name)):
                raise UserError(f"{name}: it holds {tokens[0]!r}, a special token of the model; remove it")
        self._env, self._encoder = env, encoder
        self._written: set[str] = set()  # ground truths that the tokenizer writes without loss
        self._most: list[float] = []  # the widest, the tallest, the smallest picture so far

    def __call__(self, question: SeedQuestion) -> None:
        self._check_texts(question)
        if question.answer not in self._written:
            self._check_writing(question)
            self._written.add(question.answer)
        for image in question.images:
            width, height = size_of(image)
            if self._is_extreme(width, height):
                self._check_picture(width, height)

    def _check_texts(self, question: SeedQuestion) -> None:
        """No wording is read as special tokens, and each has as many image marks as there are pictures."""
        encoder = self._encoder
        if question.images and encoder.image_processor is None:
            raise UserError(
                "the question has an image and the model is text-only; choose a vision-language model (key: model)"
            )
        for text in question.wordings:
            chat_messages(text, len(question.images), "", "")
            if not encoder.settings.escape_special_tokens and (tokens := encoder.special_tokens(text)):
                raise UserError(
                    f"the question {text[:60]!r} holds {tokens[0]!r}, a special token of the model; remove it, or set "
                    "escape_special_tokens: true, which makes the model read it as plain text"
                )

    def _check_writing(self, question: SeedQuestion) -> None:
        """The ground truth, in the run's format, survives the model's tokenizer."""
        text = self._env.perfect_response(question)
        ids = self._encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
        written = self._encoder.decode(ids)
        if written == text or self._env.is_right(question, written):
            return
        raise UserError(
            f"the model's tokenizer cannot write the ground truth {question.answer[:60]!r}: {text[:120]!r} comes back as "
            f"{written[:120]!r}, which earns nothing; choose another model, or leave the row out"
        )

    def _is_extreme(self, width: int, height: int) -> bool:
        """Is the picture wider, taller or smaller than all before it?"""
        measures = [width / height, height / width, 1 / (width * height)]
        extreme = not self._most or any(m > most for m, most in zip(measures, self._most, strict=True))
        self._most = [max(pair) for pair in zip(measures, self._most or measures, strict=True)]
        return extreme

    def _check_picture(self, width: int, height: int) -> None:
        """The model's processor takes a picture of that size."""
        blank = np.full((height, width, 3), 255, np.uint8)
        try:
            self._encoder.token_ids(Question("", (blank,)))
        except (ValueError, RuntimeError, ZeroDivisionError, IndexError, TypeError) as error:
            words = " ".join(str(error).split())[:200]
            raise UserError(
                f"the model's processor refuses a picture of {width} x {height} pixels ({words}); change it, or leave the "
                "row out"
            ) from error
