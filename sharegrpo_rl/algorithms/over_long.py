"""Questions whose prompt would not fit `max_prompt_tokens`: found before training, left out and counted, never truncated."""

from __future__ import annotations

from itertools import islice

import numpy as np

from sharegrpo_rl.data.transforms import TRANSFORMS
from sharegrpo_rl.data.types import QuestionBank, SeedQuestion
from sharegrpo_rl.envs.bank_view import BankView
from sharegrpo_rl.envs.multimodal_qa import MultimodalQAEnv
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.models.prompts import PromptEncoder, Question


def fitting_questions(
    bank: QuestionBank, encoder: PromptEncoder, transformed: bool = False, most: int | None = None
) -> list[int]:
    """Indices of the (first `most`) questions that fit in every wording, and with the longest transform sentence
    where `transformed`. UserError where none does.
    """
    sentence = max((t.sentence for t in TRANSFORMS.values()), key=len) if transformed else ""
    limit = encoder.settings.max_prompt_tokens
    chosen = list(islice((i for i in range(len(bank)) if _fits(bank[i], encoder, sentence, limit)), most))
    if not chosen:
        raise UserError(
            f"{bank.name} ({bank.split}): all {len(bank)} questions are over-long (the first is {bank[0].id}); "
            f"raise max_prompt_tokens = {limit}, or lower max_pixels = {encoder.settings.max_pixels}"
        )
    return chosen


def keep_fitting(env: MultimodalQAEnv, encoder: PromptEncoder, most: int) -> None:
    """Cut the environment's bank down to the first `most` questions that fit."""
    chosen = fitting_questions(env.bank, encoder, most=most)
    if chosen != list(range(len(chosen))):
        env.bank = BankView(env.bank, chosen)


def _fits(question: SeedQuestion, encoder: PromptEncoder, sentence: str, limit: int) -> bool:
    longest = max(question.wordings, key=lambda text: len(text.encode()))
    text = f"{longest} {sentence}".strip()
    bound = encoder.token_bound(text, len(question.images))
    if bound is not None and bound <= limit:
        return True
    if len(text) > 20 * limit:  # no tokenizer writes twenty letters of prose as one token
        return False
    pictures = tuple(np.array(source.open(), dtype=np.uint8) for source in question.images)
    return len(encoder.token_ids(Question(text, pictures))) <= limit
