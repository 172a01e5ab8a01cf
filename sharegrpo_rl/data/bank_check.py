"""One walk over a bank before training, so that bad rows are found at once and not after hours."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from hashlib import blake2b
from pathlib import Path
from typing import TypeAlias

from sharegrpo_rl.data.types import ImageSource, QuestionBank, SeedQuestion
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.files import cache_folder, cached_file

RowCheck: TypeAlias = Callable[[SeedQuestion], None]  # UserError where the row is wrong
_WORTH_KEEPING = 1000  # newly decoded images; fewer take no noticeable time

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BankReport:
    """What a walk over a split found.

    digest: of its rows and the contents of their images; lines: what was converted, and what a user should know.
    """

    name: str
    rows: int
    digest: str
    lines: tuple[str, ...]

    def log(self) -> None:
        """Tell the user in one line, where there is something to tell."""
        if self.lines:
            logger.warning("%s, %s rows: %s", self.name, f"{self.rows:,}", "; ".join(self.lines))


def check_bank(bank: QuestionBank, *checks: RowCheck) -> BankReport:
    """Read every row once, decode every distinct image, and ask `checks` of each row.

    UserError names the file, the row, its id and the image. Images that an earlier walk found intact are recognised by
    their content and not decoded again.
    """
    if len(bank) == 0:
        raise UserError(f"data set {bank.name} has no questions in its {bank.split} split; add rows or name another")
    notes, digest = _RowNotes(), blake2b(digest_size=16)
    images = _CheckedImages(str(Path(bank.name).expanduser().absolute()))
    for index in range(len(bank)):
        question = bank[index]
        with naming_row(bank, index, question):
            contents = [images.check(image) for image in question.images]
            for check in checks:
                check(question)
        digest.update(_content(question, contents))
        notes.add(question)
    images.save()
    return BankReport(f"{bank.name} ({bank.split})", len(bank), digest.hexdigest(), tuple(notes.lines()))


def _content(question: SeedQuestion, images: Sequence[str]) -> bytes:
    """Everything of a row that a run may read, and its images by their contents."""
    values = {field.name: getattr(question, field.name) for field in fields(question)}
    return json.dumps(values | {"images": images, "notes": ()}, default=str).encode() + b"\n"


class _RowNotes:
    """Counts what was converted over the rows of a split, and what else a user should know of them."""

    def __init__(self) -> None:
        self.rows = 0
        self.counts: Counter[str] = Counter()
        self._without_images = 0
        self._ids: Counter[str] = Counter()

    def add(self, question: SeedQuestion) -> None:
        """Count one row."""
        self.rows += 1
        self.counts.update(question.notes)
        self._without_images += not question.images
        self._ids[question.id] += 1

    def lines(self) -> list[str]:
        """The counts in words, most frequent first; [] where there is nothing to say."""
        lines = [f"{note}: {count:,}" for note, count in self.counts.most_common()]
        if 0 < self._without_images < self.rows:
            lines.append(f"rows without a picture, unlike the others: {self._without_images:,}")
        if repeated := [identity for identity, times in self._ids.items() if times > 1]:
            lines.append(
                f"ids that repeat, so that no page can show their pictures: {len(repeated):,}, such as {repeated[0]!r} "
                "(make them unique, or set env_config.columns.id to null)"
            )
        return lines


def question_location(bank: QuestionBank, index: int) -> str:
    """Where a question comes from, for error messages: file and row, or the bank if it knows no more."""
    location = getattr(bank, "location", None)  # generated questions are in no file
    return location(index) if location else f"{bank.name} ({bank.split}) question {index}"


@contextmanager
def naming_row(bank: QuestionBank, index: int, question: SeedQuestion) -> Iterator[None]:
    """Put the row's location before an error that does not name it."""
    try:
        yield
    except UserError as error:
        location = question_location(bank, index)
        named = location in str(error)
        raise UserError(str(error) if named else f"{location}, id {question.id}: {error}") from None


class _CheckedImages:
    """The contents that were decoded without complaint, in this walk and earlier ones over the data set `key`."""

    def __init__(self, key: str) -> None:
        name = blake2b(key.encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()
        self._file = cache_folder("checked_images") / f"{name}.txt"
        self._known: set[str] = set()
        with suppress(OSError, ValueError):  # no list, or a damaged one: everything is decoded again
            self._known = set(self._file.read_text(encoding="ascii").split())
        self._decoded = 0

    def check(self, image: ImageSource) -> str:
        """The image's fingerprint; it is decoded unless its content is known. UserError from the image where it is bad."""
        if (content := image.fingerprint()) not in self._known:
            image.open()
            self._known.add(content)
            self._decoded += 1
        return content

    def save(self) -> None:
        """Keep the list for the next run, where that saves time."""
        if self._decoded < _WORTH_KEEPING:
            return
        # A cache that cannot be written only makes the next walk as long as this one.
        with suppress(UserError), cached_file(self._file) as unfinished:
            unfinished.write_text("\n".join(sorted(self._known)), encoding="ascii")
