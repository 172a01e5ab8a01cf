"""Remote env runners: versions of weights are checked, waits have a deadline, and who dies or hangs is replaced. Slow: Ray."""

import os
import signal
import threading
import time
from collections import Counter

import pytest
import ray

from sharegrpo_rl.algorithms.registry import build_config
from sharegrpo_rl.rollouts.env_runner import RunnerError
from sharegrpo_rl.rollouts.runner_pool import RunnerPool

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
PATIENCE = 600  # seconds for what needs a few, on a busy machine
OPTIONS = {
    "env_config": {"kinds": ["counting"], "image_size": 28, "max_questions": 60},
    "model_config": {
        "hidden_size": 32, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "vision_layers": 1, "vocab_size": 300,
    },
    "min_pixels": 784, "max_pixels": 784, "max_prompt_tokens": 400, "max_completion_tokens": 4, "format_prompt": "",
    "num_questions": 4, "num_generations": 2, "num_env_runners": 2, "kl_coeff": 0.1,
}  # fmt: skip


@pytest.fixture(scope="module")
def algo(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
        algo = build_config("GRPO", "DrawnShapes-v0", OPTIONS, 0).build_algo()
        yield algo
        algo.stop()
        ray.shutdown()


def everyone(algo, function):
    return algo.env_runner_group.foreach_env_runner(function, local_env_runner=False)


def hang(algo, runner):
    """Keep a runner busy for longer than anyone waits."""
    algo.env_runner_group._worker_manager.actors()[runner].apply.remote(lambda _: time.sleep(3600))


def versions(algo):
    return everyone(algo, lambda r: r._weights_seq_no)


def options(algo, **changes):
    """Change options of a running algorithm."""
    assert hasattr(algo.rollouts, "_options")
    algo.rollouts._options = algo.options.model_copy(update=changes)


def whole(algo):
    """Do two runners answer, with the learner's weights?"""
    deadline = time.monotonic() + PATIENCE
    while len(algo.rollouts._pool.healthy) < 2 and time.monotonic() < deadline:
        algo.rollouts.restore()
    return versions(algo) == [algo.learner_group.weights_version] * 2


@pytest.fixture(autouse=True)
def _two_runners(algo):
    """Every test begins with two runners and the run's own options, whatever became of the one before."""
    options(algo)
    assert whole(algo)


def answered(algo):
    """How often each (question, slot) was trained on in the last iteration, and its completions."""
    groups = algo.sampled_groups()
    return Counter(g.question_index for g in groups), [
        c.token_ids.tolist() for g in groups for s in g.completions for c in s
    ]


def test_runners_have_the_learners_version_from_the_start(algo):
    assert versions(algo) == [0, 0]
    algo.train()
    assert versions(algo) == [1, 1] == [algo.rollouts.weights_version] * 2


def test_a_runner_with_other_weights_is_not_sampled_from(algo):
    def forget(runner):
        if runner.worker_index == 2:
            runner._weights_seq_no = 0

    everyone(algo, forget)
    result = algo.train()
    assert result["env_runners"]["num_completions"] == 8
    assert set(versions(algo)) == {algo.rollouts.weights_version}
    assert result["learners"]["default_policy"]["logprob_diff_max"] < 1e-4


def test_a_runner_that_hangs_is_replaced_and_named(algo, caplog):
    hang(algo, 2)
    options(algo, rollout_timeout_s=10.0)  # the other one answers in much less
    before, started = algo.rollouts.losses, time.monotonic()
    result = algo.train()
    assert time.monotonic() - started < PATIENCE
    assert algo.rollouts.losses == before + 1 == result["env_runner_losses"]
    assert "env runner 2 did not answer within 10 s (4 questions)" in caplog.text
    assert "raise rollout_timeout_s" in caplog.text
    assert result["env_runners"]["num_completions"] == 8
    assert set(answered(algo)[0].values()) == {1}
    options(algo)
    assert whole(algo)


def test_a_runner_that_takes_no_weights_is_replaced(algo, caplog):
    hang(algo, 1)
    options(algo, weight_sync_timeout_s=10.0)
    algo.rollouts.push_weights(everything=True)
    assert f"env runner 1 did not answer within 10 s (weights {algo.rollouts.weights_version})" in caplog.text
    options(algo)
    assert whole(algo)


def test_a_runner_killed_in_the_middle_loses_no_question(algo, caplog):
    """The undisturbed iteration's completions come back: requests are seeded."""
    pids = everyone(algo, lambda r: os.getpid())
    state = {k: v for k, v in algo.get_state().items() if k in ("cursor",)}
    requests = algo._next_requests(7)
    undisturbed = algo.rollouts.collect_batch(requests)
    os.kill(pids[0], signal.SIGSTOP)  # it certainly has not answered when it dies
    asked = algo.rollouts.begin(requests)
    os.kill(pids[0], signal.SIGKILL)
    again = algo.rollouts.finish(requests, asked)
    assert "was lost over 4 questions: it was killed" in caplog.text

    def tokens(batch):
        return [(g.question_id, [c.token_ids.tolist() for slot in g.completions for c in slot]) for g in batch.groups]

    assert tokens(again) == tokens(undisturbed)
    algo.cursor.set_state(state["cursor"])
    assert whole(algo)


def test_a_kill_from_outside_while_training_goes_on(algo):
    victim = everyone(algo, lambda r: os.getpid())[1]
    timer = threading.Timer(0.2, os.kill, (victim, signal.SIGKILL))
    iteration, before = algo.iteration, algo.rollouts.losses
    timer.start()
    seen = Counter()
    deadline = time.monotonic() + PATIENCE
    while algo.rollouts.losses == before and time.monotonic() < deadline:
        result = algo.train()
        assert result["env_runners"]["num_completions"] == 8
        asked, _ = answered(algo)
        assert set(asked.values()) == {1}
        seen += asked
    assert algo.rollouts.losses == before + 1
    assert max(seen.values()) - min(seen.values()) <= 1 + (algo.iteration - iteration) * 4 // 60
    assert whole(algo)


def test_an_error_in_a_runner_keeps_its_text(algo):
    pool = RunnerPool(algo.env_runner_group)
    with pytest.raises(RunnerError, match=r"env runner \d failed in it(.|\n)*KeyError"):
        pool.answers(
            pool.call("set_state", {i: {"state": {"rl_module": {}}} for i in pool.healthy}, "it"), PATIENCE, "key"
        )
    assert len(pool.healthy) == 2  # nobody was restarted for it


def test_what_kills_every_runner_ends_the_run(algo, monkeypatch):
    """A poisonous request is not asked for ever."""
    call = algo.rollouts._pool.call

    def poison(method, arguments, purpose):
        for runner in arguments if method == "sample_with_metrics" else ():
            hang(algo, runner)
        return call(method, arguments, purpose)

    monkeypatch.setattr(algo.rollouts._pool, "call", poison)
    options(algo, rollout_timeout_s=1e-3, weight_sync_timeout_s=PATIENCE)
    with pytest.raises(RunnerError, match=r"got no answer in 3 attempts; env runner \d did not answer within 0.001 s"):
        algo.train()
