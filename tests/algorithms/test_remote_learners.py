"""Runs whose learners live in Ray Train workers: the same runs as in one process, and the same after learners were lost.
Slow: Ray, and several processes that load torch."""

import os
import signal
import sys

import numpy as np
import pytest
import ray
from test_runs import OPTIONS as RUN
from test_runs import register_noise

from sharegrpo_rl.algorithms.registry import build_config
from sharegrpo_rl.models.loading import ModelSettings, load_policy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test file
OPTIONS = {**RUN, "replay_size": 12, "learner_timeout_s": 300, "learner_restarts": 10}
ITERATIONS = 5


@pytest.fixture(scope="module", autouse=True)
def surroundings(tmp_path_factory):
    """A cache of its own, a reward that differs in every process, one Ray with room for two groups of learners."""
    from sharegrpo_rl.config.registry import REWARDS

    ray.cloudpickle.register_pickle_by_value(sys.modules["test_runs"])
    register_noise()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        ray.init(
            num_cpus=6,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=300 * 2**20,
            runtime_env={"worker_process_setup_hook": register_noise},
        )
        yield
        ray.shutdown()
    del REWARDS.user_functions["noise"]


def build(**options):
    return build_config("ShareGRPO", "DrawnShapes-v0", {**OPTIONS, **options}, 0).build_algo()


def questions(algo):
    return [g.question_id for g in algo.sampled_groups()]


def completions(algo):
    return [c.token_ids.tolist() for g in algo.sampled_groups() for s in g.completions for c in s]


def figures(result):
    """What two runs must agree on: groups, learner and replay; pictures are encoded by each rank that shows them."""
    learner = {k: v for k, v in result["learners"]["default_policy"].items() if k != "encoded_images"}
    return {**result["groups"], **learner, **result["replay"]}


def weights(algo):
    ((_, state),) = ray.get(algo.learner_group.module_state()).items()
    return {name: np.array(value) for name, value in state.items()}


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


class Run:
    """Everything that a run shows of itself, iteration by iteration."""

    def __init__(self, algo, iterations):
        self.results, self.questions, self.completions = [], [], []
        for _ in range(iterations):
            self.results.append(algo.train())
            self.questions.append(questions(algo))
            self.completions.append(completions(algo))
        self.figures = [figures(r) for r in self.results]
        self.weights, self.cursor = weights(algo), algo.cursor.get_state()
        self.steps = self.figures[-1]["optimizer_steps"]
        self.sampled = self.results[-1]["env_runners"].get("num_episodes_lifetime")
        self.accuracy = algo.evaluate_accuracy().accuracy


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A run with two learners, its checkpoint from before the first iteration, and how it went undisturbed."""
    algo = build(num_learners=2)
    folder = str(tmp_path_factory.mktemp("start"))
    algo.save_to_path(folder)
    yield algo, folder, Run(algo, ITERATIONS)
    algo.stop()


def test_a_run_is_that_of_one_process(two):
    _, _, remote = two
    algo = build()
    alone = Run(algo, ITERATIONS)
    algo.stop()
    assert remote.questions == alone.questions
    assert remote.completions[:2] == alone.completions[:2]
    for one, other in zip(remote.figures[:2], alone.figures[:2], strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    assert remote.cursor == alone.cursor
    assert remote.steps == alone.steps


def test_the_driver_knows_its_model_without_having_it(two, tmp_path):
    algo, *_ = two
    assert {part for part, _, _ in algo.parameter_table()} == {"language model", "vision tower", "projector"}
    policy = load_policy(ModelSettings(str(algo.export(str(tmp_path / "export")))))
    assert same(weights(algo), {n: t.numpy() for n, t in policy.model.state_dict().items()})


def kill(algo, rank):
    os.kill(algo.learner_group._group.members[rank].pid, signal.SIGKILL)


def before(algo, method, iteration, rank):
    """Have a learner killed right before a call of the group in some iteration, once."""
    group, original, done = algo.learner_group, getattr(algo.learner_group, method), []

    def disturbed(*arguments, **keywords):
        if algo.iteration == iteration and not done:
            done.append(True)
            kill(algo, rank)
        return original(*arguments, **keywords)

    setattr(group, method, disturbed)
    return lambda: delattr(group, method)


@pytest.mark.parametrize(
    ("method", "rank", "learner_commit_interval"), [("update", 1, 1), ("module_state", 0, 1), ("commit", 1, 2)]
)
def test_a_learner_killed_within_an_iteration_changes_nothing(two, method, rank, learner_commit_interval):
    algo, folder, undisturbed = two
    algo.restore_from_path(folder)
    algo.options = algo.options.model_copy(update={"learner_commit_interval": learner_commit_interval})
    restarts = algo.learner_group.restarts
    undo = before(algo, method, 3, rank)
    again = Run(algo, ITERATIONS)
    undo()
    assert algo.learner_group.restarts == restarts + 1
    assert again.results[-1]["learner_restarts"] == restarts + 1
    assert [r["training_iteration"] for r in again.results] == [1, 2, 3, 4, 5]
    assert again.questions == undisturbed.questions
    assert again.completions == undisturbed.completions
    assert again.figures == undisturbed.figures
    assert (again.cursor, again.steps, again.sampled) == (undisturbed.cursor, undisturbed.steps, undisturbed.sampled)
    assert same(again.weights, undisturbed.weights)
    assert again.accuracy == undisturbed.accuracy


def test_a_learner_killed_right_after_its_commit_was_noted_changes_nothing(two):
    algo, folder, undisturbed = two
    algo.restore_from_path(folder)
    group, original = algo.learner_group, algo.learner_group.commit

    def noted_then_lost(iteration):
        original(iteration, wait=iteration == 3)
        if iteration == 3:
            kill(algo, 1)
            for _ in range(1000):  # until the death is noticed
                group.module_state()

    algo.learner_group.commit = noted_then_lost
    again = Run(algo, ITERATIONS)
    del algo.learner_group.commit
    assert again.figures == undisturbed.figures
    assert (again.questions, again.cursor) == (undisturbed.questions, undisturbed.cursor)
    assert same(again.weights, undisturbed.weights)


def test_a_learner_killed_over_a_checkpoint_changes_nothing(two, tmp_path):
    algo, folder, undisturbed = two
    algo.restore_from_path(folder)
    for _ in range(2):
        algo.train()
    kill(algo, 0)
    algo.save_to_path(str(tmp_path))
    assert algo.iteration == 2
    other = build()  # one process goes on from it
    other.restore_from_path(str(tmp_path))
    assert figures(other.train()) == pytest.approx(undisturbed.figures[2], abs=1e-6)
    assert questions(other) == undisturbed.questions[2]
    other.stop()


@pytest.mark.parametrize("runners", [1, 2])
def test_remote_runners_answer_for_a_driver_without_a_model(two, runners):
    algo, folder, undisturbed = two
    algo.restore_from_path(folder)
    report = algo.evaluate_accuracy()
    remote = build(num_learners=1, num_env_runners=runners)
    with pytest.raises(RuntimeError, match="the driver holds no model"):
        _ = remote.rl_module
    first = remote.evaluate_accuracy()
    assert [r.text for r in first.records] == [r.text for r in report.records]
    for i in range(2):
        assert figures(remote.train()) == pytest.approx(undisturbed.figures[i], abs=1e-5)
        assert completions(remote) == undisturbed.completions[i]
    remote.stop()


def test_a_learner_killed_while_the_runners_are_a_step_ahead_changes_nothing(tmp_path):
    algo = build(num_learners=1, num_env_runners=1, max_staleness=1)
    algo.save_to_path(str(tmp_path))
    undisturbed = Run(algo, 4)
    algo.restore_from_path(str(tmp_path))
    undo = before(algo, "update", 2, 0)
    again = Run(algo, 4)
    undo()
    assert algo.learner_group.restarts == 1
    assert again.questions == undisturbed.questions
    assert again.completions == undisturbed.completions
    assert again.figures == undisturbed.figures
    assert same(again.weights, undisturbed.weights)
    algo.stop()


def test_supervised_runs_have_remote_learners_too():
    options = {k: v for k, v in OPTIONS.items() if k not in ("num_generations", "replay_size", "rewards")}
    losses = []
    for number in (0, 1):
        algo = build_config("SFT", "DrawnShapes-v0", {**options, "num_learners": number}, 0).build_algo()
        losses.append([algo.train()["learners"]["default_policy"]["policy_loss"] for _ in range(2)])
        algo.evaluate_accuracy()
        algo.stop()
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


@pytest.mark.parametrize("learners", [0, 1])
def test_a_runner_killed_after_it_answered_takes_nothing_along(learners, caplog):
    """Its pictures are in the object store by its name, and gone with it."""
    found = []
    for dies in (False, True):
        algo = build(num_env_runners=1, num_learners=learners)
        try:
            if dies:
                algo.reward_stages = dying_before(algo.reward_stages, algo)
            found.append(figures(algo.train()))
            assert algo.train()["env_runners"]["num_completions"] > 0
        finally:
            algo.stop()
    assert "pictures of an env runner that has ended are rendered again" in caplog.text
    assert found[0] == found[1]


def dying_before(stages, algo):
    """The method, which first kills the only runner, and waits until it is gone."""

    def call():
        algo.reward_stages = stages
        (actor,) = algo.env_runner_group._worker_manager.actors().values()
        os.kill(ray.get(actor.apply.remote(lambda runner: os.getpid())), signal.SIGKILL)
        while answers(actor):
            pass
        return stages()

    return call


def answers(actor):
    try:
        return ray.get(actor.ping.remote()) is not None
    except ray.exceptions.RayActorError:
        return False
