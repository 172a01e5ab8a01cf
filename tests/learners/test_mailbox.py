"""The mailbox between driver and workers, alone in one event loop: whole groups, answers, deaths, mistakes, deadlines."""

import asyncio
import time
from dataclasses import dataclass

import pytest

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.learners import mailbox as module
from sharegrpo_rl.learners.failures import Failure, LearnerError
from sharegrpo_rl.learners.mailbox import Command, Group, GroupLost, Mailbox, Member, RunEnded, TimedOut

PATIENCE = 50.0


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    monkeypatch.setattr(module, "PEER_SECONDS", 0.2)


def member(rank, iteration=0):
    return Member(rank, "10.0.0.1", 100 + rank, iteration)


@dataclass
class Worker:
    """A worker that answers each command with its name and its own argument, until `dies_at`."""

    box: Mailbox
    rank: int
    attempt: str = "a"
    world: int = 2
    dies_at: str = ""

    async def run(self):
        if not await self.box.join(self.attempt, self.world, member(self.rank)):
            return "unwanted"
        number, answer = 0, None
        while (got := await self.box.exchange(self.attempt, self.rank, number, answer)) is not None:
            name, arguments = got
            if name == self.dies_at:
                await asyncio.sleep(3600)
            if name == "mistake":
                answer = Failure(self.rank, "ValueError: no\nTraceback")
            elif name == "complaint":
                answer = Failure(self.rank, "UserError: picture 7", UserError("picture 7 is broken"))
            else:
                answer = (name, self.rank, dict(arguments))
            number += 1
        return "sent home"


def ask(name, **arguments):
    return Command(name, tuple({**arguments, "rank": rank} for rank in range(2)))


def play(scene):
    """Run `scene(box, start)` in a loop of its own; `start(worker)` lets a worker run beside it."""

    async def stage():
        box, tasks = Mailbox(), []
        try:
            return await asyncio.wait_for(scene(box, lambda w: tasks.append(asyncio.create_task(w.run()))), 60)
        finally:
            for task in tasks:
                task.cancel()

    return asyncio.run(stage())


def test_every_rank_gets_its_own_arguments_and_answers_come_in_the_order_of_ranks():
    async def scene(box, start):
        start(Worker(box, 1))
        start(Worker(box, 0))
        group = await box.ready(PATIENCE)
        return group, [await box.call(group.attempt, ask("update", x=i), PATIENCE) for i in range(3)]

    group, answers = play(scene)
    assert isinstance(group, Group)
    assert [m.rank for m in group.members] == [0, 1]
    assert answers == [[("update", rank, {"x": i, "rank": rank}) for rank in range(2)] for i in range(3)]


def test_a_group_is_ready_when_it_is_whole():
    async def scene(box, start):
        start(Worker(box, 0))
        return await box.ready(0.2)

    assert play(scene) == TimedOut(())


def test_a_death_is_told_with_its_place_and_the_next_group_goes_on():
    async def scene(box, start):
        start(Worker(box, 0, dies_at="update"))
        start(Worker(box, 1))
        group = await box.ready(PATIENCE)
        call = asyncio.create_task(box.call(group.attempt, ask("update"), PATIENCE))
        await asyncio.sleep(0.05)
        await box.lost({0: "The actor died because its process was killed. More words."})
        first = await call
        again = await box.call(group.attempt, ask("update"), PATIENCE)  # nobody has come back yet
        for rank in range(2):
            start(Worker(box, rank, attempt="b"))
        second = await box.ready(PATIENCE)
        return first, again, second, await box.call(second.attempt, ask("update"), PATIENCE)

    first, again, second, answers = play(scene)
    assert first == again
    assert isinstance(first, GroupLost)
    assert "learner 0 (node 10.0.0.1, pid 100) was lost: The actor died because its process was killed" in first.reason
    assert second.attempt == "b"
    assert len(answers) == 2


def test_a_failure_beside_a_death_counts_as_the_death():
    async def scene(box, start):
        start(Worker(box, 0, dies_at="mistake"))
        start(Worker(box, 1))
        group = await box.ready(PATIENCE)
        call = asyncio.create_task(box.call(group.attempt, ask("mistake"), PATIENCE))
        await asyncio.sleep(0.05)
        await box.lost({0: "was killed due to memory pressure: node running low on memory, 7.5 GB / 8.0 GB"})
        return await call

    found = play(scene)
    assert isinstance(found, GroupLost)
    assert "ran out of memory (7.5 of 8.0 GB in use); lower max_tokens_per_microbatch" in found.reason


def test_a_mistake_keeps_its_text_and_a_complaint_its_type():
    async def scene(box, start):
        start(Worker(box, 0))
        start(Worker(box, 1))
        group = await box.ready(PATIENCE)
        names = ("mistake", "complaint", "update")
        return [await box.call(group.attempt, ask(name), PATIENCE) for name in names]

    mistake, complaint, fine = play(scene)
    assert isinstance(mistake.error("update"), LearnerError)
    assert "failed in update: ValueError: no" in str(mistake.error("update"))
    assert isinstance(complaint.error("update"), UserError)
    assert len(fine) == 2


def test_who_does_not_answer_in_time_is_named():
    async def scene(box, start):
        start(Worker(box, 0))
        start(Worker(box, 1, dies_at="update"))
        group = await box.ready(PATIENCE)
        return await box.call(group.attempt, ask("update"), 2.0)  # the other one answers in much less

    assert play(scene) == TimedOut((member(1),))


def test_the_deadline_counts_from_the_last_sign_of_life():
    """A long update is not a dead learner; how far it had come is told when it falls silent."""

    async def scene(box, start):
        start(Worker(box, 0, dies_at="update"))
        start(Worker(box, 1, dies_at="update"))
        group = await box.ready(PATIENCE)
        call = asyncio.create_task(box.call(group.attempt, ask("update"), 1.0))
        beats = []
        await asyncio.sleep(0)  # the call begins
        for number in range(12):
            await box.progress(group.attempt, 1, f"pass {number}")
            await box.progress("of another group", 0, "pass 99")
            beats.append(time.monotonic())
            await asyncio.sleep(0.2)
            if call.done():
                break
        return await call, time.monotonic() - beats[-1], len(beats)

    outcome, silence, told = play(scene)
    assert outcome == TimedOut((member(0), member(1)), {1: f"pass {told - 1}"})
    assert silence >= 0.9


def test_a_build_that_fails_beside_a_death_waits_for_the_next_group():
    async def scene(box, start):
        await box.fail_to_join("a", Failure(1, "RuntimeError: connection closed by peer"))
        await box.lost({0: "The actor died because of a signal. X"})
        for rank in range(2):
            start(Worker(box, rank, attempt="b"))
        return await box.ready(PATIENCE)

    assert play(scene).attempt == "b"


def test_a_build_that_fails_by_itself_is_told():
    async def scene(box, start):
        await box.fail_to_join("a", Failure(1, "UserError: model", UserError("model: cannot load")))
        return await box.ready(PATIENCE)

    assert isinstance(play(scene).error("being built"), UserError)


def test_the_end_of_the_run_is_told_to_whoever_asks():
    async def scene(box, start):
        await box.end("WorkerGroupError: too often")
        return await box.ready(PATIENCE), await box.call("a", ask("update"), PATIENCE)

    assert play(scene) == (RunEnded("WorkerGroupError: too often"),) * 2


def test_closing_sends_workers_home_and_those_that_come_later():
    async def scene(box, start):
        workers = [asyncio.create_task(Worker(box, rank).run()) for rank in range(2)]
        await box.ready(PATIENCE)
        closing = asyncio.create_task(box.close(PATIENCE))
        told = [await w for w in workers]
        await box.end("")
        return told, await closing, await box.arrive("late"), await Worker(box, 0, attempt="b").run()

    assert play(scene) == (["sent home"] * 2, True, False, "unwanted")


def test_commits_are_waited_for():
    async def scene(box, start):
        waiting = asyncio.create_task(box.wait_for_commit(4, PATIENCE))
        await box.committed(4)
        return await waiting, await box.last_commit(), await box.wait_for_commit(5, 0.1)

    assert play(scene) == (True, 4, False)
