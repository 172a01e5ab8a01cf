"""GRPO on RLlib: sample a group for every question, compare its rewards, push up what did better."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, TIMERS

from sharegrpo_rl.algorithms.base import RunAlgorithm, recovering
from sharegrpo_rl.algorithms.config import RunConfig
from sharegrpo_rl.config import GRPOOptions, RunOptions
from sharegrpo_rl.config.run import TrainingSettings
from sharegrpo_rl.data.types import Group, PromptPack, SlotRequest
from sharegrpo_rl.data.variants import derive_seed
from sharegrpo_rl.generation.generator import Generator
from sharegrpo_rl.models.policy import Policy
from sharegrpo_rl.ops.advantages import local_advantages
from sharegrpo_rl.rollouts.collector import Ahead, Rollouts, sampled
from sharegrpo_rl.rollouts.groups import kl_penalized, permuted, plan_requests
from sharegrpo_rl.rollouts.metrics import completion_metrics, group_metrics
from sharegrpo_rl.rollouts.selection import ReplayBuffer, Sampled, select

# ---- GRPOConfig.


class GRPOConfig(RunConfig):
    """Configures GRPO.

    config = GRPOConfig().environment("DrawnShapes-v0").training(num_generations=12, lr=2e-4).debugging(seed=0)
    algo = config.build_algo()
    print(algo.train()["groups"]["valid_advantage_ratio"])
    """

    name: ClassVar[str] = "GRPO"
    options: ClassVar[type[RunOptions]] = GRPOOptions

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class or GRPO)

    def uses_reference(self) -> bool:
        """Does a KL to the reference policy take part, at any step?"""
        return TrainingSettings.pick({name: getattr(self, name) for name in self.option_names()}).uses_reference


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
        if self.config.one_process():
            self.env_runner.share_module(self.rl_module)
        self.rollouts = Rollouts(self.env_runner_group, self.learner_group, self.config)
        self.rollouts.push_weights(everything=True)
        self._ahead: Ahead | None = None
        self._groups: list[Group] = []  # sampled; with the rewards that credit is taken from; and the credit
        self._credited: list[Group] = []
        self._packs: list[PromptPack] = []
        self._generation_batches = 0
        self.replay = ReplayBuffer(self.config.replay_size)

    # ---- one iteration

    @recovering
    @override(Algorithm)
    def training_step(self) -> None:
        """Sample groups, assign credit, update, and hand the new weights to every runner before the next iteration."""
        started = time.perf_counter()
        self._groups, self._credited, self._packs = [], [], []  # the pixels of the last iteration
        with self.metrics.log_time((TIMERS, "sampling"), reduce="mean", window=1):
            batch = select(self._generation_batch, self.config)
        self._groups = batch.groups
        if self.config.max_staleness:
            self._sync()
            self._ahead = Ahead(self.rollouts, self._next_requests(self.iteration + 1))
        with self.metrics.log_time((TIMERS, "learning"), reduce="mean", window=1):
            self._credited = self._rewarded(batch.kept)
            self._packs = self.build_packs(self._credited)
            update = self.learner_group.update(self.resample(self._packs, batch.kept))
        if not self.config.max_staleness:
            self._sync()
        self._log(batch, update, time.perf_counter() - started)

    def _sync(self) -> None:
        with self.metrics.log_time((TIMERS, "weight_sync"), reduce="mean", window=1):
            self.rollouts.push_weights()

    def build_packs(self, groups: Sequence[Group]) -> list[PromptPack]:
        """Credit of plain GRPO (S1): every slot's completions are compared with each other and trained under its prompt."""
        packs = []
        for group in groups:
            rewards = torch.from_numpy(group.rewards)
            advantages = local_advantages(rewards, self.config.scale_rewards, self.config.advantage_eps).numpy()
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
        if self.config.kl_in_reward and self.config.uses_reference():
            groups = kl_penalized(groups, self.learner_group.reference_kl)
        if self.config.shuffle_rewards:
            groups = [permuted(g, derive_seed(self.config.seed or 0, self.iteration)) for g in groups]
        return groups

    def _generation_batch(self, first_group: int) -> Sampled:
        """All groups of the next `num_questions` questions, numbered from `first_group`."""
        if self._ahead is not None:
            batch, self._ahead = self._ahead.batch(), None
        else:
            requests = self._next_requests(self.iteration, first_group)
            batch = sampled(requests, self.rollouts.collect(requests))
        self.metrics.aggregate(self.rollouts.take_metrics(), key=ENV_RUNNER_RESULTS)
        self._generation_batches += 1
        return batch

    def _next_requests(self, iteration: int, first_group: int = 0) -> list[SlotRequest]:
        return plan_requests(self.bank, self.pick_questions(), self.config, iteration, first_group)

    @override(Algorithm)
    def restore_env_runners(self, env_runner_group: Any) -> list[int]:
        """RLlib's call before each iteration. Runners that are at work are looked after when they are asked again."""
        return [] if self._ahead is not None else self.rollouts.restore()

    @override(RunAlgorithm)
    def make_generator(self, policy: Policy) -> Generator:
        """The run's engine where it lives in this process; the driver of remote engines has none, and asks the policy."""
        if self.config.engine == "vllm" and self.config.num_env_runners == 0:
            return self.env_runner.make_generator()
        return super().make_generator(policy)

    @override(RunAlgorithm)
    def remote_generator(self) -> Generator:
        return self.rollouts

    def _log(self, batch: Sampled, update: dict[str, float], seconds: float) -> None:
        expected = self.config.num_questions * self.config.num_variants * batch.batches
        completions = completion_metrics(batch.groups, batch.errors)
        groups = group_metrics(batch.groups, self.config.num_variants) | {"missing_slots": expected - batch.requests}
        self.metrics.log_dict(completions, key=ENV_RUNNER_RESULTS, reduce="mean", window=1)
        self.metrics.log_dict(groups, key="groups", reduce="mean", window=1)
        if self.config.selection != "none":
            self.metrics.log_dict(batch.metrics(), key="selection", reduce="mean", window=1)
        if self.config.replay_size:
            self.metrics.log_dict(self.replay.metrics(self.iteration), key="replay", reduce="mean", window=1)
        if self.config.max_staleness:
            version = self.learner_group.weights_version - 1  # that this update began with
            staleness = np.mean([version - g.weights_version for g in batch.groups])
            self.metrics.log_value("staleness", float(staleness), reduce="mean", window=1)
        if self.config.num_env_runners:
            self.metrics.log_value("env_runner_losses", self.rollouts.losses, reduce="mean", window=1)
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
    def driver_state(self) -> dict[str, Any]:
        own = {"generation_batches": self._generation_batches, "replay": self.replay.get_state(), "ahead": self._ahead}
        return {**super().driver_state(), **own}

    @override(RunAlgorithm)
    def return_to(self, state: dict[str, Any]) -> None:
        super().return_to(state)
        self._generation_batches = state.get("generation_batches", 0)
        self.replay.set_state(state.get("replay", []))
        ahead = state.get("ahead")  # itself, or as a checkpoint has it
        self._ahead = Ahead.from_state(ahead, self.rollouts, self.render) if isinstance(ahead, dict) else ahead
        self.rollouts.metrics = list(state.get("runner_metrics", []))

    @override(RunAlgorithm)
    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        state = super().get_state(*args, **kwargs)
        ahead = self._ahead.get_state() if self._ahead is not None else None
        return {**state, "ahead": ahead, "runner_metrics": self.rollouts.metrics}

    @override(RunAlgorithm)
    def push_weights(self, everything: bool = False) -> None:
        if self._ahead is not None:
            self._ahead.batch()  # by the weights that runners have now
        self.rollouts.push_weights(everything)

    @override(Algorithm)
    def restore_from_path(self, path: Any, *args: Any, **kwargs: Any) -> None:
        """Continue from a checkpoint; every runner has its weights before this returns."""
        super().restore_from_path(path, *args, **kwargs)
        self.recovery.run(lambda: self.push_weights(everything=True))
