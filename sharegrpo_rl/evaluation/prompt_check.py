"""Whether a model can be asked the questions of a data set, found out before anything is trained.

Texts are searched for the model's special tokens, the most extreme pictures go through its processor, and every ground
truth is written with its tokenizer and graded. Errors name the file, the row and its id.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sharegrpo_rl.data.bank_check import naming_row
from sharegrpo_rl.data.images import size_of
from sharegrpo_rl.data.messages import chat_messages
from sharegrpo_rl.data.types import SeedQuestion
from sharegrpo_rl.envs.generated import GeneratedBank
from sharegrpo_rl.envs.multimodal_qa import MultimodalQAEnv
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.models.prompts import PromptEncoder, Question

Size = tuple[int, int]  # width, height in pixels


def check_prompts(env: MultimodalQAEnv, encoder: PromptEncoder, limit: int | None = None) -> None:
    """UserError where the model's template fails, or for the first of the (first `limit`) questions that the model cannot
    be asked or whose ground truth it cannot write. Generated questions are right by construction.
    """
    encoder.template(Question("?"))
    for name in ("system_prompt", "format_prompt"):
        if tokens := encoder.special_tokens(getattr(encoder.settings, name)):
            raise UserError(f"{name}: it holds {tokens[0]!r}, a special token of the model; remove it")
    bank = env.bank
    if isinstance(bank, GeneratedBank):
        return
    number = len(bank) if limit is None else min(limit, len(bank))
    sizes: dict[Size, int] = {}  # -> the first question with such a picture
    written: set[str] = set()  # ground truths that the tokenizer writes without loss
    for index in range(number):
        question = bank[index]
        with naming_row(bank, index, question):
            _check_texts(question, encoder)
            if question.answer not in written:
                _check_writing(env, question, encoder)
                written.add(question.answer)
            for image in question.images:
                sizes.setdefault(size_of(image), index)
    for size, index in _extremes(sizes):
        with naming_row(bank, index, bank[index]):
            _check_picture(size, encoder)


def _check_texts(question: SeedQuestion, encoder: PromptEncoder) -> None:
    """No wording is read as special tokens, and each has as many image marks as there are pictures."""
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


def _check_writing(env: MultimodalQAEnv, question: SeedQuestion, encoder: PromptEncoder) -> None:
    """The ground truth, in the run's format, survives the model's tokenizer."""
    text = env.perfect_response(question)
    ids = encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
    written = encoder.decode(ids)
    if written == text or env.is_right(question, written):
        return
    raise UserError(
        f"the model's tokenizer cannot write the ground truth {question.answer[:60]!r}: {text[:120]!r} comes back as "
        f"{written[:120]!r}, which earns nothing; choose another model, or leave the row out"
    )


def _extremes(sizes: dict[Size, int]) -> Iterator[tuple[Size, int]]:
    """The widest, the tallest and the smallest picture."""
    if sizes:
        for size in {
            max(sizes, key=lambda s: s[0] / s[1]), max(sizes, key=lambda s: s[1] / s[0]), min(sizes, key=lambda s: s[0] * s[1])
        }:  # fmt: skip
            yield size, sizes[size]


def _check_picture(size: Size, encoder: PromptEncoder) -> None:
    """The model's processor takes a picture of that size."""
    width, height = size
    blank = np.full((height, width, 3), 255, np.uint8)
    try:
        encoder.token_ids(Question("", (blank,)))
    except (ValueError, RuntimeError, ZeroDivisionError, IndexError, TypeError) as error:
        words = " ".join(str(error).split())[:200]
        raise UserError(
            f"the model's processor refuses a picture of {width} x {height} pixels ({words}); change it, or leave the row out"
        ) from error
