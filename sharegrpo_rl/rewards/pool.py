"""Child processes that run math-verify under a hard wall-clock deadline: one that overruns is killed and replaced."""

from __future__ import annotations

import atexit
import json
import os
import queue
import selectors
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

DEADLINE_SECONDS = 3.0
START_SECONDS = 120.0  # a cold import of sympy on a busy machine
NUM_WORKERS = 2
_CACHED = 8_192
_WORKER_FILE = Path(__file__).with_name("math_worker.py")


class GraderError(Exception):
    """The grader itself failed (deadline, crash, library error): to be counted, never taken for a verdict."""


class _Worker:
    """One child process; `ask` is called by one thread at a time."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(_WORKER_FILE)],  # by path: the child need not import this package
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        self.buffer = b""
        self.read_line(START_SECONDS)

    def read_line(self, seconds: float) -> dict[str, Any]:
        """Next reply; raises GraderError past the deadline or where the child has died."""
        assert self.process.stdout is not None
        until = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self.buffer:
                if not selector.select(max(0.0, until - time.monotonic())):
                    raise GraderError(f"math-verify passed its deadline of {seconds:g} s")
                chunk = os.read(self.process.stdout.fileno(), 65_536)
                if not chunk:
                    raise GraderError("the math-verify process died")
                self.buffer += chunk
        line, _, self.buffer = self.buffer.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError as error:
            raise GraderError("the math-verify process died") from error
        return self.read_line(seconds)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:  # an unsent request of a dead child has nowhere to go
                    continue


class GraderPool:
    """Up to `num_workers` children, each started when first needed. Safe to call from any thread."""

    def __init__(self, num_workers: int = NUM_WORKERS, deadline: float = DEADLINE_SECONDS) -> None:
        self.deadline = deadline
        self.process_id = os.getpid()
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(num_workers):
            self._idle.put(None)  # a place for a worker, not started yet
        self._num_workers = num_workers
        self._cache: OrderedDict[tuple[str, str, int], bool] = OrderedDict()
        self._lock = threading.Lock()

    def equal(self, gold: str, answer: str, decimals: int = 6) -> bool:
        """Whether two spans of LaTeX mean the same; raises GraderError where math-verify gives no verdict."""
        key = (gold, answer, decimals)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        verdict = self._ask({"gold": gold, "answer": answer, "decimals": decimals})
        with self._lock:
            self._cache[key] = verdict
            if len(self._cache) > _CACHED:
                self._cache.popitem(last=False)
        return verdict

    def warm_up(self) -> None:
        """Start every worker now, so that no later call waits for an import."""
        places = [self._idle.get() for _ in range(self._num_workers)]
        for place in places:
            self._idle.put(place or _Worker())

    def shutdown(self) -> None:
        """Kill the idle workers; the pool stays usable and starts new ones on demand."""
        places = []
        while True:
            try:
                places.append(self._idle.get_nowait())
            except queue.Empty:
                break
        for worker in places:
            if worker is not None:
                worker.kill()
            self._idle.put(None)

    def _ask(self, request: dict[str, Any]) -> bool:
        worker = self._idle.get()
        try:
            worker = worker or _Worker()
            reply = worker.ask(request, self.deadline)
        except BaseException:  # Ctrl-C too: a worker in the middle of an answer must not be reused; raised again below
            if worker is not None:
                worker.kill()
            self._idle.put(None)
            raise
        self._idle.put(worker)
        if "error" in reply:
            raise GraderError(f"math-verify: {reply['error']}")
        return bool(reply["equal"])


_shared: GraderPool | None = None
_shared_lock = threading.Lock()


def shared_pool() -> GraderPool:
    """This process's pool (a forked child gets its own); its workers end with the process."""
    global _shared
    with _shared_lock:
        if _shared is None or _shared.process_id != os.getpid():
            _shared = GraderPool()
            atexit.register(_shared.shutdown)
        return _shared
