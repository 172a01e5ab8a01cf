"""Mathematics that only a computer algebra system can compare: math-verify in child processes, behind guards.

A child limits each request by its own processor time, so that no verdict depends on how busy the machine is. One that
does not come back all the same is killed, and its successor starts beside the next request.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import re
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

from sharegrpo_rl.grader.algebra import same_equation, same_expression
from sharegrpo_rl.grader.key import AnswerKey, GraderError, Match
from sharegrpo_rl.grader.text import canonical

_MAX_CHARACTERS = 600
_MAX_BRACE_DEPTH = 16
_MATH_SIGN = re.compile(r"[\\^_=<>+*/|]|\d")
_HUGE_NUMBER = re.compile(
    r"\^\s*\{?[^{}\s^]{1,12}\s*\^\s*\{?[^{}\s^]{1,12}\s*\^|\^\s*\{?\s*\(?\d{5,}|\d{60,}|!\s*!|\d{4,}\s*\)?\s*!|\\binom\s*\{\d{4,}"
    r"|[)\]]\s*\}?\s*\^\s*[{(]?\s*(?:[4-9]\d|\d{3,})|\^\s*\{?\d+\}?\s*!"
)
_MAX_SIGNS = 8  # of a ratio or a factorial
_LONE_LETTER = re.compile(r"(?<![\\A-Za-z])[A-Za-z](?![A-Za-z])")
_POWER_IN_EXPONENT = re.compile(r"\^\s*[{(]?\s*\(?(\d{1,12})\s*\^\s*[{(]?\s*(\d{1,12})")
_LARGEST_EXPONENT = 10_000


def compare_symbolic(answer: str, key: AnswerKey, gold: str) -> Match:
    """By values where both are expressions or equations, else math-verify in a child process.

    Raises GraderError where that gives no verdict.
    """
    plain, plain_gold = canonical(answer), canonical(gold)
    if len(answer) > _MAX_CHARACTERS:
        return Match(False, "too large to be an answer")
    if (equal := same_expression(plain, plain_gold)) is not None:
        return Match(equal, "the same values" if equal else "other values")
    if (equal := same_equation(plain, plain_gold)) is not None:
        return Match(equal, "the same equation" if equal else "another equation")
    if not _MATH_SIGN.search(plain) and len(plain) > 1:
        return Match(False, "words where mathematics is expected")
    if is_huge(plain_gold):
        return Match(False, "the gold is too large to be worked out")
    if max(plain.count(":"), plain.count("!")) > _MAX_SIGNS or is_huge(plain):
        return Match(False, "too large to be an answer")
    if _letters_differ_in_case(plain, plain_gold):
        return Match(False, "other letters")  # math-verify does not tell V from v
    decimals = 6 if key.precision is None else max(0, min(12, int(key.precision)))
    equal = shared_pool().equal(_mathematics(gold), _mathematics(answer), decimals)
    return Match(equal, "math-verify: equal" if equal else "math-verify: not equal")


def _letters_differ_in_case(plain: str, plain_gold: str) -> bool:
    """Whether letters that stand alone are the same in lower case only, or a letter stands there in both cases."""
    letters, gold_letters = (set(_LONE_LETTER.findall(text)) for text in (plain, plain_gold))
    if len({letter.lower() for letter in gold_letters}) < len(gold_letters):
        return True
    return letters != gold_letters and {c.lower() for c in letters} == {c.lower() for c in gold_letters}


def is_huge(plain: str) -> bool:
    """Whether a canonical text holds a value that no answer has and no computer should work out, such as `9^{9^9}`."""
    if _HUGE_NUMBER.search(plain):
        return True
    powers = ((int(base), int(power)) for base, power in _POWER_IN_EXPONENT.findall(plain))
    return any(base > 1 and power * math.log(base) > math.log(_LARGEST_EXPONENT) for base, power in powers)


def nested_too_deeply(text: str) -> bool:
    """Whether brackets stand in one another more often than in any answer."""
    depth = deepest = 0
    for character in text:
        depth += (character in "{([") - (character in "})]")
        deepest = max(deepest, depth)
    return deepest > _MAX_BRACE_DEPTH


def _mathematics(text: str) -> str:
    """The span as math-verify takes it: canonical signs, one pair of dollars."""
    spans = re.findall(r"\$([^$]+)\$", text) if re.search(r"[A-Za-z]{3}.*\$.+\$", text) else []
    body = canonical(spans[0] if len(spans) == 1 else text).replace("°", "^\\circ ").replace("%", "\\%")
    body = body.replace("<=", "\\le ").replace(">=", "\\ge ").replace("!=", "\\neq ")
    return f"${body}$"


# ---- The child processes. Work is limited by processor time, in the child itself; the clock here is the last resort.

DEADLINE_SECONDS = 300.0  # of waiting; a child's own limit of processor time ends a request long before
START_SECONDS = 300.0  # a cold import of sympy on a busy machine
NUM_WORKERS = 2
_CACHED = 8_192
_WORKER_FILE = Path(__file__).with_name("math_worker.py")


class _Worker:
    """One child process, which begins to start at once; `ask` is called by one thread at a time."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", str(_WORKER_FILE)],  # by path: the child need not import this package
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
        except OSError as error:
            raise GraderError("crash", f"math-verify cannot be started: {error}") from error
        self.buffer = b""
        self.is_ready = False

    def has_reply(self, seconds: float) -> bool:
        """Whether something can be read, after at most `seconds` of waiting: a reply, or the end of the process."""
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            return bool(selector.select(max(0.0, seconds)))

    def finish_start(self) -> None:
        """Wait until it has warmed up; raises GraderError where it cannot start."""
        if not self.is_ready:
            self._read_line(START_SECONDS)
            self.is_ready = True

    def _read_line(self, seconds: float) -> dict[str, Any]:
        assert self.process.stdout is not None
        until = time.monotonic() + seconds
        while b"\n" not in self.buffer:
            if not self.has_reply(until - time.monotonic()):
                raise GraderError("wall clock", f"math-verify passed its deadline of {seconds:g} s")
            chunk = os.read(self.process.stdout.fileno(), 65_536)
            if not chunk:
                raise self._death()
            self.buffer += chunk
        line, _, self.buffer = self.buffer.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _death(self) -> GraderError:
        code = self.process.wait()
        if code == -signal.SIGXCPU:
            return GraderError("processor time", "math-verify was ended at its limit of processor time")
        return GraderError("crash", f"the math-verify process died with exit code {code}")

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The reply; raises GraderError past the deadline or where the child has died."""
        self.finish_start()
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError as error:
            raise self._death() from error
        return self._read_line(seconds)

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
    """`num_workers` children, started together when first needed. Safe to call from any thread."""

    def __init__(self, num_workers: int = NUM_WORKERS, deadline: float = DEADLINE_SECONDS) -> None:
        self.deadline = deadline
        self.process_id = os.getpid()
        self.requests = 0  # sent to a child so far
        self._num_workers = num_workers
        self._idle: list[_Worker | None] = [None] * num_workers  # None: not started yet
        self._changed = threading.Condition()
        self._cache: OrderedDict[tuple[str, str, int], bool | GraderError] = OrderedDict()

    def equal(self, gold: str, answer: str, decimals: int = 6) -> bool:
        """Whether two spans of LaTeX mean the same; raises GraderError where math-verify gives no verdict.

        An error is kept like a verdict: the same pair does not do the same work again.
        """
        key = (gold, answer, decimals)
        with self._changed:
            found = self._cache.get(key)
            if found is not None:
                self._cache.move_to_end(key)
        if found is None:
            try:
                found = self._ask({"gold": gold, "answer": answer, "decimals": decimals})
            except GraderError as error:
                found = error
            with self._changed:
                self._cache[key] = found
                if len(self._cache) > _CACHED:
                    self._cache.popitem(last=False)
        if isinstance(found, GraderError):
            raise GraderError(found.kind, found.message)
        return found

    def warm_up(self) -> None:
        """Start every worker now, so that no later call waits for an import."""
        workers = [self._take() for _ in range(self._num_workers)]
        try:
            for worker in workers:
                worker.finish_start()
        finally:
            for worker in workers:
                self._put(worker)

    def shutdown(self) -> None:
        """Kill the idle workers; the pool stays usable and starts new ones on demand."""
        with self._changed:
            workers, self._idle = self._idle, [None] * len(self._idle)
        for worker in workers:
            if worker is not None:
                worker.kill()

    def _take(self) -> _Worker:
        """An idle worker for this thread alone, a started one if there is any."""
        with self._changed:
            while not self._idle:
                self._changed.wait()
            self._idle = [worker or _Worker() for worker in self._idle]
            ready = [worker for worker in self._idle if worker is not None and (worker.is_ready or worker.has_reply(0))]
            worker = ready[-1] if ready else self._idle[0]
            assert worker is not None
            self._idle.remove(worker)
            return worker

    def _put(self, worker: _Worker | None) -> None:
        with self._changed:
            self._idle.append(worker)
            self._changed.notify()

    def _replace(self, worker: _Worker) -> None:
        """Kill it; its successor starts beside whatever comes next."""
        worker.kill()
        try:
            successor = _Worker()
        except GraderError:  # the next request tries again, and says so
            successor = None
        self._put(successor)

    def _ask(self, request: dict[str, Any]) -> bool:
        try:
            reply = self._reply(request)
        except GraderError as error:
            if error.kind != "crash":
                raise
            reply = self._reply(request)  # the crash may have been no fault of the request's
        if "error" in reply:
            raise GraderError(reply["kind"], f"math-verify: {reply['error']}")
        return bool(reply["equal"])

    def _reply(self, request: dict[str, Any]) -> dict[str, Any]:
        worker = self._take()
        try:
            self.requests += 1
            reply = worker.ask(request, self.deadline)
        except GraderError:
            self._replace(worker)
            raise
        except BaseException:  # Ctrl-C: a worker in the middle of an answer must not be reused
            worker.kill()
            self._put(None)
            raise
        self._put(worker)
        return reply


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
