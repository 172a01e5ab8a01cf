"""The driver's client of the env runners: requests go out, episodes come back, new weights follow.

Requests are seeded: asked again after a runner was lost, they get the same answers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from operator import attrgetter
from typing import Any

from ray.rllib.core import COMPONENT_RL_MODULE
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

from sharegrpo_rl.config.run import GRPOOptions
from sharegrpo_rl.data.types import Completion, Group, Prompt, Slot, SlotRequest
from sharegrpo_rl.generation.generator import EngineLost, PromptDone, Prompts, Sampling, sends_adapters
from sharegrpo_rl.learners.learner import VLMLearnerGroup
from sharegrpo_rl.models.weights import GroupBroken
from sharegrpo_rl.rollouts.env_runner import RunnerError
from sharegrpo_rl.rollouts.groups import group_episodes
from sharegrpo_rl.rollouts.runner_pool import PendingCalls, RunnerPool
from sharegrpo_rl.rollouts.selection import RolloutBatch
from sharegrpo_rl.rollouts.vllm_env_runner import GroupSync, WeightPart

ATTEMPTS = 3  # at requests whose runner was lost
logger = logging.getLogger(__name__)
Render = Callable[[Sequence[SlotRequest]], list[Prompt]]


class RolloutClient:
    """The env runners of an algorithm, local or remote; as a Generator, the remote ones."""

    def __init__(self, env_runner_group: EnvRunnerGroup, learner_group: VLMLearnerGroup, options: GRPOOptions) -> None:
        self._local: Any = env_runner_group.local_env_runner
        self._pool = RunnerPool(env_runner_group)
        self._learners = learner_group
        self._options = options
        self._remote = options.num_env_runners > 0
        self._one_process = options.num_env_runners == 0 and options.num_learners == 0
        self.weights_version: int | None = None  # that runners must have; None where they share the Learner's module
        lora = None if options.lora is None else options.lora.model_dump()
        whole = options.engine == "vllm" and not sends_adapters(lora, options.vllm.model_dump())
        self.group_sync = GroupSync(self._pool, learner_group, options) if self._remote and whole else None
        self.metrics: list[Any] = []  # logged by the runners, until `take_metrics`

    @property
    def losses(self) -> int:
        """Env runners and engines lost so far."""
        return self._pool.losses

    def take_metrics(self) -> list[Any]:
        """What the runners logged since the last call."""
        metrics, self.metrics = self.metrics, []
        return metrics

    # ---- samples

    def collect_batch(self, requests: Sequence[SlotRequest]) -> RolloutBatch:
        """All completions of the requests, graded and grouped."""
        if self._remote:
            return self.finish(requests, self.begin(requests))
        return _batch(requests, self._sample_locally(requests))

    def begin(self, requests: Sequence[SlotRequest]) -> PendingCalls:
        """Send requests to the remote runners without waiting, whole questions to each in turn."""
        self._ensure_runner()
        ids = self._pool.healthy
        groups = list(dict.fromkeys(r.group for r in requests))
        runner_of = {g: ids[i % len(ids)] for i, g in enumerate(groups)}
        shares: dict[int, list[SlotRequest]] = {}
        for request in requests:
            shares.setdefault(runner_of[request.group], []).append(request)
        arguments = {i: {"requests": share, "weights_seq_no": self.weights_version} for i, share in shares.items()}
        return self._pool.call("sample_with_metrics", arguments, f"{len(groups)} questions")

    def finish(self, requests: Sequence[SlotRequest], calls: PendingCalls) -> RolloutBatch:
        """The batch of the requests that `begin` sent; those of a lost runner go to the others. Raises RunnerError where
        a request was lost too often."""
        episodes: dict[SlotRequest, list[SingleAgentEpisode]] = {}
        missing = list(requests)
        for attempt in range(ATTEMPTS):
            if attempt:
                calls = self.begin(missing)
            for _, (sampled, metrics) in sorted(self._answers(calls).items()):
                self.metrics.append(metrics)
                for episode in sampled:
                    episodes.setdefault(episode.custom_data["request"], []).append(episode)
            missing = [r for r in requests if r not in episodes]
            if not missing:
                return _batch(requests, [e for r in requests for e in episodes[r]])
        raise self._unanswered(len(missing), len(requests), "requests")

    def _sample_locally(self, requests: Sequence[SlotRequest]) -> list[SingleAgentEpisode]:
        for attempt in range(ATTEMPTS):
            try:
                episodes, metrics = self._local.sample_with_metrics(requests, self.weights_version)
                self.metrics.append(metrics)
                return episodes
            except EngineLost:
                if attempt == ATTEMPTS - 1:
                    raise
            # Outside the handler: its traceback holds the old engine, whose weights must go before another starts.
            self._pool.losses += 1
            self._local.drop_engine()
            self.push_weights(everything=True)
        raise AssertionError("the last attempt returns or raises")

    def generate(
        self,
        prompts: Prompts,
        num_generations: int,
        seeds: Sequence[int],
        sampling: Sampling,
        on_prompt_done: PromptDone | None = None,
    ) -> list[tuple[Completion, ...]]:
        """As a Generator: ungraded completions from the remote runners; prompts of a lost one go to the others."""
        completions: dict[int, tuple[Completion, ...]] = {}
        for _ in range(ATTEMPTS):
            self._ensure_runner()
            missing, ids = [i for i in range(len(prompts)) if i not in completions], self._pool.healthy
            shares = {runner: share for k, runner in enumerate(ids) if (share := missing[k :: len(ids)])}
            arguments = {
                runner: {
                    "prompts": [prompts[i] for i in share],
                    "num_generations": num_generations,
                    "seeds": [seeds[i] for i in share],
                    "sampling": sampling,
                    "weights_seq_no": self.weights_version,
                }
                for runner, share in shares.items()
            }
            calls = self._pool.call("generate", arguments, f"{len(missing)} prompts")
            for runner, answers in self._answers(calls).items():
                for index, answer in zip(shares[runner], answers, strict=True):
                    completions[index] = answer
                    if on_prompt_done is not None:
                        on_prompt_done(index, answer)
            if len(completions) == len(prompts):
                return [completions[i] for i in range(len(prompts))]
        raise self._unanswered(len(prompts) - len(completions), len(prompts), "prompts")

    def _answers(self, calls: PendingCalls) -> dict[int, Any]:
        return self._pool.answers(calls, self._options.rollout_timeout_s, "rollout_timeout_s")

    def _unanswered(self, missing: int, total: int, what: str) -> RunnerError:
        return RunnerError(f"{missing} of {total} {what} got no answer in {ATTEMPTS} attempts; {self._pool.last_loss}")

    # ---- weights

    def push_weights(self, everything: bool = False) -> None:
        """Give every runner and engine the learner's weights, and wait: RunnerError where one cannot take them.

        A runner that shares the Learner's module needs nothing. Engines are sent what training changes, or `everything`.
        """
        engine, version = self._options.engine, self._learners.weights_version
        if version == self.weights_version and not everything:
            return
        if self._one_process:
            if engine == "hf":
                return
            self._local.load_weights(version, everything)
        elif engine == "hf":
            state = {COMPONENT_RL_MODULE: self._learners.module_state(), WEIGHTS_SEQ_NO: version}
            self._call_all("set_state", {"state": state}, f"weights {version}")
        else:
            if everything:  # an engine may be new: it downloads, loads and compiles for longer than weights take
                self._call_all("prepare", {}, "the start of its engine", "vllm.start_timeout_s")
            if self._push_by_group(version, everything):
                self.weights_version = version
                return
            for number, (arrays, last) in enumerate(self._learners.weight_parts(everything)):
                part = WeightPart(version, number, last, arrays)
                self._call_all("take_part", {"part": part}, f"part {number + 1} of weights {version}")
        self.weights_version = version

    def _push_by_group(self, version: int, everything: bool) -> bool:
        """Did the weights go by a process group? If not, one warning says why, and the object store is there for them."""
        if self.group_sync is None or not self.group_sync.is_worth_trying(everything):
            return False
        try:
            self.group_sync.push(version, everything)
        except GroupBroken as error:
            logger.warning("weights %d go through the object store: %s", version, error)
            return False
        return True

    def check_engines(self) -> None:
        """Have the learners, whose weights they have, check what engines answer that were not checked before: UserError
        where one computes something else. An engine in the learner's own process checks itself."""
        if self._options.engine == "hf" or self._one_process:
            return
        for packs in self._call_all("answer_probe", {}, "the questions of a check", "rollout_timeout_s"):
            if packs:
                self._learners.check_engine(packs)

    def _call_all(
        self, method: str, arguments: dict[str, Any], what: str, option: str = "weight_sync_timeout_s"
    ) -> list[Any]:
        if not self._remote:
            return [getattr(self._local, method)(**arguments)]
        calls = self._pool.call(method, dict.fromkeys(self._pool.healthy, arguments), what)
        return list(self._pool.answers(calls, attrgetter(option)(self._options), option).values())

    def restore(self) -> list[int]:
        """Runners that came back get the current weights before they are called again."""
        return self._update_restored(self._pool.probe())

    def _ensure_runner(self) -> None:
        """Have at least one runner with the current weights; the others join when they are back."""
        for _ in range(ATTEMPTS):
            self._update_restored(self._pool.wait_for_one(self._options.weight_sync_timeout_s))
            if self._pool.healthy:
                return
        raise RunnerError(f"no env runner could take the weights in {ATTEMPTS} attempts; {self._pool.last_loss}")

    def _update_restored(self, restored: list[int]) -> list[int]:
        """All weights for every runner where one has come back, noticed or not."""
        if restored or self._pool.stale:
            self._pool.stale = False
            self.push_weights(everything=True)
            self.check_engines()
        return restored


class PrefetchedBatch:
    """The next iteration's batch, sampled while the learner learns (`max_staleness: 1`).

    Its state is the finished batch: a checkpoint waits for it, as the next iteration would have done, and a resumed run
    trains on exactly the same completions. Pixels are not kept; prompts are rendered again.
    """

    def __init__(
        self, client: RolloutClient, requests: Sequence[SlotRequest], finished: RolloutBatch | None = None
    ) -> None:
        self._client, self._requests, self._finished = client, list(requests), finished
        self._calls = None if finished else client.begin(requests)

    def batch(self) -> RolloutBatch:
        """The batch, after waiting for it."""
        if self._finished is None:
            assert self._calls is not None
            self._finished = self._client.finish(self._requests, self._calls)
        return self._finished

    def get_state(self) -> dict[str, Any]:
        """Requests, completions and rewards, as plain tables."""
        batch = self.batch()
        return {
            "requests": [asdict(r) for r in self._requests],
            "groups": [asdict(replace(g, prompts=())) for g in batch.groups],
            "errors": batch.errors,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], client: RolloutClient, render: Render) -> PrefetchedBatch:
        """Continue from `get_state()`."""
        requests = [SlotRequest(**r | {"slot": Slot(**r["slot"])}) for r in state["requests"]]
        prompts = {(r.group, r.slot.slot): p for r, p in zip(requests, render(requests), strict=True)}
        groups = [_restored_group(g, prompts) for g in state["groups"]]
        return cls(client, requests, RolloutBatch(groups, groups, len(requests), state["errors"]))


def _batch(requests: Sequence[SlotRequest], episodes: Sequence[SingleAgentEpisode]) -> RolloutBatch:
    groups = group_episodes(episodes)
    return RolloutBatch(groups, groups, len(requests), [e.custom_data["error"] for e in episodes])


def _restored_group(state: dict[str, Any], prompts: dict[tuple[int, int], Prompt]) -> Group:
    slots = tuple(Slot(**s) for s in state["slots"])
    parts = {
        "slots": slots,
        "prompts": tuple(prompts[state["group"], s.slot] for s in slots),
        "completions": tuple(tuple(Completion(**c) for c in of_slot) for of_slot in state["completions"]),
    }
    return Group(**state | parts)
