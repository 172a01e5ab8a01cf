"""The remote env runners: called with a deadline, restarted where they die or hang, and counted."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.utils.actor_manager import FaultTolerantActorManager

from sharegrpo_rl.errors import UserError
from sharegrpo_rl.generation.generator import EngineLost
from sharegrpo_rl.learners.failures import why_failed, why_lost
from sharegrpo_rl.rollouts.env_runner import RunnerError, StaleWeights

PROBE_SECONDS = 1.0
LESS_MEMORY = (
    "lower num_questions, num_generations or max_pixels, start fewer env runners a node, or set vllm.kv_cache_gb or "
    "vllm.gpu_memory_utilization"
)


@dataclass(frozen=True)
class PendingCalls:
    """Remote calls under way: what they are for, which runner each is on, and since when."""

    purpose: str
    runners: dict[Any, int]  # object reference -> runner
    since: float = field(default_factory=time.monotonic)


class RunnerPool:
    """RLlib's remote env runners: called with a deadline; one that dies or hangs is restarted and counted."""

    def __init__(self, env_runner_group: EnvRunnerGroup) -> None:
        self._group = env_runner_group
        self.last_loss = ""
        self.losses = 0
        self.stale = False  # a runner restarted unnoticed, so its weights are not the requested ones

    @property
    def _manager(self) -> FaultTolerantActorManager:
        return self._group._worker_manager

    @property
    def healthy(self) -> list[int]:
        """Runners that can be called."""
        return self._group.healthy_env_runner_ids()

    def call(self, method: str, arguments: Mapping[int, dict[str, Any]], purpose: str) -> PendingCalls:
        """Call a method of some runners, each with its own arguments; returns at once.

        These are the actors' own methods, not RLlib's `apply`, which kills the actor over any exception and keeps its text.
        """
        actors = self._manager.actors()
        return PendingCalls(
            purpose, {getattr(actors[i], method).remote(**kwargs): i for i, kwargs in arguments.items()}
        )

    def answers(self, calls: PendingCalls, timeout_s: float, option: str) -> dict[int, Any]:
        """What the runners answered within `timeout_s` of the call.

        The others are lost: dead ones restart by themselves, a silent one is killed and restarts too; `option` is the one
        to raise where it is only slow. A runner without the right weights merely has no answer. Raises UserError as the
        runner did, and RunnerError over any other exception in it.
        """
        remaining = max(0.0, calls.since + timeout_s - time.monotonic())
        refs = list(calls.runners)
        done, silent = ray.wait(refs, num_returns=len(refs), timeout=remaining) if refs else ([], [])
        answers = {}
        for ref in done:
            runner = calls.runners[ref]
            try:
                answers[runner] = ray.get(ref)
            except RayTaskError as error:
                self._handle_error(runner, calls.purpose, error)
            except RayError as error:
                reason = why_lost(str(error), LESS_MEMORY)
                self._mark_lost(runner, f"env runner {runner} was lost over {calls.purpose}: {reason}")
        for ref in silent:
            runner = calls.runners[ref]
            self._restart(
                runner,
                f"env runner {runner} did not answer within {timeout_s:g} s ({calls.purpose}) and was restarted; if it is "
                f"only slow, raise {option}",
            )
        return answers

    def _handle_error(self, runner: int, purpose: str, error: RayTaskError) -> None:
        cause = error.cause
        if isinstance(cause, StaleWeights):
            self.stale = True
        elif isinstance(cause, EngineLost):
            advice = f"; {LESS_MEMORY}" if "out of memory" in str(cause).lower() else ""
            self._restart(runner, f"env runner {runner} was restarted: {cause}{advice}")
        elif isinstance(cause, UserError):
            raise cause
        else:
            reason = why_failed(cause, LESS_MEMORY)
            raise RunnerError(f"env runner {runner} failed in {purpose}: {reason}\n{error}") from None

    def probe(self) -> list[int]:
        """Runners that came back since the last call: they have no weights of the run yet."""
        if len(self.healthy) == self._manager.num_actors() and not self._manager._restored_actors:
            return []
        return self._manager.probe_unhealthy_actors(timeout_seconds=PROBE_SECONDS, mark_healthy=True)

    def wait_for_one(self, timeout_s: float) -> list[int]:
        """`probe` until there is a healthy runner; RunnerError where none comes back in time."""
        deadline = time.monotonic() + timeout_s
        restored = self.probe()
        while not self.healthy:
            if time.monotonic() > deadline:
                raise RunnerError(f"no env runner came back within {timeout_s:g} s; {self.last_loss}")
            restored += self.probe()
        return restored

    def _restart(self, runner: int, reason: str) -> None:
        ray.kill(self._manager.actors()[runner], no_restart=False)
        self._mark_lost(runner, reason)

    def _mark_lost(self, runner: int, reason: str) -> None:
        self.losses += 1
        self.last_loss = reason
        logging.getLogger(__name__).warning(reason)
        self._manager.set_actor_state(runner, healthy=False)
