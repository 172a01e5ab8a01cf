"""vLLM engines that fail, hang or are killed: started again, their requests answered as if nothing had been. Slow: vLLM, Ray."""

import os
import re
import signal
import weakref

import pytest
from test_runs import surroundings  # noqa: F401 (a fixture: a cache, a reward that differs, one Ray)
from test_vllm_runs import OPTIONS, pytestmark  # noqa: F401 (slow, and skipped without vLLM)

from sharegrpo_rl.algorithms.registry import build_config
from sharegrpo_rl.generation.generator import EngineLost


@pytest.fixture
def build():
    built = []

    def make(**options):
        built.append(build_config("GRPO", "DrawnShapes-v0", {**OPTIONS, **options}, 0).build_algo())
        return built[-1]

    yield make
    for algo in built:
        algo.stop()


def tokens(batch):
    return [(g.question_id, c.token_ids.tolist()) for g in batch.groups for slot in g.completions for c in slot]


def test_an_engine_that_fails_is_replaced(build, monkeypatch):
    algo = build()
    requests = algo._next_requests(3)
    undisturbed = algo.rollouts.collect_batch(requests)
    algo.env_runner.engine.stop()  # its core is gone; the runner does not know
    before, start = weakref.ref(algo.env_runner.engine._llm), algo.env_runner.start_engine

    def start_alone():
        assert algo.env_runner.engine is not None or before() is None  # else two engines would be in memory
        return start()

    monkeypatch.setattr(algo.env_runner, "start_engine", start_alone)
    assert tokens(algo.rollouts.collect_batch(requests)) == tokens(undisturbed)
    assert before() is None
    assert algo.rollouts.losses == 1
    assert algo.train()["learners"]["default_policy"]["logprob_diff_max"] < 1e-4


def test_an_engine_that_is_never_done_ends_the_run(build):
    algo = build()
    runner = algo.env_runner
    runner.options = runner.options.model_copy(update={"rollout_timeout_s": 1e-6})
    with pytest.raises(EngineLost, match="prompts unanswered after 1e-06 s"):
        algo.train()


def test_an_engine_has_a_deadline_of_its_own_to_start(build):
    """Apart from that of weights: it downloads, loads and compiles."""
    vllm = {**OPTIONS.get("vllm", {}), "start_timeout_s": 0.1}
    algo = build(num_env_runners=1, vllm=vllm)
    words = r"did not answer within 0.1 s \(the start of its engine\) .*raise vllm.start_timeout_s"
    assert re.search(words, algo.rollouts._pool.last_loss)


def test_an_env_runner_killed_with_its_engine_loses_no_question(build):
    algo = build(num_env_runners=1)
    algo.train()
    requests = algo._next_requests(7)
    undisturbed = algo.rollouts.collect_batch(requests)
    (pid,) = algo.env_runner_group.foreach_env_runner(lambda r: os.getpid(), local_env_runner=False)
    asked = algo.rollouts.begin(requests)
    os.kill(pid, signal.SIGKILL)
    assert tokens(algo.rollouts.finish(requests, asked)) == tokens(undisturbed)
    assert algo.rollouts.losses == 1
    result = algo.train()
    assert result["env_runner_losses"] == 1
    assert result["learners"]["default_policy"]["logprob_diff_max"] < 1e-4


def test_an_engine_works_ahead(build):
    algo = build(num_env_runners=1, max_staleness=1)
    results = [algo.train() for _ in range(3)]
    assert [r["staleness"] for r in results] == [0, 1, 1]
    gaps = [r["learners"]["default_policy"]["logprob_diff_max"] for r in results]
    assert gaps[0] < 1e-4 < gaps[1]
