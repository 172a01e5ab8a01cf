"""Ctrl-C and SIGTERM during training: finish the iteration and save, instead of losing it."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import Any


class Interruption:
    """While entered, a first signal is only noted (`code` is set); a second one raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.code: int | None = None  # the exit code to end with: 128 + the signal's number
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.code is not None:
            raise KeyboardInterrupt
        self.code = 128 + number
        print("\nfinishing this iteration, then saving; once more to stop at once", file=sys.stderr, flush=True)
