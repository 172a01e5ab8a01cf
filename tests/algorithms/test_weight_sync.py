"""New weights for remote runners: versions are checked, waits have a deadline and say who was waited for. Slow: Ray."""

import time

import pytest
import ray

from sharegrpo_rl.algorithms.registry import build_config
from sharegrpo_rl.algorithms.weight_sync import ask_runners
from sharegrpo_rl.env_runners.qa_env_runner import RunnerError

pytestmark = pytest.mark.slow
OPTIONS = {
    "env_config": {"kinds": ["counting"], "image_size": 28, "max_questions": 60},
    "model_config": {
        "hidden_size": 32, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "vision_layers": 1, "vocab_size": 300,
    },
    "min_pixels": 784, "max_pixels": 784, "max_prompt_tokens": 400, "max_completion_tokens": 4, "format_prompt": "",
    "num_questions": 2, "num_samples": 2, "num_env_runners": 2,
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


def versions(algo):
    return algo.env_runner_group.foreach_env_runner(lambda r: r._weights_seq_no, local_env_runner=False)


def test_runners_have_the_learners_version_from_the_start(algo):
    assert versions(algo) == [0, 0]
    algo.train()
    assert versions(algo) == [1, 1] == [algo.weights_version] * 2


def test_a_runner_with_other_weights_is_not_sampled_from(algo):
    def forget(runner):
        if runner.worker_index == 2:
            runner._weights_seq_no = 0

    algo.env_runner_group.foreach_env_runner(forget, local_env_runner=False)
    result = algo.train()
    assert result["env_runners"]["num_completions"] == 4
    assert set(versions(algo)) == {algo.weights_version}
    assert result["learners"]["default_policy"]["sampler_gap_max"] < 1e-4


def test_a_hanging_runner_is_named(algo):
    group = algo.env_runner_group
    group.foreach_env_runner_async(lambda r: time.sleep(6 * (r.worker_index == 2)))
    algo.config = algo.config.copy(copy_frozen=False)
    algo.config.weight_sync_timeout_s = 1.0
    started = time.monotonic()
    with pytest.raises(RunnerError, match=r"env runner 2 to take weights \d+, in vain.*weight_sync_timeout_s"):
        algo.push_weights()
    assert time.monotonic() - started < 5
    time.sleep(6)
    algo.push_weights()


def test_an_error_on_the_way_keeps_its_text(algo):
    with pytest.raises(RunnerError, match=r"could not take it(.|\n)*KeyError"):
        ask_runners(algo.env_runner_group, "take_state", {"state": {"rl_module": {}}}, time.monotonic() + 20, "it")
