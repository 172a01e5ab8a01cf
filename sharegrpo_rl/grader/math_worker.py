"""The child process that runs math-verify: one JSON request a line in, one JSON reply a line out.

It has no deadline of its own: math-verify's alarms are off and the parent kills a worker that overruns. As a last
guard, for a parent that was killed itself, the kernel ends a worker that works on one request for far too long.
"""

from __future__ import annotations

import json
import logging
import resource
import signal
import sys
from typing import Any

_MEMORY_BYTES = 4 * 1024**3
_ORPHAN_SECONDS = 60


def equal(gold: str, answer: str, decimals: int) -> bool:
    """Whether math-verify takes the two spans of mathematics for equal."""
    from math_verify import LatexExtractionConfig, parse, verify

    config = [LatexExtractionConfig()]
    parsed_gold = parse(gold, extraction_config=config, parsing_timeout=None)
    parsed_answer = parse(answer, extraction_config=config, parsing_timeout=None)
    return bool(parsed_gold and parsed_answer) and bool(
        verify(parsed_gold, parsed_answer, float_rounding=decimals, timeout_seconds=None)
    )


def reply(line: str) -> dict[str, Any]:
    """{"equal": bool}, or {"error": text} for whatever the library raises on what a model wrote."""
    request = json.loads(line)
    try:
        return {"equal": equal(request["gold"], request["answer"], request["decimals"])}
    except (
        Exception,
        RecursionError,
    ) as error:  # any failure of the library is reported to the parent, which counts it
        return {"error": f"{type(error).__name__}: {str(error)[:200]}"}


def main() -> None:
    """Warm the parser up, say so, then answer requests until the input closes."""
    logging.disable(logging.CRITICAL)
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C belongs to the parent
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    replies = sys.stdout
    sys.stdout = sys.stderr  # a library that prints must not end up between the replies
    equal(r"$\frac{x+1}{2}$", r"$0.5x + 0.5$", 6)
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for line in sys.stdin:
        signal.alarm(_ORPHAN_SECONDS)
        print(json.dumps(reply(line)), file=replies, flush=True)
        signal.alarm(0)


if __name__ == "__main__":
    main()
