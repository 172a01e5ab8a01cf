"""RLlib's callbacks, named in a run file: every hook is called, in remote runners too. Real runs, therefore slow."""

import json

import pytest
import ray
from test_runs import OPTIONS

from sharegrpo_rl.algorithms.registry import build_config
from sharegrpo_rl.config.registry import CALLBACKS, register_callbacks
from sharegrpo_rl.config.resolve import resolve
from sharegrpo_rl.config.user_code import IMPORTED, import_user_files
from sharegrpo_rl.errors import UserError

USER_FILE = """
import json
from ray.rllib.callbacks.callbacks import RLlibCallback
from sharegrpo_rl.config.registry import register_callbacks

class Watch(RLlibCallback):
    def note(self, hook, **facts):
        with open({path!r}, "a") as file:
            file.write(json.dumps({{"hook": hook, **facts}}) + "\\n")

    def on_algorithm_init(self, *, algorithm, **kwargs):
        self.note("on_algorithm_init", name=type(algorithm).__name__)

    def on_environment_created(self, *, env_runner, env, env_context, **kwargs):
        self.note("on_environment_created", worker=env_context.worker_index, questions=len(env.bank))

    def on_episode_end(self, *, episode, env_runner, metrics_logger, **kwargs):
        parts = episode.get_infos(-1)["reward_parts"]
        metrics_logger.log_value("seen", 1, reduce="sum")
        self.note("on_episode_end", parts=parts, reward=episode.get_return())

    def on_sample_end(self, *, samples, env_runner, **kwargs):
        self.note("on_sample_end", episodes=len(samples))

    def on_train_result(self, *, algorithm, result, **kwargs):
        result["mine"] = 2 * result["training_iteration"]
        self.note("on_train_result", iteration=result["training_iteration"])

    def on_evaluate_start(self, *, algorithm, **kwargs):
        self.note("on_evaluate_start")

    def on_evaluate_end(self, *, algorithm, evaluation_metrics, **kwargs):
        self.note("on_evaluate_end", accuracy=evaluation_metrics["accuracy"])

register_callbacks("watch", Watch)
"""


@pytest.fixture
def registry():
    before, imported = dict(CALLBACKS.user_functions), list(IMPORTED)
    yield
    CALLBACKS.user_functions = before
    IMPORTED[:] = imported


def test_names_are_taken_once(registry):
    register_callbacks("a", int)
    register_callbacks("a", int)
    with pytest.raises(UserError, match="registered already"):
        register_callbacks("a", str)
    assert CALLBACKS.load("a") is int
    with pytest.raises(UserError, match=r"user_callbacks: no callbacks 'b' \(known: a\)"):
        resolve("GRPO", {"user_callbacks": ["a", "b"]})


@pytest.mark.slow
@pytest.mark.parametrize("runners", [0, 1])
def test_every_hook_is_called(runners, registry, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    notes = tmp_path / "notes.jsonl"
    (tmp_path / "watch.py").write_text(USER_FILE.format(path=str(notes)))
    import_user_files([tmp_path / "watch.py"])
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        own = {"user_callbacks": ["watch"], "evaluation_interval": 2, "num_env_runners": runners}
        options = {**OPTIONS, "rewards": {"accuracy": 0.9, "format": 0.1}, **own}
        algo = build_config("GRPO", "DrawnShapes-v0", options, 0).build_algo()
        results = [algo.train() for _ in range(2)]
        algo.stop()
    finally:
        ray.shutdown()
    told = [json.loads(line) for line in notes.read_text().splitlines()]
    hooks = [note["hook"] for note in told]
    assert [r["mine"] for r in results] == [2, 4]
    assert hooks.count("on_algorithm_init") == 1
    assert hooks.count("on_train_result") == 2
    assert hooks.count("on_evaluate_start") == hooks.count("on_evaluate_end") == 1
    assert {n["worker"] for n in told if n["hook"] == "on_environment_created"} == {runners}
    ends = [n for n in told if n["hook"] == "on_episode_end"]
    assert len(ends) == 2 * 3 * 3
    assert all(n["reward"] == pytest.approx(0.9 * n["parts"]["accuracy"] + 0.1 * n["parts"]["format"]) for n in ends)
    assert [n["episodes"] for n in told if n["hook"] == "on_sample_end"] == [9, 9]
    assert [r["env_runners"]["seen"] for r in results] == [9, 9]
