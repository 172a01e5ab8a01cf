"""Requests to a language model, whichever way it is reached. Each is asked once: replies are kept in a file, keyed by
everything they depend on, so that a killed run continues where it stopped."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

from sharegrpo_rl.data.types import ImageSource
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.files import JsonLines, locked, storage_errors

FAILURES_IN_A_ROW = 5


@dataclass(frozen=True)
class Request:
    """One prompt; `<image>` marks in it stand for `images`. Temperature 0 is greedy; `seed` below 2**31."""

    prompt: str
    temperature: float
    max_tokens: int
    seed: int
    images: tuple[ImageSource, ...] = ()

    def key(self, model: str) -> str:
        """Digest of everything that the reply depends on."""
        pictures = [image.fingerprint() for image in self.images]
        parts = [model, self.prompt, self.temperature, self.max_tokens, self.seed, pictures]
        return blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Reply:
    """The text of a reply; `truncated` where the token limit cut it."""

    text: str
    truncated: bool = False


class Unanswered(Exception):
    """This one request got no usable reply after all its tries; says why. Others may still succeed."""


class LanguageModel(Protocol):
    """A language model that answers several requests at a time."""

    @property
    def identity(self) -> str:
        """What replies depend on besides the request: the model's name, or its folder's content."""

    @property
    def name(self) -> str:
        """What messages and provenance call it; never holds a key."""

    async def check(self) -> None:
        """UserError where the model cannot be reached or is unknown; called before the first request."""

    async def ask(self, request: Request) -> Reply:
        """Unanswered where this request fails, UserError where every other one would fail too."""

    async def close(self) -> None:
        """Let go of connections."""


class ReplyJournal:
    """The replies so far, one JSON object a line; each is in the file when `add` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = JsonLines(path, sync=False)
        self._replies: dict[str, Reply] = {}
        self._file.read(self._take, "damaged; delete that line and run again")

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[ReplyJournal]:
        """Read the file and lock it for this process; an empty one is not left behind. UserError where it is in use."""
        with storage_errors(path, REMEDY):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        with locked(path, f"{path} is in use by another `expand`; wait until it ends, or choose another --out"):
            journal = cls(path)
            try:
                yield journal
            finally:
                if not len(journal):
                    path.unlink(missing_ok=True)

    def __len__(self) -> int:
        return len(self._replies)

    def get(self, key: str) -> Reply | None:
        """The reply to a request asked before."""
        return self._replies.get(key)

    def add(self, key: str, reply: Reply) -> None:
        """Keep a reply. UserError where the disk is full."""
        row = {"key": key, "text": reply.text, "truncated": reply.truncated}
        with storage_errors(self.path, REMEDY):
            self._file.append(row)
        self._take(row)

    def _take(self, row: Any) -> None:
        self._replies[row["key"]] = Reply(row["text"], row["truncated"])


REMEDY = "free some space or choose another --out"


class Session:
    """Asks a model, or serves a reply again; ends the run when nothing is answered any more."""

    def __init__(self, model: LanguageModel, journal: ReplyJournal) -> None:
        self.model, self._journal = model, journal
        self.asked = self.reused = 0
        self._failures = 0  # in a row
        self._checked = False
        self._locks: dict[str, asyncio.Lock] = {}

    async def ask(self, request: Request) -> Reply:
        """The reply; equal requests are asked once, even at the same time. Unanswered where this one fails.

        UserError where several in a row have failed, or where the model cannot be reached at all.
        """
        key = request.key(self.model.identity)
        async with self._alone(key):
            if (known := self._journal.get(key)) is not None:
                self.reused += 1
                return known
            async with self._alone("check"):
                if not self._checked:
                    await self.model.check()
                    self._checked = True
            try:
                reply = await self.model.ask(request)
            except Unanswered as error:
                self._failures += 1
                if self._failures < FAILURES_IN_A_ROW:
                    raise
                raise UserError(
                    f"{self.model.name}: {self._failures} requests in a row failed, most recently: {error}; "
                    "the replies so far are kept: run the same command again when the cause is gone"
                ) from None
            self._failures = 0
            self._journal.add(key, reply)
            self.asked += 1
            return reply

    @asynccontextmanager
    async def _alone(self, key: str) -> AsyncIterator[None]:
        lock = self._locks.setdefault(key, asyncio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked():
                self._locks.pop(key, None)


def one_line(text: object, limit: int = 200) -> str:
    """A message on one line, cut to `limit` characters."""
    plain = " ".join(str(text).split())
    return plain if len(plain) <= limit else f"{plain[: limit - 3]}..."
