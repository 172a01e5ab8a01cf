"""Processes that form a torch.distributed group on gloo and run test functions together; started once, used by many."""

import multiprocessing
import tempfile
import traceback
from datetime import timedelta
from functools import cache

import torch

DEADLINE = 200.0


def on_ranks(size, function, *args):
    """What a function of some test module returns on each of `size` ranks."""
    try:
        return _group(size).run(function, *args)
    except AssertionError:
        _group(size).stop()  # the others may wait for the one that failed
        _group.cache_clear()
        raise


class RankProcesses:
    """`size` processes; they end with this one."""

    def __init__(self, size):
        context = multiprocessing.get_context("spawn")
        pairs = [context.Pipe() for _ in range(size)]
        store = f"{tempfile.mkdtemp()}/store"
        self.pipes = [ours for ours, _ in pairs]
        self.processes = [
            context.Process(target=_serve, args=(rank, size, store, theirs), daemon=True)
            for rank, (_, theirs) in enumerate(pairs)
        ]
        for process in self.processes:
            process.start()

    def run(self, function, *args):
        for pipe in self.pipes:
            pipe.send((function, args))
        results = []
        for pipe in self.pipes:
            assert pipe.poll(DEADLINE), "a rank does not answer"
            results.append(pipe.recv())
        wrong = [error for _, error in results if error]
        assert not wrong, "\n".join(wrong)
        return [value for value, _ in results]

    def stop(self):
        for process in self.processes:
            process.kill()


@cache
def _group(size):
    return RankProcesses(size)


def _serve(rank, size, store, pipe):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=timedelta(seconds=90)
    )
    while True:
        function, args = pipe.recv()
        try:
            pipe.send((function(*args), None))
        except Exception:
            pipe.send((None, f"rank {rank}\n{traceback.format_exc()}"))
