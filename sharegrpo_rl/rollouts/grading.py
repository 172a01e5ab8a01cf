"""Grading in a thread of its own, while the engine is still decoding."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple

from sharegrpo_rl.data.types import Completion, SlotRequest
from sharegrpo_rl.envs.multimodal_qa import MultimodalQAEnv
from sharegrpo_rl.rewards.rubric import Score


class Graded(NamedTuple):
    """The scores of a request's completions, in order, and the wall seconds they took."""

    scores: list[Score]
    seconds: float


class BackgroundGrader:
    """Grades completions in the order of their submission, without touching the question that the environment shows.

    A context manager: it ends when everything is graded, or at the first error, raised with its own traceback.
    """

    def __init__(self, env: MultimodalQAEnv, requests: Sequence[SlotRequest]) -> None:
        if type(env).score is not MultimodalQAEnv.score:
            raise TypeError(f"{type(env).__name__} overrides score(); override grade(), which everything calls")
        self._env, self._requests = env, requests
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grading")
        self._graded: dict[int, Future[Graded]] = {}
        self._pending: deque[Future[Graded]] = deque()

    def __enter__(self) -> BackgroundGrader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def submit(self, request: int, completions: Sequence[Completion]) -> None:
        """Queue the completions of the request of that index; raises what an earlier one's grading has raised."""
        while self._pending and self._pending[0].done():
            self._pending.popleft().result()
        self._graded[request] = self._thread.submit(self._grade, request, completions)
        self._pending.append(self._graded[request])

    def results(self, completions: Sequence[Sequence[Completion]]) -> list[Graded]:
        """The scores of all requests, in order; what has not been submitted yet is graded now."""
        for request, answers in enumerate(completions):
            if request not in self._graded:
                self.submit(request, answers)
        return [self._graded[request].result() for request in range(len(completions))]

    def _grade(self, request: int, completions: Sequence[Completion]) -> Graded:
        started = time.perf_counter()
        question = self._env.bank[self._requests[request].question_index]
        scores = self._env.grade(question, [c.text for c in completions], [c.truncated for c in completions])
        return Graded(scores, time.perf_counter() - started)
