"""One-step-off rollouts: the next iteration's questions are answered while the learner learns (`rollout_lag: 1`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from sharegrpo_rl.algorithms.groups import group_episodes
from sharegrpo_rl.algorithms.rollouts import Rollouts
from sharegrpo_rl.algorithms.selection import Sampled
from sharegrpo_rl.data.types import Completion, Group, Prompt, Slot, SlotRequest

Render = Callable[[Sequence[SlotRequest]], list[Prompt]]


def sampled(requests: Sequence[SlotRequest], episodes: Sequence[Any]) -> Sampled:
    """A generation batch of episodes."""
    groups = group_episodes(episodes)
    return Sampled(groups, groups, len(requests), [e.custom_data["error"] for e in episodes])


class Ahead:
    """A generation batch that the env runners work on, or have finished.

    Its state is the finished batch: a checkpoint waits for it, as the next iteration would have done, and a resumed run
    trains on the very same completions. Pixels are not kept; prompts are rendered again.
    """

    def __init__(self, rollouts: Rollouts, requests: Sequence[SlotRequest], batch: Sampled | None = None) -> None:
        self._rollouts, self._requests, self._batch = rollouts, list(requests), batch
        self._asked = None if batch else rollouts.begin(requests)

    def batch(self) -> Sampled:
        """The batch, waited for."""
        if self._batch is None:
            assert self._asked is not None
            self._batch = sampled(self._requests, self._rollouts.finish(self._requests, self._asked))
        return self._batch

    def get_state(self) -> dict[str, Any]:
        """Requests, completions and rewards, as plain tables."""
        batch = self.batch()
        return {
            "requests": [asdict(r) for r in self._requests],
            "groups": [asdict(replace(g, prompts=())) for g in batch.groups],
            "errors": batch.errors,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], rollouts: Rollouts, render: Render) -> Ahead:
        """Go on from `get_state()`."""
        requests = [SlotRequest(**r | {"slot": Slot(**r["slot"])}) for r in state["requests"]]
        prompts = {(r.group, r.slot.slot): p for r, p in zip(requests, render(requests), strict=True)}
        groups = [_group(g, prompts) for g in state["groups"]]
        return cls(rollouts, requests, Sampled(groups, groups, len(requests), state["errors"]))


def _group(state: dict[str, Any], prompts: dict[tuple[int, int], Prompt]) -> Group:
    slots = tuple(Slot(**s) for s in state["slots"])
    again = {
        "slots": slots,
        "prompts": tuple(prompts[state["group"], s.slot] for s in slots),
        "completions": tuple(tuple(Completion(**c) for c in of_slot) for of_slot in state["completions"]),
    }
    return Group(**state | again)
