"""No test of grades depends on the machine's speed: math-verify gets the time that it needs."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from sharegrpo_rl.grader import shared_pool

PATIENCE_SECONDS = 3_600.0
MOST_CPU_SECONDS = 60.0  # usual is a hundredth; a scan that is quadratic in a megabyte, or exponential, takes hours


@pytest.fixture(autouse=True)
def patient_grader(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that waits for a busy machine is no grader error. Tests of deadlines bring pools of their own."""
    monkeypatch.setattr(shared_pool(), "deadline", PATIENCE_SECONDS)


@pytest.fixture
def little_work() -> Callable[[], None]:
    """A function that fails where this thread has computed for too long: processor time, so that waiting is free."""
    start = time.thread_time()

    def check() -> None:
        nonlocal start
        spent, start = time.thread_time() - start, time.thread_time()
        assert spent < MOST_CPU_SECONDS

    return check
