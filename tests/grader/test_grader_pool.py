"""The child processes: limits of work, crashes, threads; an error is never a verdict, and no test waits for a clock."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from sharegrpo_rl.data.types import SeedQuestion
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.grader import check_truth, grade, grade_answer, make_key, symbolic
from sharegrpo_rl.grader import grading as grading_module
from sharegrpo_rl.grader.key import GraderError
from sharegrpo_rl.grader.symbolic import GraderPool, shared_pool

PYTHON_WORK = "$(x+y+z+w+v)^{39}$"  # the library expands it in Python
PATIENCE_SECONDS = 3_600.0


@pytest.fixture(scope="module")
def shared_graders() -> Iterator[GraderPool]:
    made = GraderPool(num_workers=2, deadline=PATIENCE_SECONDS)
    yield made
    made.shutdown()


@pytest.fixture
def graders(shared_graders: GraderPool) -> GraderPool:
    """Both children started, and nothing known about any pair."""
    shared_graders.warm_up()
    shared_graders._cache.clear()
    return shared_graders


def processes(graders: GraderPool) -> list[subprocess.Popen[bytes]]:
    return [worker.process for worker in graders._idle if worker is not None]


def test_work_in_python_ends_at_the_limit_and_the_child_goes_on(graders: GraderPool) -> None:
    before = processes(graders)
    with pytest.raises(GraderError, match="processor time") as raised:
        graders.equal("$x^2+1$", PYTHON_WORK)
    assert raised.value.kind == "processor time"
    assert graders.equal("$x+1$", "$1+x$")
    assert not graders.equal("$x+1$", "$2+x$")
    assert {p.pid for p in processes(graders)} == {p.pid for p in before}


def test_an_error_is_kept_for_its_pair(graders: GraderPool) -> None:
    before = graders.requests
    for _ in range(5):
        with pytest.raises(GraderError) as raised:
            graders.equal("$x^2+1$", PYTHON_WORK)
        assert raised.value.kind == "processor time"
    assert graders.requests == before + 1


def test_what_the_kernel_ends_is_replaced_beside_the_next_request(graders: GraderPool) -> None:
    before = processes(graders)
    for process in before:
        os.kill(process.pid, signal.SIGSTOP)
    raised: list[GraderError] = []

    def ask() -> None:
        try:
            graders.equal("$x$", "$x+0$")
        except GraderError as error:
            raised.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    while len(graders._idle) == 2:
        thread.join(0.01)
    (kept,) = processes(graders)
    (busy,) = (p for p in before if p is not kept)
    os.kill(busy.pid, signal.SIGXCPU)  # what the kernel sends at the limit of processor time
    os.kill(busy.pid, signal.SIGCONT)
    thread.join()
    assert [error.kind for error in raised] == ["processor time"]
    (successor,) = (worker for worker in graders._idle if worker is not None and worker.process is not kept)
    os.kill(successor.process.pid, signal.SIGSTOP)  # it has been started, and is not waited for:
    os.kill(kept.pid, signal.SIGCONT)
    assert graders.equal("$x+1$", "$1+x$")  # the other child answers
    assert not successor.is_ready
    os.kill(successor.process.pid, signal.SIGCONT)


def test_a_crash_is_tried_once_more(graders: GraderPool) -> None:
    victim = processes(graders)[-1]
    victim.kill()
    victim.wait()
    assert graders.equal("$y+1$", "$1+y$")
    assert victim.pid not in {p.pid for p in processes(graders)}


def test_a_child_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symbolic.sys, "executable", "no-such-interpreter")
    with pytest.raises(GraderError, match="cannot be started") as raised:
        GraderPool().equal("$x$", "$y$")
    assert raised.value.kind == "crash"


def test_the_clock_is_the_last_resort(graders: GraderPool, monkeypatch: pytest.MonkeyPatch) -> None:
    for process in processes(graders):
        os.kill(process.pid, signal.SIGSTOP)  # uses no processor time, and does not come back
    monkeypatch.setattr(graders, "deadline", 0.1)
    with pytest.raises(GraderError, match="deadline") as raised:
        graders.equal("$x$", "$x+0$")
    assert raised.value.kind == "wall clock"
    for process in processes(graders):
        os.kill(process.pid, signal.SIGCONT)


def test_threads_share_the_workers(graders: GraderPool) -> None:
    found: dict[int, bool] = {}

    def ask(i: int) -> None:
        found[i] = graders.equal(f"${i}z$", f"$z \\cdot {i}$")

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(8), True)


@pytest.mark.parametrize(
    "answer",
    [
        "\\int_0^1 e^{x^3} \\sin(x^2) dx",
        "(x+y+z+w+v)^{39}",
        "\\sum_{k=0}^{100}\\binom{100}{k}x^k",
        "\\sum_{n=1}^{\\infty}\\frac{\\sin n}{n}",
        "\\prod_{k=1}^{1000}(x+k)",
    ],
)
def test_expensive_answers_cost_one_request_and_earn_nothing(answer: str) -> None:
    before = shared_pool().requests
    verdicts = {grade(f"<answer>{answer}</answer>", "x^2+1") for _ in range(4)}
    assert len(verdicts) == 1
    verdict = verdicts.pop()
    assert verdict.score == 0
    assert verdict.error is None or verdict.error.startswith("processor time: ")
    assert shared_pool().requests - before <= 2  # one, and another where a child crashed


@pytest.mark.parametrize("gold", ["10^{10^{10^{10}}}", "x^{9^{9^{9}}}", "99999!"])
def test_a_gold_that_nobody_can_work_out_costs_nothing(gold: str) -> None:
    before = shared_pool().requests
    verdict = grade("<answer>x+1</answer>", gold)
    assert (verdict.score, verdict.error) == (0, None)
    assert shared_pool().requests == before
    with pytest.raises(UserError, match=r"row 7: .*too large") as raised:
        check_truth(SeedQuestion(id="7", question="", answer=gold))
    assert "\n" not in str(raised.value)


def test_a_grader_error_is_reported_with_the_verdict() -> None:
    verdict = grade_answer("\\int_0^1 (x+y+z+w+v)^{39} dx", make_key("\\int_0^1 x dx + x"))
    assert verdict.score == 0
    assert verdict.kind == "none"
    assert verdict.error is not None
    assert verdict.error.startswith("processor time: ")


def test_a_bug_of_ours_is_counted_and_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("substring not found")

    monkeypatch.setattr(grading_module, "parse_boolean", broken)
    monkeypatch.setattr(grading_module, "_logged", set())
    with caplog.at_level(logging.ERROR):
        verdicts = [grade(f"<answer>{i}</answer>", "77") for i in range(3)]
        verdicts += [grade(f"The answer is {i}.", "77") for i in range(3)]
    assert all(v.score == 0 and (v.error or "").startswith("unexpected: ValueError at ") for v in verdicts)
    assert [record.exc_info is not None for record in caplog.records] == [True]  # with its traceback


def test_plain_answers_start_no_process() -> None:
    code = (
        "from sharegrpo_rl.grader import grading, symbolic\n"
        "key = grading.make_key('3 cm')\n"
        "assert grading.grade_answer('30 mm', key).score == 1\n"
        "assert symbolic._shared is None\n"
        "import sys; assert 'torch' not in sys.modules and 'math_verify' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_workers_end_with_their_process() -> None:
    code = (
        "from sharegrpo_rl.grader.symbolic import shared_pool\n"
        "p = shared_pool(); p.equal('$x$', '$x$')\n"
        "print([w.process.pid for w in p._idle if w])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    for pid in process_ids(done.stdout):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def process_ids(text: str) -> list[int]:
    return [int(part) for part in text.strip().strip("[]").split(",")]


def test_the_pool_is_shared() -> None:
    assert shared_pool() is shared_pool()


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
