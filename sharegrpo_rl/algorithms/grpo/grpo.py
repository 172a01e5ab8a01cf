"""GRPO on RLlib: sample a group for every question, compare its rewards, push up what did better."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, TIMERS

from sharegrpo_rl.algorithms.group_metrics import completion_metrics, group_metrics
from sharegrpo_rl.algorithms.groups import group_episodes, permuted, plan_requests
from sharegrpo_rl.algorithms.grpo.config import GRPOConfig
from sharegrpo_rl.algorithms.kl_reward import kl_penalized
from sharegrpo_rl.algorithms.replay import ReplayBuffer
from sharegrpo_rl.algorithms.run_algorithm import RunAlgorithm
from sharegrpo_rl.algorithms.selection import Sampled, select
from sharegrpo_rl.algorithms.weight_sync import push_parts, push_state
from sharegrpo_rl.data.seeding import derive_seed
from sharegrpo_rl.data.types import Group, PromptPack, SlotRequest
from sharegrpo_rl.env_runners.qa_env_runner import RunnerError, StaleWeights
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.generation.generator import Generator
from sharegrpo_rl.models.policy import Policy
from sharegrpo_rl.ops.advantages import local_advantages

LOST_REQUEST_ATTEMPTS = 3
RUNNER_RETURN_SECONDS = 300  # a restarted runner imports everything anew, on a busy machine slowly


class GRPO(RunAlgorithm):
    """One loop for the whole family: a method overrides `build_packs` (credit) or its options (loss, schedules)."""

    config: GRPOConfig

    @classmethod
    @override(Algorithm)
    def get_default_config(cls) -> GRPOConfig:
        return GRPOConfig()

    @override(RunAlgorithm)
    def setup(self, config: Any) -> None:
        super().setup(config)
        self.weights_version: int | None = None  # that runners must have; None where they share the Learner's module
        if self.config.one_process():
            self.env_runner.share_module(self.rl_module)
        self.push_weights(everything=True)
        self._groups: list[Group] = []  # sampled; with the rewards that credit is taken from; and the credit
        self._credited: list[Group] = []
        self._packs: list[PromptPack] = []
        self._generation_batches = 0
        self.replay = ReplayBuffer(self.config.replay_size)

    # ---- one iteration

    @override(Algorithm)
    def training_step(self) -> None:
        """Sample groups, assign credit, update, and hand the new weights to every runner before the next iteration."""
        started = time.perf_counter()
        with self.metrics.log_time((TIMERS, "sampling"), reduce="mean", window=1):
            sampled = select(self._generation_batch, self.config)
        self._groups = sampled.groups
        with self.metrics.log_time((TIMERS, "learning"), reduce="mean", window=1):
            self._credited = self._rewarded(sampled.kept)
            self._packs = self.build_packs(self._credited)
            update = self.learner_group.update(self.resample(self._packs, sampled.kept))
        with self.metrics.log_time((TIMERS, "weight_sync"), reduce="mean", window=1):
            self.push_weights()
        self._log(sampled, update, time.perf_counter() - started)

    def build_packs(self, groups: Sequence[Group]) -> list[PromptPack]:
        """Credit of plain GRPO (S1): every slot's completions are compared with each other and trained under its prompt."""
        packs = []
        for group in groups:
            rewards = torch.from_numpy(group.rewards)
            advantages = local_advantages(rewards, self.config.advantage_std, self.config.advantage_eps).numpy()
            for v, slot in enumerate(group.slots):
                native = np.ones(len(group.completions[v]), bool)
                packs.append(
                    PromptPack(group.group, slot.slot, group.prompts[v], group.completions[v], advantages[v], native)
                )
        return packs

    def resample(self, packs: Sequence[PromptPack], groups: Sequence[Group]) -> list[PromptPack]:
        """With replay: groups without any advantage, and those that selection lacked, give way to earlier completions."""
        if self.config.replay_size == 0:
            return list(packs)
        self.replay.add(packs, groups, self.iteration)
        return self.replay.fill(packs, self.config, self.iteration, self.render)

    def _rewarded(self, groups: list[Group]) -> list[Group]:
        """The groups with the rewards that credit is taken from."""
        if self.config.kl_in == "reward" and self.config.uses_reference():
            groups = kl_penalized(groups, self.learner_group.reference_kl)
        if self.config.permute_rewards:
            groups = [permuted(g, derive_seed(self.config.seed or 0, self.iteration)) for g in groups]
        return groups

    def _generation_batch(self, first_group: int) -> Sampled:
        """All groups of the next `num_questions` questions, numbered from `first_group`."""
        requests = plan_requests(self.bank, self.pick_questions(), self.config, self.iteration, first_group)
        episodes = self.collect(requests)
        self._generation_batches += 1
        groups = group_episodes(episodes)
        return Sampled(groups, groups, len(requests), [e.custom_data["error"] for e in episodes])

    def collect(self, requests: Sequence[SlotRequest]) -> list[Any]:
        """All episodes of the requests, in their order; requests of a lost runner go to the others."""
        if self.env_runner_group.num_remote_env_runners() == 0:
            runner = self.env_runner_group.local_env_runner
            episodes, metrics = runner.sample_with_metrics(requests, self.weights_version)
            self.metrics.aggregate([metrics], key=ENV_RUNNER_RESULTS)
            return episodes
        done: dict[SlotRequest, list[Any]] = {}
        for _ in range(LOST_REQUEST_ATTEMPTS):
            missing = [r for r in requests if r not in done]
            if not missing:
                break
            for episode in self._ask_runners(missing):
                done.setdefault(episode.custom_data["request"], []).append(episode)
        if lost := [r for r in requests if r not in done]:
            raise RunnerError(
                f"{len(lost)} of {len(requests)} requests got no answer: every env runner that had them died"
            )
        return [e for r in requests for e in done[r]]

    def _ask_runners(self, requests: Sequence[SlotRequest]) -> list[Any]:
        """Whole questions go to runners in turn; returns what came back."""
        group = self.env_runner_group
        ids = group.healthy_env_runner_ids()
        deadline = time.monotonic() + RUNNER_RETURN_SECONDS
        while not ids and time.monotonic() < deadline:
            time.sleep(1.0)
            self.restore_env_runners(group)
            ids = group.healthy_env_runner_ids()
        if not ids:
            raise RunnerError(f"no env runner came back within {RUNNER_RETURN_SECONDS} seconds")
        groups = list(dict.fromkeys(r.group for r in requests))
        owner = {g: ids[i % len(ids)] for i, g in enumerate(groups)}
        shares = {i: [r for r in requests if owner[r.group] == i] for i in ids}
        busy = [i for i in ids if shares[i]]
        results = group.foreach_env_runner(
            "sample_with_metrics",
            kwargs=[{"requests": shares[i], "weights_seq_no": self.weights_version} for i in busy],
            remote_worker_ids=busy,
            local_env_runner=False,
            timeout_seconds=self.config.sample_timeout_s,
        )
        if wrong_input := [r for r, _ in results if isinstance(r, UserError)]:
            raise wrong_input[0]
        if errors := [r for r, _ in results if isinstance(r, str)]:
            raise RunnerError(f"an env runner failed:\n{errors[0]}")
        if any(isinstance(r, StaleWeights) for r, _ in results):  # restarted without RLlib's notice
            self.push_weights(everything=True)
            results = [(r, m) for r, m in results if not isinstance(r, StaleWeights)]
        self.metrics.aggregate([m for _, m in results], key=ENV_RUNNER_RESULTS)
        return [e for r, _ in results for e in r]

    def push_weights(self, everything: bool = False) -> None:
        """Blocking, to every runner and engine; one that shares the Learner's module needs nothing.

        Engines are sent what training changes, or `everything`.
        """
        group, engine, module = self.env_runner_group, self.config.engine, self.rl_module
        version, timeout_s = self.learner_group.local_learner._weights_seq_no, self.config.weight_sync_timeout_s
        if group.num_remote_env_runners():
            if engine == "vllm":
                push_parts(group, module, version, timeout_s, everything)
            else:
                push_state(group, module, version, timeout_s)
        elif engine == "vllm":
            group.local_env_runner.load_weights(version, everything)
        else:
            return
        self.weights_version = version

    @override(Algorithm)
    def restore_env_runners(self, env_runner_group: Any) -> list[int]:
        """A runner that came back gets the current weights before it is asked anything."""
        restored = env_runner_group.probe_unhealthy_env_runners()
        if restored:
            self.push_weights(everything=True)
        return restored

    @override(RunAlgorithm)
    def make_generator(self, policy: Policy) -> Generator:
        """The run's engine where it lives in this process; the driver of remote engines has none, and asks the policy."""
        if self.config.engine == "vllm" and self.config.one_process():
            return self.env_runner.make_generator()
        return super().make_generator(policy)

    def _log(self, sampled: Sampled, update: dict[str, float], seconds: float) -> None:
        expected = self.config.num_questions * self.config.num_variants * sampled.batches
        completions = completion_metrics(sampled.groups, sampled.errors)
        groups = group_metrics(sampled.groups, self.config.num_variants) | {
            "missing_slots": expected - sampled.requests
        }
        self.metrics.log_dict(completions, key=ENV_RUNNER_RESULTS, reduce="mean", window=1)
        self.metrics.log_dict(groups, key="groups", reduce="mean", window=1)
        if self.config.selection != "none":
            self.metrics.log_dict(sampled.metrics(), key="selection", reduce="mean", window=1)
        if self.config.replay_size:
            self.metrics.log_dict(self.replay.metrics(self.iteration), key="replay", reduce="mean", window=1)
        self.metrics.log_value("generation_batches", self._generation_batches, reduce="mean", window=1)
        self.metrics.log_value("tokens_per_second", completions["sampled_tokens"] / seconds, reduce="mean", window=1)
        self.log_update(update)

    @override(RunAlgorithm)
    def sampled_groups(self) -> list[Group]:
        return self._groups

    @override(RunAlgorithm)
    def sampled_packs(self) -> list[PromptPack]:
        return self._packs

    @override(RunAlgorithm)
    def plain_packs(self) -> list[PromptPack]:
        return GRPO.build_packs(self, self._credited)

    # ---- state

    @override(RunAlgorithm)
    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        own = {"generation_batches": self._generation_batches, "replay": self.replay.get_state()}
        return {**super().get_state(*args, **kwargs), **own}

    @override(RunAlgorithm)
    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self._generation_batches = state.get("generation_batches", 0)
        self.replay.set_state(state.get("replay", []))

    @override(Algorithm)
    def restore_from_path(self, path: Any, *args: Any, **kwargs: Any) -> None:
        """Continue from a checkpoint; every runner has its weights before this returns."""
        super().restore_from_path(path, *args, **kwargs)
        self.push_weights(everything=True)
