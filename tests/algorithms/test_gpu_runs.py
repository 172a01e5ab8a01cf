"""Whole iterations with learners and generation on a GPU: the same as on the CPU. Needs one GPU.

uv run pytest -m slow tests/algorithms/test_gpu_runs.py
"""

import sys

import pytest
import ray
import torch
from test_runs import OPTIONS, register_noise

from sharegrpo_rl.algorithms.registry import build_config

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
ONE_GPU = {"num_gpus_per_learner": 1, "num_gpus_per_env_runner": 1}
PLACES = {
    "driver": ONE_GPU,
    "driver, LoRA": {**ONE_GPU, "lora": {"r": 4}, "kl_coeff": 0.1},
    "learner": {"num_learners": 1, "num_gpus_per_learner": 1},
    "learner, fsdp2": {"num_learners": 1, "num_gpus_per_learner": 1, "sharding": "fsdp2"},
    "learner and runner": {
        "num_learners": 1,
        "num_gpus_per_learner": 0.5,
        "num_env_runners": 1,
        "num_gpus_per_env_runner": 0.5,
    },
}


@pytest.fixture(scope="module", autouse=True)
def surroundings(tmp_path_factory):
    from sharegrpo_rl.config.registry import REWARDS

    ray.cloudpickle.register_pickle_by_value(sys.modules["test_runs"])
    register_noise()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        hook = {"worker_process_setup_hook": register_noise}
        ray.init(num_cpus=6, include_dashboard=False, log_to_driver=False, runtime_env=hook)
        yield
        ray.shutdown()
    del REWARDS.user_functions["noise"]


def figures(**options):
    """Loss and gradient norm of two iterations, where the driver's model is, and GPUs that nobody holds."""
    algo = build_config("ShareGRPO", "DrawnShapes-v0", {**OPTIONS, **options}, 0).build_algo()
    found = [algo.train()["learners"]["default_policy"] for _ in range(2)]
    learner = getattr(algo.learner_group, "local_learner", None)
    where = "elsewhere" if learner is None else next(learner.rl_module.model.parameters()).device.type
    free = ray.available_resources().get("GPU", 0)
    algo.stop()
    return [(f["policy_loss"], f["grad_norm"]) for f in found], where, free


@pytest.mark.parametrize("place", PLACES)
def test_a_gpu_computes_what_the_cpu_does(place):
    on_cpu = {k: v for k, v in PLACES[place].items() if k in ("lora", "kl_coeff")}
    expected, at_home, _ = figures(**on_cpu)
    found, where, free = figures(**PLACES[place])
    assert at_home == "cpu"
    assert where == ("cuda" if "num_learners" not in PLACES[place] else "elsewhere")
    assert where == "cuda" or free == 0
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5)
