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
from functools import lru_cache
from typing import Any

CPU_SECONDS = 1.5
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
    return bool(parsed_gold and parsed_answer) and bool(
        verify(parsed_gold, parsed_answer, float_rounding=decimals, timeout_seconds=None)
    )


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
