"""The child process that runs math-verify: one JSON request a line in, one JSON reply a line out.

Each request may use CPU_SECONDS of this process's own time, whatever else the machine does. A timer of that time ends
Python code; where one operation of the interpreter takes longer (a power with a million digits), the kernel ends the
process. Without a parent the input closes and the process ends.
"""

from __future__ import annotations

import json
import logging
import resource
import signal
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

CPU_SECONDS = 2.0
_KERNEL_SECONDS = 3  # rounded down to a whole second of the process's time, so after 2 to 3 s
_REPEAT_SECONDS = 0.25  # a library may catch everything once
_MEMORY_BYTES = 4 * 1024**3
_PARSED = 256
# Forms whose first parsing is slow, because the parser learns its grammar as it goes.
_LEARNT = (
    r"$\frac{x+1}{2}$",
    r"$0.5x + 0.5$",
    r"$(5*\sqrt{2}-7)^7$",
    r"$-\log((1-x)/(x+1))$",
    r"$\left(-\frac{1}{4},+\infty\right)$",
    r"$6^{1/5}*\cos(\pi /15)-\sin^2{x}*i$",
    r"$\begin{pmatrix}\frac{1}{3x^{2/3}}&0\\1&-\sin(x)\end{pmatrix}$",
    r"$x^2+y^2=1$",
    r"$x \le 5, y > 2$",
    r"$\{1, \sqrt[3]{2}\}\cup[0, 3]$",
    r"$\frac{n!}{k!(n-k)!} \cdot \binom{n}{2}$",
    r"$|x-3| + e^{-2x} \pm 2\%$",
    r"$\sum_{k=1}^{n} k^2 + \int_0^1 x dx$",
    r"$f(x) = 2x + \ln 3, a_1 = \overline{AB}$",
)


class OutOfTime(BaseException):
    """The request used its processor time; no Exception, so that a library does not take it for a failure of its own."""


class _Timer:
    """Raises OutOfTime in the main thread when the process has computed for `seconds` since `start`."""

    def __init__(self) -> None:
        self.is_running = False
        signal.signal(signal.SIGPROF, self._ring)

    def _ring(self, *_: object) -> None:
        if self.is_running:
            raise OutOfTime

    def start(self, seconds: float) -> None:
        self.is_running = True
        signal.setitimer(signal.ITIMER_PROF, seconds, _REPEAT_SECONDS)

    def stop(self) -> None:
        self.is_running = False
        signal.setitimer(signal.ITIMER_PROF, 0.0)


@lru_cache(maxsize=_PARSED)
def _parsed(text: str) -> list[Any]:
    from math_verify import LatexExtractionConfig, parse

    found: list[Any] = parse(text, extraction_config=[LatexExtractionConfig()], parsing_timeout=None)
    return found


def equal(gold: str, answer: str, decimals: int) -> bool:
    """Whether math-verify takes the two spans of mathematics for equal."""
    from math_verify import verify

    parsed_gold, parsed_answer = _parsed(gold), _parsed(answer)
    if not parsed_gold or not parsed_answer or _contradict(parsed_gold[0], parsed_answer[0]):
        return False
    return bool(verify(parsed_gold, parsed_answer, float_rounding=decimals, timeout_seconds=None))


# ---- Equations that contradict each other: math-verify would solve both for each of their unknowns before it says so.

_PLACES = (0.737, 1.291, 0.419, 2.113, 1.618)  # of the other unknowns; five are more than an answer has
_STARTS = (0.9 + 0.2j, -1.7 + 0.1j, 3.1 - 0.4j)
_STEPS = 25


def _contradict(gold: Any, answer: Any) -> bool:
    """Whether two relations are surely unlike: other unknowns, an equation and an inequality, or a solution of the gold's
    equation that does not solve the answer's."""
    from sympy import Eq, Float
    from sympy.core.relational import Relational

    if not isinstance(gold, Relational) or not isinstance(answer, Relational):
        return False
    if isinstance(gold, Eq) != isinstance(answer, Eq):
        return True
    if not isinstance(gold, Eq):
        return False
    sides = (gold.lhs - gold.rhs, answer.lhs - answer.rhs)
    if sides[0].free_symbols != sides[1].free_symbols:
        return True
    return not any(side.has(Float) for side in sides) and _solution_fails(*sides)


def _solution_fails(gold: Any, answer: Any) -> bool:
    unknowns = sorted(gold.free_symbols, key=str)
    if not 0 < len(unknowns) <= len(_PLACES):
        return False

    def at(side: Any, x: complex) -> complex:
        return complex(side.evalf(subs=dict(zip(unknowns, (x, *_PLACES[1:]), strict=False))))

    try:
        for start in _STARTS:
            if (root := _root(lambda x: at(gold, x), start)) is not None:
                return abs(at(answer, root)) > 0.01 * (
                    1 + abs(at(answer, root + 0.5))
                )  # multiple roots are found roughly
    except (ArithmeticError, AttributeError, NotImplementedError, TypeError, ValueError):
        return False  # no numbers, so that nothing is said: math-verify decides
    return False


def _root(f: Callable[[complex], complex], start: complex) -> complex | None:
    """A zero near `start` by the secant method; None where it finds none."""
    a, b = start, start * 1.01 + 0.01
    at_a, at_b = f(a), f(b)
    for _ in range(_STEPS):
        if abs(at_b) < 1e-10:
            return b
        if at_a == at_b:
            return None
        a, b, at_a = b, b - at_b * (b - a) / (at_b - at_a), at_b
        at_b = f(b)
    return None


def reply(line: str, timer: _Timer) -> dict[str, Any]:
    """{"equal": bool}, or {"error": text, "kind": kind} for whatever the library does with what a model wrote."""
    request = json.loads(line)
    try:
        try:
            timer.start(CPU_SECONDS)
            return {"equal": equal(request["gold"], request["answer"], request["decimals"])}
        finally:
            timer.stop()
    except OutOfTime:
        timer.stop()
        return {"error": f"more than {CPU_SECONDS:g} s of processor time", "kind": "processor time"}
    except Exception as error:  # any failure of the library is reported to the parent, which counts it
        return {"error": f"{type(error).__name__}: {str(error)[:200]}", "kind": "library error"}


def _limit_processor_time() -> None:
    """From now on the kernel ends this process after 2 to 3 s of computing."""
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + _KERNEL_SECONDS, hard))


def main() -> None:
    """Warm the parser up, say so, then answer requests until the input closes."""
    logging.disable(logging.CRITICAL)
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C belongs to the parent
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    replies, timer = sys.stdout, _Timer()
    sys.stdout = sys.stderr  # a library that prints must not end up between the replies
    for text in _LEARNT:
        equal(text, _LEARNT[0], 6)
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for line in sys.stdin:
        _limit_processor_time()
        print(json.dumps(reply(line, timer)), file=replies, flush=True)


if __name__ == "__main__":
    main()
