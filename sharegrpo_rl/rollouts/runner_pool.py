"""The remote env runners: asked with a deadline; one that dies or hangs is told apart, started again, and counted."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
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
class Asked:
    """Calls on their way: what was asked, of which runners, since when."""

    what: str
    runners: dict[Any, int]  # object reference -> runner
    since: float = field(default_factory=time.monotonic)


class RunnerPool:
    """RLlib's remote env runners, which restart by themselves; here lives what is done about it."""

    def __init__(self, env_runner_group: Any) -> None:
        self._group = env_runner_group
        self.last_loss = ""
        self.losses = 0
        self.stale = False  # a runner restarted unnoticed, and has other weights than it was asked for

    @property
    def _manager(self) -> FaultTolerantActorManager:
        return self._group._worker_manager

    @property
    def healthy(self) -> list[int]:
        """Runners that can be asked."""
        return self._group.healthy_env_runner_ids()

    def ask(self, method: str, arguments: Mapping[int, dict[str, Any]], what: str) -> Asked:
        """Call a method of some runners, each with its own arguments; returns at once.

        The actors' own methods, not RLlib's `apply`: that ends the actor over any exception and keeps its text.
        """
        handles = self._manager.actors()
        return Asked(what, {getattr(handles[i], method).remote(**given): i for i, given in arguments.items()})

    def answers(self, asked: Asked, timeout_s: float, key: str) -> dict[int, Any]:
        """What the runners answered within `timeout_s` of the question.

        The others are lost: dead ones restart by themselves, a silent one is killed and does too; `key` is the option to
        raise where silence is mere slowness. A runner without the right weights only has no answer. Raises UserError as
        the runner did, and RunnerError over any other exception in it.
        """
        left = max(0.0, asked.since + timeout_s - time.monotonic())
        calls = list(asked.runners)
        done, silent = ray.wait(calls, num_returns=len(calls), timeout=left) if calls else ([], [])
        found = {}
        for call in done:
            runner = asked.runners[call]
            try:
                found[runner] = ray.get(call)
            except RayTaskError as error:
                self._take_error(runner, asked.what, error)
            except RayError as error:
                self._lose(
                    runner, f"env runner {runner} was lost over {asked.what}: {why_lost(str(error), LESS_MEMORY)}"
                )
        for call in silent:
            runner = asked.runners[call]
            self._kill(
                runner,
                f"env runner {runner} was given {timeout_s:g} s for {asked.what}, in vain, and was started again; if it is "
                f"only slow, raise {key}",
            )
        return found

    def _take_error(self, runner: int, what: str, error: RayTaskError) -> None:
        cause = error.cause
        if isinstance(cause, StaleWeights):
            self.stale = True
        elif isinstance(cause, EngineLost):
            advice = f"; {LESS_MEMORY}" if "out of memory" in str(cause).lower() else ""
            self._kill(runner, f"env runner {runner} was started again: {cause}{advice}")
        elif isinstance(cause, UserError):
            raise cause
        else:
            raise RunnerError(
                f"env runner {runner} failed in {what}: {why_failed(cause, LESS_MEMORY)}\n{error}"
            ) from None

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

    def _kill(self, runner: int, reason: str) -> None:
        ray.kill(self._manager.actors()[runner], no_restart=False)
        self._lose(runner, reason)

    def _lose(self, runner: int, reason: str) -> None:
        self.losses += 1
        self.last_loss = reason
        logging.getLogger(__name__).warning(reason)
        self._manager.set_actor_state(runner, healthy=False)
