"""Going on after remote learners were lost: back to the iteration that they committed, and the same way again.

A restarted worker group holds the learners' state after some earlier iteration. The driver goes back to what it knew
then, hands the weights out, and replays the iterations since: requests are seeded by their iteration, so the replay
samples and trains the very same. Replayed iterations report nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from sharegrpo_rl.learners.failures import LearnerError, LearnersRestarted

if TYPE_CHECKING:
    from sharegrpo_rl.algorithms.run_algorithm import RunAlgorithm

T = TypeVar("T")


def recovering(training_step: Callable[[Any], None]) -> Callable[[Any], None]:
    """For an algorithm's `training_step`: an iteration that loses its learners is done again."""

    @wraps(training_step)
    def recovered(algorithm: RunAlgorithm) -> None:
        algorithm.recovery.iterate(lambda: training_step(algorithm))

    return recovered


class Recovery:
    """An algorithm's memory of the iterations to which its remote learners may yet return."""

    def __init__(self, algorithm: RunAlgorithm) -> None:
        self._algorithm = algorithm
        self._remote = algorithm.config.num_learners > 0
        self._states: dict[int, dict[str, Any]] = {}
        self._iterate: Callable[[], None] | None = None
        self._stands_at = 0  # the iteration after which everything stands after a replay

    def iterate(self, training_step: Callable[[], None]) -> None:
        """One iteration, and the learners' commit of it. Local learners need none of this."""
        if not self._remote:
            training_step()
            return
        self._iterate = training_step
        before, due = self._algorithm.metrics.get_state(), self._algorithm.iteration

        def again() -> None:
            if self._stands_at > due:  # lost right after its commit was noted: the iteration is done
                return
            self._algorithm.metrics.set_state(before)
            self._one()

        self._guarded(self._one, again)

    def run(self, action: Callable[[], T]) -> T:
        """The result of an action between iterations, done again where the learners were lost over it."""
        return self._guarded(action, action) if self._remote else action()

    def restore(self, action: Callable[[], None]) -> None:
        """An action that gives driver and learners another state, and the commit of that."""
        while True:
            try:
                action()
                if self._remote:
                    iteration = self._algorithm.iteration
                    self._states = {iteration: self._algorithm.driver_state()}
                    self._algorithm.learner_group.commit(iteration, wait=True)
                return
            except LearnersRestarted:
                continue  # they have not committed it, and get it anew

    def _guarded(self, action: Callable[[], T], again: Callable[[], T]) -> T:
        """`learner_restarts` bounds the attempts: beyond it the group raises a LearnerError."""
        goal = self._algorithm.iteration
        if not self._states:  # at the start, where learners are that have committed nothing
            self._states[goal] = self._algorithm.driver_state()
        restarted: LearnersRestarted | None = None
        while True:
            try:
                if restarted is None:
                    return action()
                self._replay(restarted.iteration, goal)
                return again()
            except LearnersRestarted as lost:
                restarted = lost

    def _one(self) -> None:
        """The iteration that is due, committed where that is due."""
        assert self._iterate is not None
        self._iterate()
        algorithm = self._algorithm
        done = algorithm.iteration + 1
        if done % algorithm.config.commit_interval == 0:
            self._states[done] = algorithm.driver_state()
            algorithm.learner_group.commit(done)
            known = algorithm.learner_group.last_commit()
            self._states = {i: state for i, state in self._states.items() if i >= known}

    def _replay(self, start: int, goal: int) -> None:
        """Bring driver, learners and whoever samples from the end of iteration `start` to that of `goal`, unless they are
        further."""
        algorithm = self._algorithm
        if start not in self._states:
            raise LearnerError(
                f"the learners came back with their state after iteration {start}, of which the driver knows nothing any "
                "more; resume the run from its last checkpoint"
            )
        reported, algorithm.metrics = algorithm.metrics, MetricsLogger(root=True)
        try:
            algorithm.return_to(self._states[start])
            algorithm.push_weights(everything=True)
            for iteration in range(start, goal):
                algorithm._iteration = iteration
                self._one()
        finally:
            algorithm.metrics, algorithm._iteration = reported, goal
        self._stands_at = max(start, goal)
