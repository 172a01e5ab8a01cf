"""Every method trains on a CPU and solves a task with two answers within a minute; a control shows that it need not."""

from pathlib import Path

import pytest
import ray
from two_answers import ITERATIONS, two_answer_options, write_two_answers

from sharegrpo_rl.algorithms.registry import build_config
from sharegrpo_rl.config import resolve
from sharegrpo_rl.config.metrics import known_metrics

pytestmark = pytest.mark.slow
KL = {"kl_min": 0.0, "kl_max": 0.02, "total_steps": ITERATIONS}
METHODS = {
    "GRPO": ("GRPO", {}),
    "Share-GRPO": ("ShareGRPO", {"num_variants": 2, "num_generations": 2}),
    "GRPO-D, v_shape": ("GRPOD", {**KL, "kl_schedule": "v_shape"}),
    "GRPO-D, linear_increase": ("GRPOD", {**KL, "kl_schedule": "linear_increase"}),
    # At R1-VL's temperature of 1.2 a model this small loses the layout of its steps. Step rewards are nearly equal in a
    # group of 4, and 3 of 8 seeds then settle on one answer; in groups of 8 all of 5 seeds solve it in 40 iterations.
    "StepGRPO": ("StepGRPO", {"max_completion_tokens": 64, "temperature": 1.0, "num_generations": 8}),
    "GRPO + dynamic sampling": ("GRPO", {"selection": "dynamic_sampling", "max_generation_batches": 3}),
    "GRPO + online filter": ("GRPO", {"selection": "online_filter", "max_generation_batches": 3}),
    "GRPO + replay": ("GRPO", {"replay_size": 256}),
    "GRPO, one step ahead": ("GRPO", {"num_env_runners": 1, "max_staleness": 1}),
    "SFT": ("SFT", {"num_questions": 64}),
}
SAMPLING_ONLY = ("num_generations", "num_variants")


@pytest.fixture(scope="module", autouse=True)
def surroundings(tmp_path_factory):
    """One cache, so that all methods leave from one warm-started model, and one Ray."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_two_answers(tmp_path_factory.mktemp("data") / "two_answers")


def trained(run, folder, **changes):
    """(accuracy before, after, results) of ITERATIONS iterations."""
    options = two_answer_options(folder, **changes)
    if run == "SFT":
        options = {key: value for key, value in options.items() if key not in SAMPLING_ONLY}
    algo = build_config(run, "MultimodalQA-v0", options, seed=0).build_algo()
    before = algo.evaluate_accuracy()
    results = [algo.train() for _ in range(ITERATIONS)]
    after = algo.evaluate_accuracy()
    algo.stop()
    assert before.format_rate == 1.0
    return before.accuracy, after.accuracy, results


@pytest.mark.parametrize("method", METHODS)
def test_a_method_solves_it(method, folder):
    run, changes = METHODS[method]
    before, after, results = trained(run, folder, **changes)
    assert 0.3 < before < 0.7
    assert after > 0.9
    assert results[-1]["learners"]["default_policy"]["optimizer_steps"] == ITERATIONS


def test_rewards_that_say_nothing_teach_nothing(folder):
    """The same run with rewards shuffled inside each group: what solves the task is the reward."""
    _, after, _ = trained("GRPO", folder, shuffle_rewards=True)
    assert after < 0.75


@pytest.mark.parametrize("run", ["GRPO", "SFT"])
def test_every_metric_that_a_search_may_name_is_reported(run, folder):
    algo = build_config(run, "MultimodalQA-v0", two_answer_options_of(run, folder), seed=0).build_algo()
    result = algo.train()
    algo.stop()
    for metric in known_metrics(resolve(run, {})):
        found = result
        for part in metric.split("/"):
            found = found[part]
        assert isinstance(float(found), float), metric


def two_answer_options_of(run, folder):
    options = two_answer_options(folder, evaluation_interval=1)
    return {key: value for key, value in options.items() if run != "SFT" or key not in SAMPLING_ONLY}
