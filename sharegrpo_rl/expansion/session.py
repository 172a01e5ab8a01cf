"""Asks once and never again: replies come from the journal where it has them, and go into it where it has not."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.expansion.endpoint import Asker, Reply, Request, Unanswered, one_line

# ---- An append-only file of replies, keyed by what was asked: a killed run goes on where it stopped, and asks nothing twice.


class Journal:
    """One JSON line a reply, written at once. A last line that a kill cut short is dropped when the file is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._replies: dict[str, Reply] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise self._unwritable(error) from None
        try:
            self._lock()
            self._read()
        except BaseException:  # Ctrl-C too: an open file would keep its lock; raised again below
            os.close(self._file)
            raise

    def __len__(self) -> int:
        return len(self._replies)

    def get(self, key: str) -> Reply | None:
        """The reply to a request asked before."""
        return self._replies.get(key)

    def add(self, key: str, reply: Reply) -> None:
        """Keep a reply; it is in the file when this returns. UserError where the disk is full."""
        line = json.dumps({"key": key, "text": reply.text, "truncated": reply.truncated}).encode() + b"\n"
        try:
            written = os.write(self._file, line)
            if written < len(line):
                raise OSError(f"{written} of {len(line)} bytes written")
        except OSError as error:
            raise self._unwritable(error) from None
        self._replies[key] = reply

    def close(self) -> None:
        """Close the file and give up the lock; an empty file is not left behind."""
        if not self._replies:
            self.path.unlink(missing_ok=True)
        os.close(self._file)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{self.path} is in use by another `expand`; wait until it ends, or choose another --out"
            ) from None

    def _read(self) -> None:
        end = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break
                self._take(line, number)
                end += len(line)
        if end < self.path.stat().st_size:
            os.ftruncate(self._file, end)

    def _take(self, line: bytes, number: int) -> None:
        try:
            entry = json.loads(line)
            self._replies[entry["key"]] = Reply(entry["text"], entry["truncated"])
        except (ValueError, TypeError, KeyError, RecursionError):
            raise UserError(f"{self.path} line {number} is damaged; delete that line and run again") from None

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(
            f"cannot write {self.path}: {one_line(error.strerror or error)}; free some space or choose another --out"
        )


FAILURES_IN_A_ROW = 5


class Session:
    """Counts what was asked and how many replies served again; ends the run where nothing is answered any more."""

    def __init__(self, asker: Asker, journal: Journal) -> None:
        self.asker, self._journal = asker, journal
        self.asked = self.reused = 0
        self._failures = 0
        self._checked = False
        self._locks: dict[str, asyncio.Lock] = {}
        self._check_lock = asyncio.Lock()

    async def ask(self, request: Request) -> Reply:
        """The reply; equal requests are asked once, also at the same time. Unanswered where this one fails.

        UserError where several in a row have failed, or where the model cannot be reached at all.
        """
        key = request.key(self.asker.identity)
        async with self._alone(key):
            if (known := self._journal.get(key)) is not None:
                self.reused += 1
                return known
            await self._check_once()
            reply = await self._ask(request)
            self._journal.add(key, reply)
            self.asked += 1
            return reply

    async def _ask(self, request: Request) -> Reply:
        try:
            reply = await self.asker.ask(request)
        except Unanswered as error:
            self._failures += 1
            if self._failures >= FAILURES_IN_A_ROW:
                raise UserError(
                    f"{self.asker.name}: {self._failures} requests in a row failed, the last one so: {error}; "
                    "the replies so far are kept: run the same command again when the cause is gone"
                ) from None
            raise
        self._failures = 0
        return reply

    async def _check_once(self) -> None:
        async with self._check_lock:
            if not self._checked:
                await self.asker.check()
                self._checked = True

    @asynccontextmanager
    async def _alone(self, key: str) -> AsyncIterator[None]:
        lock = self._locks.setdefault(key, asyncio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked():
                self._locks.pop(key, None)
