"""Every method solves a task with two answers; and a mixture of two such tasks runs and resumes exactly."""

from pathlib import Path

import pytest
import ray
from two_answers import ITERATIONS, two_answer_options, write_two_answers

from sharegrpo_rl.algorithms.registry import build_config

pytestmark = pytest.mark.slow
METHODS = {"GRPO": {}, "ShareGRPO": {"num_variants": 2, "num_generations": 2, "transform_probability": 0.0}}


@pytest.fixture(scope="module", autouse=True)
def surroundings(tmp_path_factory):
    """One cache and one Ray for the module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_two_answers(tmp_path_factory.mktemp("data") / "two_answers")


@pytest.mark.parametrize("method", METHODS)
def test_a_method_solves_it(method, folder):
    algo = build_config(method, "MultimodalQA-v0", two_answer_options(folder, **METHODS[method]), seed=0).build_algo()
    assert algo.evaluate_accuracy().accuracy < 0.75
    sampled = [algo.train()["env_runners"]["accuracy"] for _ in range(ITERATIONS)]
    assert algo.evaluate_accuracy().accuracy > 0.9
    assert sum(sampled[-10:]) / 10 > 0.75
    algo.stop()


def test_a_mixture_runs_by_task_and_resumes_exactly(folder, tmp_path):
    other = write_two_answers(tmp_path / "other", train=60, test=20, seed=1)
    data = [
        {"data": str(folder), "task": "many", "weight": 2},
        {"data": str(other), "task": "few", "weight": 1, "rewards": {"accuracy": 5.0}},
    ]
    options = two_answer_options(folder, env_config={"data": data}, evaluation_questions=40)

    def build():
        return build_config("GRPO", "MultimodalQA-v0", options, seed=0).build_algo()

    algo = build()
    results = [algo.train() for _ in range(2)]
    algo.save_to_path(str(tmp_path / "saved"))
    results.append(algo.train())
    report = algo.evaluate_accuracy()
    assert set(report.by_task) == {"many", "few"}
    assert report.by_task["few"]["questions"] == pytest.approx(10, abs=3)
    for result in results:
        tasks = result["groups"]["tasks"]
        assert set(tasks) == {"many", "few"}
        assert tasks["few"]["reward_mean"] == pytest.approx(5 * tasks["few"]["accuracy"], abs=1e-9)
        assert tasks["many"]["reward_mean"] <= 1
    algo.stop()
    again = build()
    again.restore_from_path(str(tmp_path / "saved"))
    repeated = again.train()
    assert repeated["groups"] == results[2]["groups"]
    assert repeated["learners"]["default_policy"] == results[2]["learners"]["default_policy"]
    again.stop()
