"""Rollouts: requests go to the env runners, episodes come back, new weights go out; whoever dies on the way is replaced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from ray.rllib.core import COMPONENT_RL_MODULE
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

from sharegrpo_rl.data.types import Completion, Group, Prompt, Slot, SlotRequest
from sharegrpo_rl.generation.generator import EngineLost, PromptDone, Sampling
from sharegrpo_rl.rollouts.env_runner import RunnerError
from sharegrpo_rl.rollouts.groups import group_episodes
from sharegrpo_rl.rollouts.runner_pool import Asked, RunnerPool
from sharegrpo_rl.rollouts.selection import Sampled
from sharegrpo_rl.rollouts.vllm_env_runner import WeightPart

ATTEMPTS = 3  # at requests whose runner was lost


class Rollouts:
    """The env runners of an algorithm, local or remote. Requests are seeded: asked again, they get the same answers."""

    def __init__(self, env_runner_group: Any, learner_group: Any, config: Any) -> None:
        self._local = env_runner_group.local_env_runner
        self._pool = RunnerPool(env_runner_group)
        self._learners = learner_group
        self._config = config
        self._remote = env_runner_group.num_remote_env_runners() > 0
        self.weights_version: int | None = None  # that runners must have; None where they share the Learner's module
        self.metrics: list[Any] = []  # what the runners logged, until it is taken

    @property
    def losses(self) -> int:
        """Env runners and engines that were lost so far."""
        return self._pool.losses

    def take_metrics(self) -> list[Any]:
        """What the runners logged since the last call."""
        taken, self.metrics = self.metrics, []
        return taken

    # ---- samples

    def collect(self, requests: Sequence[SlotRequest]) -> list[Any]:
        """All episodes of the requests, in their order; requests of a lost runner go to the others."""
        return self.finish(requests, self.begin(requests)) if self._remote else self._sample_here(requests)

    def begin(self, requests: Sequence[SlotRequest]) -> Asked:
        """Hand out requests to remote runners without waiting, whole questions to each in turn."""
        self._restore()
        ids = self._pool.healthy
        groups = list(dict.fromkeys(r.group for r in requests))
        owner = {g: ids[i % len(ids)] for i, g in enumerate(groups)}
        shares: dict[int, list[SlotRequest]] = {}
        for request in requests:
            shares.setdefault(owner[request.group], []).append(request)
        arguments = {i: {"requests": share, "weights_seq_no": self.weights_version} for i, share in shares.items()}
        return self._pool.ask("sample_with_metrics", arguments, f"{len(groups)} questions")

    def finish(self, requests: Sequence[SlotRequest], asked: Asked) -> list[Any]:
        """The episodes of requests that `begin` handed out. Raises RunnerError where a request was lost too often."""
        done: dict[SlotRequest, list[Any]] = {}
        missing = list(requests)
        for attempt in range(ATTEMPTS):
            if attempt:
                asked = self.begin(missing)
            answers = self._pool.answers(asked, self._config.rollout_timeout_s, "rollout_timeout_s")
            for _, (episodes, metrics) in sorted(answers.items()):
                self.metrics.append(metrics)
                for episode in episodes:
                    done.setdefault(episode.custom_data["request"], []).append(episode)
            missing = [r for r in requests if r not in done]
            if not missing:
                return [e for r in requests for e in done[r]]
        raise RunnerError(
            f"{len(missing)} of {len(requests)} requests got no answer in {ATTEMPTS} attempts; {self._pool.last_loss}"
        )

    def _sample_here(self, requests: Sequence[SlotRequest], attempts: int = ATTEMPTS) -> list[Any]:
        try:
            episodes, metrics = self._local.sample_with_metrics(requests, self.weights_version)
        except EngineLost:
            if attempts == 1:
                raise
            self._pool.losses += 1
            self._local.drop_engine()
            self.push_weights(everything=True)
            return self._sample_here(requests, attempts - 1)
        self.metrics.append(metrics)
        return episodes

    def generate(
        self,
        prompts: Sequence[Prompt],
        num_generations: int,
        seeds: Sequence[int],
        sampling: Sampling,
        on_prompt_done: PromptDone | None = None,
    ) -> list[tuple[Completion, ...]]:
        """As a Generator: ungraded completions from the remote runners; prompts of a lost one go to the others."""
        done: dict[int, tuple[Completion, ...]] = {}
        for _ in range(ATTEMPTS):
            self._restore()
            missing, ids = [i for i in range(len(prompts)) if i not in done], self._pool.healthy
            parts = {runner: part for k, runner in enumerate(ids) if (part := missing[k :: len(ids)])}
            arguments = {
                runner: {
                    "prompts": [prompts[i] for i in part],
                    "num_generations": num_generations,
                    "seeds": [seeds[i] for i in part],
                    "sampling": sampling,
                    "weights_seq_no": self.weights_version,
                }
                for runner, part in parts.items()
            }
            asked = self._pool.ask("generate", arguments, f"{len(missing)} prompts")
            answers = self._pool.answers(asked, self._config.rollout_timeout_s, "rollout_timeout_s")
            for runner, completions in answers.items():
                for place, answer in zip(parts[runner], completions, strict=True):
                    done[place] = answer
                    if on_prompt_done is not None:
                        on_prompt_done(place, answer)
            if len(done) == len(prompts):
                return [done[i] for i in range(len(prompts))]
        raise RunnerError(
            f"{len(prompts) - len(done)} of {len(prompts)} prompts got no answer in {ATTEMPTS} attempts; "
            f"{self._pool.last_loss}"
        )

    # ---- weights

    def push_weights(self, everything: bool = False) -> None:
        """Give every runner and engine the learner's weights, and wait: RunnerError where one cannot take them.

        A runner that shares the Learner's module needs nothing. Engines are sent what training changes, or `everything`.
        """
        engine, version = self._config.engine, self._learners.weights_version
        if version == self.weights_version and not everything:
            return
        if self._config.one_process():
            if engine == "hf":
                return
            self._local.load_weights(version, everything)
        elif engine == "hf":
            state = {COMPONENT_RL_MODULE: self._learners.module_state(), WEIGHTS_SEQ_NO: version}
            self._everyone("set_state", {"state": state}, f"weights {version}")
        else:
            for number, (arrays, last) in enumerate(self._learners.weight_parts(everything)):
                part = WeightPart(version, number, last, arrays)
                self._everyone("take_part", {"part": part}, f"part {number + 1} of weights {version}")
        self.weights_version = version

    def _everyone(self, method: str, arguments: dict[str, Any], what: str) -> None:
        if not self._remote:
            getattr(self._local, method)(**arguments)
            return
        asked = self._pool.ask(method, dict.fromkeys(self._pool.healthy, arguments), what)
        self._pool.answers(asked, self._config.weight_sync_timeout_s, "weight_sync_timeout_s")

    def restore(self) -> list[int]:
        """Runners that came back get the current weights before they are asked anything."""
        return self._renew(self._pool.probe())

    def _restore(self) -> None:
        """Have at least one runner with the current weights; the others join when they are back."""
        for _ in range(ATTEMPTS):
            self._renew(self._pool.wait_for_one(self._config.weight_sync_timeout_s))
            if self._pool.healthy:
                return
        raise RunnerError(f"no env runner could take the weights in {ATTEMPTS} attempts; {self._pool.last_loss}")

    def _renew(self, restored: list[int]) -> list[int]:
        """All weights for everybody, where a runner has come back, noticed or not."""
        if restored or self._pool.stale:
            self._pool.stale = False
            self.push_weights(everything=True)
        return restored


# ---- One-step-off rollouts: the next iteration's questions are answered while the learner learns (`max_staleness: 1`).

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
