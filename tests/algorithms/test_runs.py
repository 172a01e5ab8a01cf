"""Real runs on drawn shapes: build, train, evaluate, save, restore, remote runners, Tune. Minutes, therefore slow."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from ray import tune
from two_answers import write_two_answers

from sharegrpo_rl.algorithms.registry import build_config, register_with_tune
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.models.loading import ModelSettings, load_policy
from sharegrpo_rl.rollouts.env_runner import QAEnvRunner, RunnerError

pytestmark = pytest.mark.slow
OPTIONS = {
    "env_config": {"kinds": ["counting"], "image_size": 28, "max_questions": 120, "num_wordings": 3},
    "model_config": {
        "hidden_size": 32, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "vision_layers": 1, "vocab_size": 300,
    },
    "min_pixels": 784, "max_pixels": 784, "max_prompt_tokens": 400, "max_completion_tokens": 8, "format_prompt": "",
    "warm_start": {"rows": 32, "steps": 3, "batch_size": 4}, "evaluation_questions": 8,
    "num_questions": 3, "num_generations": 3, "minibatch_size": 2, "lr": 1e-3,
    "rewards": {"accuracy": 0.5, "noise": 0.5},
}  # fmt: skip


def noisy(completions, **columns):
    """A reward that differs between completions, so that there is always something to learn."""
    return [(sum(map(ord, c)) % 7) / 7 for c in completions]


def register_noise():
    """Make the reward known in this process."""
    from sharegrpo_rl.config.registry import REWARDS, register_reward

    REWARDS.user_functions.pop("noise", None)
    register_reward("noise", noisy)


@pytest.fixture(scope="module", autouse=True)
def surroundings(tmp_path_factory):
    """A cache of its own, a reward of its own in every process, one Ray."""
    from sharegrpo_rl.config.registry import REWARDS

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test file
    register_noise()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            runtime_env={"worker_process_setup_hook": register_noise},
        )
        yield
        ray.shutdown()
    del REWARDS.user_functions["noise"]


def config(run="ShareGRPO", seed=0, **options):
    return build_config(run, "DrawnShapes-v0", {**OPTIONS, **options}, seed)


def figures(result):
    """What two equal runs must agree on, flat: groups, learner and sampled completions."""
    sampled = {k: v for k, v in result["env_runners"].items() if not k.endswith("seconds") and not isinstance(v, dict)}
    return {**result["groups"], **result["learners"]["default_policy"], **sampled}


def differences(one, other):
    """{figure: (one, other)} where two results are not bit-equal."""
    one, other = figures(one), figures(other)
    assert one.keys() == other.keys()
    return {k: (one[k], other[k]) for k in one if repr(one[k]) != repr(other[k])}


def weights(algo):
    return {k: v.copy() for k, v in algo.rl_module.get_state().items()}


def equal(one, other):
    return all(np.array_equal(one[k], other[k]) for k in one)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One run: results of three iterations, the weights after them, a checkpoint after the first."""
    algo = config().build_algo()
    folder = tmp_path_factory.mktemp("checkpoint")
    results = [algo.train()]
    algo.save_to_path(str(folder))
    results += [algo.train(), algo.train()]
    yield algo, results, folder, weights(algo)
    algo.stop()


def test_a_runner_in_another_folder_finds_relative_data(tmp_path, monkeypatch, caplog):
    """Ray's workers run where it was started, not where the driver is. Questions that are left out are told."""
    write_two_answers(tmp_path / "mine" / "two", train=24, test=8)
    rows = tmp_path / "mine" / "two" / "train.jsonl"
    long = json.loads(rows.read_text().splitlines()[0]) | {
        "id": "long",
        "question": "Light or dark, " + "say it now " * 300,
    }
    with rows.open("a") as file:
        file.write(json.dumps(long) + "\n")
    monkeypatch.chdir(tmp_path / "mine")
    options = {**OPTIONS, "env_config": {"data": "two"}, "num_env_runners": 1, "warm_start": None}
    algo = build_config("GRPO", "MultimodalQA-v0", options, 0).build_algo()
    try:
        assert algo.config.env_config["data"] == str(tmp_path / "mine" / "two")
        assert "1 of 25 training questions are longer than max_prompt_tokens and are left out; " in caplog.text
        assert "raise max_prompt_tokens = 400, or lower max_pixels = 784" in caplog.text
        assert algo.train()["env_runner_losses"] == 0
    finally:
        algo.stop()


def test_the_result_tree(run):
    algo, results, *_ = run
    for i, result in enumerate(results):
        assert result["training_iteration"] == i + 1
        learner = result["learners"]["default_policy"]
        assert learner["optimizer_steps"] == 2 * (i + 1)
        assert learner["logprob_diff_max"] < 1e-4
        assert result["env_runners"]["num_completions"] == 3 * 2 * 3
        groups = result["groups"]
        assert groups["valid_accuracy_ratio"] == groups["valid_advantage_ratio"]
        assert 0 <= groups["valid_accuracy_ratio"] <= groups["valid_reward_ratio"] <= 1  # the format differs too
        assert result["tokens_per_second"] > 0
    assert algo.warm_start_report()["rows"] == 32
    assert {part for part, _, _ in algo.parameter_table()} == {"language model", "vision tower", "projector"}


def test_sampled_groups_carry_their_questions(run):
    algo, *_ = run
    for group in algo.sampled_groups():
        assert algo.question(group.question_index).id == group.question_id
        assert len(group.prompts) == len(group.slots) <= 2


def test_restore_is_bit_equal(run):
    _, results, folder, expected = run
    other = config().build_algo()
    other.restore_from_path(str(folder))
    again = [other.train(), other.train()]
    assert [r["training_iteration"] for r in again] == [2, 3]
    assert [differences(a, b) for a, b in zip(again, results[1:], strict=True)] == [{}, {}]
    assert equal(expected, weights(other))
    other.restore_from_path(str(folder))  # back in place: older weights are taken too
    assert differences(other.train(), results[1]) == {}
    other.stop()


def test_one_seed_one_run_and_another_seed_another(run):
    _, results, *_ = run
    twin = config().build_algo()
    assert differences(twin.train(), results[0]) == {}
    twin.stop()
    stranger = config(seed=1).build_algo()
    assert differences(stranger.train(), results[0])
    stranger.stop()


def test_export_answers_like_the_run(run, tmp_path):
    algo, *_ = run
    folder = algo.export(str(tmp_path / "export"))
    policy = load_policy(ModelSettings(str(folder)))
    for (name, one), (_, other) in zip(
        policy.model.named_parameters(), algo.rl_module.model.named_parameters(), strict=True
    ):
        assert torch.equal(one, other), name
    report, blind = algo.evaluate_accuracy(), algo.evaluate_accuracy(blind=True)
    assert report.questions == blind.questions == 8
    assert report.accuracy == algo.evaluate_accuracy().accuracy


def test_permuted_rewards_leave_the_metrics_true(run):
    _, results, *_ = run
    control = config(shuffle_rewards=True).build_algo()
    first = control.train()
    assert first["env_runners"]["reward_mean"] == results[0]["env_runners"]["reward_mean"]
    assert first["groups"] == results[0]["groups"]
    assert first["learners"]["default_policy"] != results[0]["learners"]["default_policy"]
    control.stop()


def test_a_remote_runner_gives_the_same_run(run):
    _, results, *_ = run
    algo = config(num_env_runners=1).build_algo()
    for expected in results[:2]:
        result = algo.train()
        assert result["groups"] == expected["groups"]
        assert result["learners"]["default_policy"] == pytest.approx(expected["learners"]["default_policy"], abs=1e-5)
    assert algo.env_runner_group.num_remote_env_runners() == 1
    algo.stop()


class BrokenRunner(QAEnvRunner):
    """Fails in a way that only its text explains."""

    def _generate(self, prompts, requests):
        raise KeyError("the lost key of the runner")


class ComplainingRunner(QAEnvRunner):
    """Meets wrong input."""

    def _generate(self, prompts, requests):
        raise UserError("picture 7 is broken; replace it")


@pytest.mark.parametrize(
    ("kind", "error", "text"), [(BrokenRunner, RunnerError, "lost key"), (ComplainingRunner, UserError, "picture 7")]
)
def test_an_error_in_a_remote_runner_is_raised(kind, error, text):
    settings = config("GRPO", num_env_runners=1)
    settings.env_runner_cls = kind
    algo = settings.build_algo()
    with pytest.raises(error, match=text):
        algo.train()
    algo.stop()


def test_a_killed_runner_is_replaced(run):
    _, results, *_ = run
    algo = config(num_env_runners=1).build_algo()
    assert same_groups(algo.train(), results[0])
    (actor,) = algo.env_runner_group._worker_manager.actors().values()
    ray.kill(actor, no_restart=False)
    assert same_groups(algo.train(), results[1])
    algo.stop()


def same_groups(one, other):
    return one["groups"] == other["groups"]


@pytest.mark.parametrize("as_dict", [False, True])
def test_tuner(tmp_path: Path, as_dict):
    register_with_tune()
    space = config("ShareGRPO", num_env_runners=0)
    if as_dict:
        space = {**OPTIONS, "env": "DrawnShapes-v0", "seed": 0, "lr": tune.grid_search([1e-3])}
    tuner = tune.Tuner(
        "ShareGRPO",
        param_space=space,
        run_config=tune.RunConfig(
            stop={"training_iteration": 1}, storage_path=str(tmp_path), verbose=0, name="trial",
        ),
    )  # fmt: skip
    (result,) = tuner.fit()
    assert result.error is None
    assert result.metrics["training_iteration"] == 1
    assert result.metrics["learners"]["default_policy"]["optimizer_steps"] == 2
