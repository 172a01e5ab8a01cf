"""Mathematics that only a computer algebra system can compare: math-verify in child processes, behind guards.

Each request has a hard wall-clock deadline: a child that overruns is killed and replaced.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import queue
import re
import selectors
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

from sharegrpo_rl.grader.algebra import same_equation, same_expression
from sharegrpo_rl.grader.key import AnswerKey, Match
from sharegrpo_rl.grader.text import canonical

_MAX_CHARACTERS = 600
_MAX_BRACE_DEPTH = 16
_MATH_SIGN = re.compile(r"[\\^_=<>+*/|]|\d")
_HUGE_NUMBER = re.compile(
    r"\^\s*\{?[^{}\s^]{1,12}\s*\^\s*\{?[^{}\s^]{1,12}\s*\^|\^\s*\{?\s*\(?\d{5,}|\d{60,}|!\s*!|\d{4,}\s*\)?\s*!|\\binom\s*\{\d{4,}"
    r"|[)\]]\s*\}?\s*\^\s*[{(]?\s*(?:[4-9]\d|\d{3,})|\^\s*\{?\d+\}?\s*!"
)
_MAX_RATIOS = 8
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
    if plain.count(":") > _MAX_RATIOS or is_huge(plain):
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


# ---- The child processes.

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
            self._idle.put(None)  # a worker that is not started yet
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
        for worker in [self._idle.get() for _ in range(self._num_workers)]:
            self._idle.put(worker or _Worker())

    def shutdown(self) -> None:
        """Kill the idle workers; the pool stays usable and starts new ones on demand."""
        workers = []
        while not self._idle.empty():
            try:
                workers.append(self._idle.get_nowait())
            except queue.Empty:  # another thread was faster
                break
        for worker in workers:
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
