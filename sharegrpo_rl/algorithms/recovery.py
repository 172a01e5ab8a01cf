"""Continuing after remote learners were lost: back to the iteration that they committed, and the same iterations again.

A restarted worker group has the learners' state after some earlier iteration. The driver goes back to its own state then,
hands the weights out, and repeats the iterations since: requests are seeded by their iteration, so the repetition samples
and trains exactly the same. Repeated iterations report nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any, Protocol, TypeVar

from sharegrpo_rl.config.run import RunOptions
from sharegrpo_rl.learners.failures import LearnerError, LearnersRestarted

T = TypeVar("T")


class Recoverable(Protocol):
    """An algorithm that can return to an earlier iteration."""

    options: RunOptions
    metrics: Any
    learner_group: Any
    recovery: Recovery

    @property
    def iteration(self) -> int: ...

    def driver_state(self) -> dict[str, Any]: ...

    def return_to(self, state: dict[str, Any]) -> None: ...

    def push_weights(self, everything: bool = False) -> None: ...

    def repeating(self, iteration: int) -> AbstractContextManager[None]: ...


A = TypeVar("A", bound=Recoverable)


def recovering(training_step: Callable[[A], None]) -> Callable[[A], None]:
    """For an algorithm's `training_step`: an iteration that loses its learners is repeated."""

    @wraps(training_step)
    def recovered(algorithm: A) -> None:
        algorithm.recovery.iterate(lambda: training_step(algorithm))

    return recovered


class Recovery:
    """An algorithm's memory of the iterations to which its remote learners may yet return."""

    def __init__(self, algorithm: Recoverable) -> None:
        self._algorithm = algorithm
        self._remote = algorithm.options.num_learners > 0
        self._states: dict[int, dict[str, Any]] = {}  # after an iteration
        self._training_step: Callable[[], None] | None = None
        self._repeated_to = 0  # the last iteration that a repetition has done

    def iterate(self, training_step: Callable[[], None]) -> None:
        """One iteration, and the learners' commit of it. Local learners need none of this."""
        if not self._remote:
            training_step()
            return
        self._training_step = training_step
        metrics, iteration = self._algorithm.metrics.get_state(), self._algorithm.iteration

        def retry() -> None:
            if self._repeated_to > iteration:  # lost right after its commit was noted: the iteration is done
                return
            self._algorithm.metrics.set_state(metrics)
            self._step_and_commit()

        self._guarded(self._step_and_commit, retry)

    def run(self, action: Callable[[], T]) -> T:
        """The result of an action between iterations, repeated where the learners were lost over it."""
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
                continue  # they have not committed it, and are given it again

    def _guarded(self, action: Callable[[], T], retry: Callable[[], T]) -> T:
        """`learner_restarts` bounds the attempts: beyond it the group raises a LearnerError."""
        iteration = self._algorithm.iteration
        if not self._states:  # at the start, when the learners have committed nothing
            self._states[iteration] = self._algorithm.driver_state()
        restarted: LearnersRestarted | None = None
        while True:
            try:
                if restarted is None:
                    return action()
                self._repeat(restarted.iteration, iteration)
                return retry()
            except LearnersRestarted as error:
                restarted = error

    def _step_and_commit(self) -> None:
        """The next iteration, committed where a commit is due."""
        assert self._training_step is not None
        self._training_step()
        algorithm = self._algorithm
        done = algorithm.iteration + 1
        if done % algorithm.options.learner_commit_interval == 0:
            self._states[done] = algorithm.driver_state()
            algorithm.learner_group.commit(done)
            committed = algorithm.learner_group.last_commit()
            self._states = {i: state for i, state in self._states.items() if i >= committed}

    def _repeat(self, start: int, goal: int) -> None:
        """Bring driver, learners and env runners from the end of iteration `start` to that of `goal`, unless they are
        further."""
        algorithm = self._algorithm
        if start not in self._states:
            raise LearnerError(
                f"the learners came back with their state after iteration {start}, which the driver no longer has; resume "
                "the run from its last checkpoint"
            )
        with algorithm.repeating(start):
            algorithm.return_to(self._states[start])
            algorithm.push_weights(everything=True)
        for iteration in range(start, goal):
            with algorithm.repeating(iteration):
                self._step_and_commit()
        self._repeated_to = max(start, goal)
