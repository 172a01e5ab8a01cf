"""One walk over a bank before training, so that bad rows are found at once and not after hours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sharegrpo_rl.data.checked_images import CheckedImages
from sharegrpo_rl.data.types import QuestionBank, SeedQuestion
from sharegrpo_rl.errors import UserError


def check_bank(
    bank: QuestionBank,
    *,
    check_truth: Callable[[SeedQuestion], None] | None = None,
    limit: int | None = None,
) -> None:
    """Reads every row (or the first `limit`), decodes every distinct image, and has each ground truth checked.

    UserError names the file, the row, its id and the image. Images that an earlier walk found whole are not decoded
    again: they are known by their content.
    """
    if len(bank) == 0:
        raise UserError(f"data set {bank.name} has no questions in its {bank.split} split; add rows or name another")
    checked = CheckedImages(str(Path(bank.name).expanduser().absolute()))
    for index in range(len(bank) if limit is None else min(limit, len(bank))):
        question = bank[index]
        with _naming_row(bank, index, question):
            if check_truth is not None:
                check_truth(question)
            for image in question.images:
                checked.check(image)
    checked.save()


@contextmanager
def _naming_row(bank: QuestionBank, index: int, question: SeedQuestion) -> Iterator[None]:
    """Put the row's place before whatever is wrong with it."""
    try:
        yield
    except UserError as error:
        place = getattr(bank, "place", None)  # generated questions stand in no file
        where = place(index) if place else f"{bank.name} ({bank.split}) question {index}"
        known = where in str(error)
        raise UserError(str(error) if known else f"{where}, id {question.id}: {error}") from None
