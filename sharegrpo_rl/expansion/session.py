"""Asks once and never again: replies come from the journal where it has them, and go into it where it has not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.expansion.journal import Journal
from sharegrpo_rl.expansion.requests import Asker, Reply, Request, Unanswered

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
