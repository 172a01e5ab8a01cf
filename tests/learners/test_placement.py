"""What a run asks of a cluster, and the complaint where the cluster has it not; the GPUs are only declared. Slow: Ray."""

import pytest
import ray

from sharegrpo_rl.config import resolve
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.learners.placement import check_demand, demand


def config(**options):
    return resolve("GRPO", options)


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({}, {}),
        ({"num_learners": 2, "num_env_runners": 3}, {"CPU": 5}),
        ({"num_learners": 8, "num_gpus_per_learner": 1}, {"CPU": 8, "GPU": 8}),
        ({"num_env_runners": 4, "num_gpus_per_env_runner": 2}, {"CPU": 4, "GPU": 8}),
        ({"num_learners": 1, "num_gpus_per_learner": 1, "num_gpus_per_env_runner": 0.5}, {"CPU": 1, "GPU": 1.5}),
        ({"num_gpus_per_learner": 1, "num_gpus_per_env_runner": 1}, {"GPU": 1}),
    ],
)
def test_demand(options, asked):
    assert demand(config(**options)) == asked


@pytest.fixture(scope="module")
def cluster():
    ray.init(num_cpus=4, num_gpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.slow
def test_what_fits_is_let_through(cluster):
    check_demand(config(num_learners=2, num_gpus_per_learner=1, num_env_runners=2))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"num_learners": 3, "num_gpus_per_learner": 1},
            "needs 3 GPUs .3 learners with 1 GPU each.*the cluster has 2",
        ),
        ({"num_learners": 3, "num_env_runners": 2}, "num_learners, num_env_runners: the run needs 5 CPUs.*has 4"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_there_is(cluster, options, text):
    with pytest.raises(UserError, match=text):
        check_demand(config(**options))
