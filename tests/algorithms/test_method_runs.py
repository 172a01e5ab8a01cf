"""Every method builds, trains, and goes on bit-equal from a checkpoint; what is particular to it shows in its metrics."""

import numpy as np
import pytest
import ray

from sharegrpo_rl.algorithms.registry import build_config

pytestmark = pytest.mark.slow
OPTIONS = {
    "env_config": {"kinds": ["form"], "image_size": 28, "max_questions": 600},
    "model_config": {
        "hidden_size": 32, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "vision_layers": 1, "vocab_size": 512,
    },
    "min_pixels": 784, "max_pixels": 784, "max_prompt_tokens": 400, "max_completion_tokens": 32, "format_prompt": "",
    "warm_start": {"rows": 400, "steps": 150, "batch_size": 16, "lr": 5e-3}, "evaluation_questions": 8,
    "num_questions": 4, "lr": 1e-3, "total_steps": 3,
}  # fmt: skip
SAMPLED = {"num_generations": 4, "minibatch_size": 2}
METHODS = {
    "v_shape": ("GRPOD", {**SAMPLED, "kl_max": 0.5, "total_steps": 6}),
    "linear_increase": ("GRPOD", {**SAMPLED, "kl_schedule": "linear_increase", "kl_min": 0.0, "total_steps": 6}),
    "steps": ("StepGRPO", {**SAMPLED, "max_completion_tokens": 120}),
    "dynamic sampling": ("GRPO", {**SAMPLED, "selection": "dynamic_sampling", "max_generation_batches": 3}),
    "filter and replay": ("GRPO", {**SAMPLED, "selection": "online_filter", "max_generation_batches": 2, "replay_size": 30}),
    "shared and replayed": ("ShareGRPO", {**SAMPLED, "num_generations": 2, "replay_size": 30}),
    "nucleus": ("ShareGRPO", {**SAMPLED, "num_generations": 2, "top_p": 0.8}),
    "kl in reward": ("GRPO", {**SAMPLED, "kl_coeff": 0.1, "kl_in_reward": True, "kl_estimator": "k1"}),
    "overlong": ("GRPO", {**SAMPLED, "overlong_buffer": 8}),
    "supervised": ("SFT", {"minibatch_size": 2}),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def surroundings(tmp_path_factory):
    """A cache of its own, one Ray."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield
        ray.shutdown()


def build(method, **more):
    run, options = METHODS[method]
    return build_config(run, "DrawnShapes-v0", {**OPTIONS, **options, **more}, 0).build_algo()


def steady(result):
    """What two equal runs agree on."""
    sampled = {k: v for k, v in result["env_runners"].items() if "seconds" not in k} if "groups" in result else {}
    kept = {k: result[k] for k in ("groups", "selection", "replay", "generation_batches") if k in result}
    return {**kept, **result["learners"]["default_policy"], "sampled": sampled.get("reward_mean")}


@pytest.mark.parametrize("method", METHODS)
def test_trains_and_resumes_bit_equal(method, tmp_path):
    algo = build(method)
    algo.train()
    algo.save_to_path(str(tmp_path / "checkpoint"))
    expected = [algo.train(), algo.train()]
    after = algo.rl_module.get_state()
    other = build(method)
    other.restore_from_path(str(tmp_path / "checkpoint"))
    found = [other.train(), other.train()]
    for one, two in zip(found, expected, strict=True):
        assert repr(steady(one)) == repr(steady(two))
    state = other.rl_module.get_state()
    assert all(np.array_equal(state[name], after[name]) for name in after)
    check(method, algo, expected[-1])
    algo.stop()
    other.stop()


def check(method, algo, result):
    """The mark that each method leaves on its metrics."""
    update = result["learners"]["default_policy"]
    if method in ("v_shape", "linear_increase"):
        step = update["optimizer_steps"] - 1
        assert update["kl_coeff"] == pytest.approx(algo.learner_group.local_learner.step.options.kl_weight(step))
    if method == "steps":
        assert result["env_runners"]["reward_parts"].keys() >= {"key_steps", "step_validity"}
        assert result["rows_without_key_steps"] == 0
    if method == "dynamic sampling":
        assert result["selection"]["trained_groups"] <= 4
        assert result["generation_batches"] >= 3
    if "repla" in method:
        assert result["replay"]["size"] == len(algo.replay.entries) > 0
    if method == "nucleus":
        assert update["correction_mean"] < 1
        assert update["logprob_diff_mean"] > 1e-4
    if method == "kl in reward":
        assert "kl" not in result["env_runners"]["reward_parts"]  # of the sampled groups, whose rewards stay true
        assert update["kl_coeff"] == pytest.approx(0.1)
    if method == "overlong":
        assert result["env_runners"]["reward_parts"]["overlong"] <= 0
    if method == "supervised":
        assert update["pairs"] == 4
        assert algo.sampled_groups() == []


@pytest.mark.parametrize(("bounds", "missing"), [((0.9, 0.95), [2, 4]), ((0.0, 1.0), [0, 0])])  # no group, every group
def test_steps_that_selection_leaves_out_are_counted(bounds, missing):
    low, high = bounds
    algo = build(
        "filter and replay", filter_low=low, filter_high=high, max_generation_batches=1, replay_size=0, total_steps=4
    )
    results = [algo.train() for _ in missing]
    assert [result["selection"]["steps_missing"] for result in results] == missing
    assert algo.learner_group.local_learner.step.optimizer_steps == 4 - missing[-1]
    algo.stop()


def test_a_remote_runner_renders_replayed_prompts(tmp_path):
    """Prompts of replayed completions are rendered in the driver, whoever sampled them."""
    local, remote = build("filter and replay"), build("filter and replay", num_env_runners=1)
    for _ in range(3):
        one, two = local.train(), remote.train()
        assert one.get("replay") == two.get("replay")
        assert one["groups"] == two["groups"]
    local.stop()
    remote.stop()
