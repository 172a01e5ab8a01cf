"""One-step-off rollouts: sampled while the learner learns, with older weights that are corrected for, exactly resumable."""

import os
import signal

import numpy as np
import pytest
from test_runs import config, equal, figures, surroundings, weights  # noqa: F401 (surroundings is a fixture)

from sharegrpo_rl.errors import UserError

pytestmark = pytest.mark.slow
LAG = {"num_env_runners": 1, "max_staleness": 1}


def questions(algo):
    return [g.question_index for g in algo.sampled_groups()]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Five iterations: results, questions of each, the weights at the end, a checkpoint after the second."""
    algo = config("ShareGRPO", **LAG).build_algo()
    folder, results, asked = tmp_path_factory.mktemp("checkpoint"), [], []
    for iteration in range(5):
        results.append(algo.train())
        asked.append(questions(algo))
        if iteration == 1:
            algo.save_to_path(str(folder))
    yield algo, results, asked, folder, weights(algo)
    algo.stop()


def test_samples_are_one_update_old_and_corrected_for(run):
    _, results, *_ = run
    assert [r["staleness"] for r in results] == [0, 1, 1, 1, 1]
    learners = [r["learners"]["default_policy"] for r in results]
    assert learners[0]["logprob_diff_max"] < 1e-4
    assert all(learner["logprob_diff_max"] > 1e-4 for learner in learners[1:])
    assert all(learner["correction_mean"] != 1 for learner in learners[1:])
    assert all(
        learner["ratio_max_deviation"] < 1 for learner in learners
    )  # to the policy that trains, not that sampled


def test_the_first_iteration_is_that_of_a_run_without_lag(run):
    _, results, asked, *_ = run
    algo = config("ShareGRPO").build_algo()
    result = algo.train()
    assert questions(algo) == asked[0]
    assert result["groups"] == results[0]["groups"]
    algo.train()
    assert questions(algo) == asked[1]
    algo.stop()


def test_a_resumed_run_is_the_same_run(run):
    """The checkpoint holds the answers that were under way: the same questions, once each, and bit-equal weights."""
    _, results, asked, folder, end = run
    algo = config("ShareGRPO", **LAG).build_algo()
    algo.restore_from_path(str(folder))
    for expected, order in zip(results[2:], asked[2:], strict=True):
        result = algo.train()
        assert questions(algo) == order
        assert figures(result) == pytest.approx(figures(expected), abs=1e-6, nan_ok=True)
        assert result["staleness"] == 1
    assert equal(weights(algo), end)
    algo.stop()


def test_a_runner_killed_while_it_works_ahead_loses_no_question(run):
    _, _, asked, *_ = run
    algo = config("ShareGRPO", **LAG).build_algo()
    algo.train()
    (pid,) = algo.env_runner_group.foreach_env_runner(lambda r: os.getpid(), local_env_runner=False)
    os.kill(pid, signal.SIGSTOP)
    # Asked anew: certainly not answered.
    algo._prefetched = type(algo._prefetched)(algo.rollouts, algo._prefetched._requests)
    os.kill(pid, signal.SIGKILL)
    result = algo.train()
    assert questions(algo) == asked[1]
    assert result["env_runners"]["num_completions"] == 18
    assert result["staleness"] == 0  # answered again, by the weights that the new runner was given
    assert algo.rollouts.losses == 1
    assert np.isfinite(algo.train()["learners"]["default_policy"]["grad_norm"])
    algo.stop()


@pytest.mark.parametrize(
    ("changes", "text"),
    [({"num_env_runners": 0}, "num_env_runners"), ({"rollout_correction": "none"}, "rollout_correction")],
)
def test_what_does_not_go_with_it_is_refused(changes, text):
    with pytest.raises(UserError, match=text):
        config("ShareGRPO", **{**LAG, **changes}).validate()
