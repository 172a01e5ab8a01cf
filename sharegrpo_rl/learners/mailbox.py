"""The mailbox between the driver and the learners of a Ray Train worker group: commands one way, answers the other.

Ray Train starts and restarts the workers but offers no way to call them. So each worker asks here for its next command, and
hands in the answer to the last one in the same call.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sharegrpo_rl.learners.failures import Failure, reason_of_loss

# A learner whose peer dies fails in their next exchange of gradients, before Ray Train has noticed the death.
PEER_SECONDS = 15.0


@dataclass(frozen=True)
class Member:
    """A worker that is ready for commands. `iteration`: the one whose committed state it started from."""

    rank: int
    node: str
    pid: int
    iteration: int
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def where(self) -> str:
        return f"node {self.node}, pid {self.pid}"


@dataclass(frozen=True)
class Command:
    """A command's name, and the arguments of each rank."""

    name: str
    arguments: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Group:
    """A complete worker group. `attempt` identifies it: a group that is restarted gets another."""

    attempt: str
    members: tuple[Member, ...]


@dataclass(frozen=True)
class GroupLost:
    """The group that was called no longer exists."""

    reason: str


@dataclass(frozen=True)
class TimedOut:
    """Nothing was heard for as long as the deadline; `members` had not answered, and `said` this last, by rank."""

    members: tuple[Member, ...]
    said: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RunEnded:
    """Ray Train gave the group up (`reason`), or ended it because the mailbox was closed."""

    reason: str


Outcome = list[Any] | Failure | GroupLost | TimedOut | RunEnded


class Mailbox:
    """Carries one command at a time. All methods run in one event loop."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._attempt = ""
        self._world = 0
        self._members: dict[int, Member] = {}
        self._command: Command | None = None
        self._number = -1
        self._answers: dict[int, Any] = {}
        self._losses: list[str] = []  # of the current or last group
        self._build_failure: Failure | None = None
        self._ended: RunEnded | None = None
        self._closed = False
        self._workers: list[Any] = []  # actors of all groups, dead ones included
        self._committed = 0
        self._heard = time.monotonic()  # when a worker last answered, or told its progress
        self._said: dict[int, str] = {}  # how far each is with the command

    # Called by the workers.

    async def arrive(self, worker: Any) -> bool:
        """A worker's process, an actor, has started; False: the mailbox is closed, it should end."""
        self._workers.append(worker)
        return not self._closed

    async def join(self, attempt: str, world: int, member: Member) -> bool:
        """A worker is ready; False: the mailbox is closed, it should end."""
        async with self._changed:
            if attempt != self._attempt:
                self._begin(attempt, world)
            self._members[member.rank] = member
            self._changed.notify_all()
            return not self._closed

    async def fail_to_join(self, attempt: str, failure: Failure) -> None:
        """A worker could not be built."""
        async with self._changed:
            if attempt != self._attempt:
                self._begin(attempt, 0)
            self._build_failure = self._build_failure or failure
            self._changed.notify_all()

    async def exchange(self, attempt: str, rank: int, number: int, answer: Any) -> tuple[str, Mapping[str, Any]] | None:
        """Hand in the answer to command `number` - 1 and wait for command `number`. None: the worker should end."""
        async with self._changed:
            if attempt == self._attempt and number == self._number + 1 and number > 0:
                self._answers[rank] = answer
                self._heard = time.monotonic()
                self._changed.notify_all()
            await self._changed.wait_for(lambda: self._closed or attempt != self._attempt or self._number >= number)
            if self._closed or attempt != self._attempt or self._command is None:
                return None
            return self._command.name, self._command.arguments[rank]

    async def progress(self, attempt: str, rank: int, said: str) -> None:
        """A worker is at work on the command, and this far: the deadline counts from now."""
        if attempt == self._attempt:
            self._heard = time.monotonic()
            self._said[rank] = said

    # Called by Ray Train's controller.

    async def lost(self, texts: Mapping[int, str]) -> None:
        """Workers died or raised out of their loop; `texts`: what Ray says about each rank."""
        async with self._changed:
            for rank, text in texts.items():
                member = self._members.get(rank)
                self._losses.append(reason_of_loss(rank, member.where if member else "not ready yet", text))
            self._changed.notify_all()

    async def committed(self, iteration: int) -> None:
        """The learners' state after this iteration is committed: a restart can return to it."""
        async with self._changed:
            self._committed = iteration
            self._changed.notify_all()

    async def end(self, reason: str) -> None:
        """The run is over, because of lost workers where there are any."""
        async with self._changed:
            self._ended = RunEnded("; ".join(self._losses) or reason)
            self._changed.notify_all()

    # Called by the driver.

    async def ready(self, timeout_s: float) -> Group | Failure | TimedOut | RunEnded:
        """The next complete group."""
        deadline = time.monotonic() + timeout_s
        async with self._changed:
            while await self._until(
                lambda: self._ended or self._build_failure or self._complete(), deadline - time.monotonic()
            ):
                failure = self._build_failure
                if failure and not failure.carried:
                    await self._until(lambda: self._ended or self._losses, PEER_SECONDS)
                if failure and not failure.carried and self._losses and not self._ended:
                    self._build_failure = None  # it failed because another died: Ray Train restarts them all
                    continue
                return failure or self._ended or Group(self._attempt, self._sorted())
            return TimedOut(())

    async def call(self, attempt: str, command: Command, timeout_s: float) -> Outcome:
        """Every rank's answer to a command, in rank order; or why there are none.

        timeout_s: the longest silence of all ranks.
        """
        async with self._changed:
            if outcome := self._lost_or_ended(attempt):
                return outcome
            self._number, self._command, self._answers = self._number + 1, command, {}
            self._heard, self._said = time.monotonic(), {}
            self._changed.notify_all()
            answered = False
            while not answered and (left := self._heard + timeout_s - time.monotonic()) > 0:
                answered = await self._until(
                    lambda: self._lost_or_ended(attempt) or self._failure() or len(self._answers) == self._world, left
                )
            failure = self._failure()
            if failure and not failure.carried:
                await self._until(lambda: self._lost_or_ended(attempt), PEER_SECONDS)
            if outcome := self._lost_or_ended(attempt):
                return outcome
            self._command = None  # its arguments keep objects in the object store alive
            if failure:
                return failure
            if not answered:
                return TimedOut(tuple(m for m in self._sorted() if m.rank not in self._answers), dict(self._said))
            return [self._answers[rank] for rank in range(self._world)]

    async def is_there(self) -> bool:
        """The mailbox itself answers."""
        return True

    async def last_commit(self) -> int:
        """The last iteration whose state is known to be committed; 0 before the first."""
        return self._committed

    async def wait_for_commit(self, iteration: int, timeout_s: float) -> bool:
        """Was the state after this iteration committed in time?"""
        async with self._changed:
            return await self._until(lambda: self._committed == iteration or self._losses, timeout_s)

    async def close(self, timeout_s: float) -> bool:
        """Let the workers end; did the run end in time?"""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()
            return await self._until(lambda: self._ended, timeout_s)

    async def arrived(self) -> list[Any]:
        """The actors of all workers that ever started."""
        return self._workers

    def _begin(self, attempt: str, world: int) -> None:
        self._attempt, self._world = attempt, world
        self._members, self._answers, self._losses = {}, {}, []
        self._command, self._number, self._build_failure = None, -1, None

    def _complete(self) -> bool:
        return bool(self._members) and len(self._members) == self._world and not self._losses

    def _sorted(self) -> tuple[Member, ...]:
        return tuple(self._members[rank] for rank in sorted(self._members))

    def _failure(self) -> Failure | None:
        failures = [a for a in self._answers.values() if isinstance(a, Failure)]
        return next((f for f in failures if f.carried), failures[0] if failures else None)

    def _lost_or_ended(self, attempt: str) -> GroupLost | RunEnded | None:
        if self._ended:
            return self._ended
        if self._losses or attempt != self._attempt:
            return GroupLost("; ".join(self._losses) or "the learners were lost")
        return None

    async def _until(self, holds: Callable[[], Any], timeout_s: float) -> bool:
        """Wait, holding the condition, until it holds; False after the time."""
        try:
            await asyncio.wait_for(self._changed.wait_for(lambda: bool(holds())), timeout_s)
        except TimeoutError:
            return False
        return True
