"""The child processes: deadlines, crashes, threads; an error is never a verdict."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from sharegrpo_rl.grader import grade_answer, make_key, symbolic
from sharegrpo_rl.grader import symbolic as pool
from sharegrpo_rl.grader.symbolic import GraderError, GraderPool

SLOW = "$9^{9^{9^{9}}}$"


@pytest.fixture(scope="module")
def graders() -> Iterator[GraderPool]:
    made = GraderPool(num_workers=1, deadline=60)
    made.warm_up()
    yield made
    made.shutdown()


def test_an_overrun_is_killed_and_the_next_request_answered(graders: GraderPool) -> None:
    graders.warm_up()
    worker = graders._idle.queue[0]
    assert worker is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graders, "deadline", 1.0)
        with pytest.raises(GraderError, match="deadline of 1 s"):
            graders.equal("$1$", SLOW)
    assert worker.process.poll() is not None
    graders.warm_up()
    assert graders.equal("$x+1$", "$1+x$")
    assert not graders.equal("$x+1$", "$2+x$")


def test_a_crashed_worker_is_replaced(graders: GraderPool) -> None:
    graders.warm_up()
    worker = graders._idle.queue[0]
    assert worker is not None
    worker.process.kill()
    worker.process.wait()
    with pytest.raises(GraderError, match="died"):
        graders.equal("$y+1$", "$1+y$")
    graders.warm_up()
    assert graders.equal("$y+1$", "$1+y$")


def test_threads_share_the_workers(graders: GraderPool) -> None:
    graders.warm_up()
    found: dict[int, bool] = {}

    def ask(i: int) -> None:
        found[i] = graders.equal(f"${i}z$", f"$z \\cdot {i}$")

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(8), True)


def test_a_grader_error_is_reported_with_the_verdict(graders: GraderPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symbolic, "shared_pool", lambda: graders)
    monkeypatch.setattr(symbolic, "is_huge", lambda plain: False)  # let the tower of powers through to the child
    monkeypatch.setattr(graders, "deadline", 1.0)
    graders.warm_up()
    verdict = grade_answer("x^{9^{9^{9^{9}}}} - x^{9^{9^{9^{9}}}} + \\int_0^1 9^{9^{9^{9}}} dx", make_key("\\int_0^1 x dx + x"))
    assert verdict.score == 0
    assert verdict.error is not None


def test_plain_answers_start_no_process() -> None:
    code = (
        "from sharegrpo_rl.grader import grading, symbolic\n"
        "key = grading.make_key('3 cm')\n"
        "assert grading.grade_answer('30 mm', key).score == 1\n"
        "assert symbolic._shared is None\n"
        "import sys; assert 'torch' not in sys.modules and 'math_verify' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_workers_end_with_their_process() -> None:
    code = (
        "from sharegrpo_rl.grader.symbolic import shared_pool\n"
        "p = shared_pool(); p.equal('$x$', '$x$')\n"
        "print([w.process.pid for w in p._idle.queue if w])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, timeout=120, capture_output=True, text=True)
    for pid in process_ids(done.stdout):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def process_ids(text: str) -> list[int]:
    return [int(part) for part in text.strip().strip("[]").split(",")]


def test_the_pool_is_shared() -> None:
    assert pool.shared_pool() is pool.shared_pool()


@pytest.mark.slow
def test_inside_a_ray_actor() -> None:
    ray = pytest.importorskip("ray")

    class Grader:
        def score(self) -> float:
            return grade_answer("(x+1)^2", make_key("x^2+2x+1")).score

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        actor = ray.remote(Grader).options(max_concurrency=2).remote()
        assert ray.get([actor.score.remote() for _ in range(2)], timeout=120) == [1.0, 1.0]
    finally:
        ray.shutdown()
