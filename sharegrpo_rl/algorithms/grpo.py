"""GRPO on RLlib: sample a group for every question, compare its rewards, reinforce what did better. Also the methods of its
family that differ only in their options.

What a method may override, and what nothing else relies on:

    advantages(rewards [V, N]) -> [V, N]           credit of a group's completions, each trained under its own prompt
    build_packs(groups) -> [PromptPack]            credit of groups where completions are shared between prompts
    reward_stages() -> [f(groups) -> groups]       what changes rewards before credit is taken
    resample(packs) -> [PromptPack]                the packs that are finally trained on: replay
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.utils.annotations import override
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, TIMERS
from torch import Tensor

from sharegrpo_rl.algorithms.base import RunAlgorithm
from sharegrpo_rl.algorithms.recovery import recovering
from sharegrpo_rl.algorithms.registry import register_algorithm
from sharegrpo_rl.config import GRPODOptions, GRPOOptions, StepGRPOOptions
from sharegrpo_rl.config.registry import SELECTIONS
from sharegrpo_rl.data.types import Group, PromptPack, SlotRequest
from sharegrpo_rl.data.variants import derive_seed
from sharegrpo_rl.generation.generator import Generator
from sharegrpo_rl.learners.failures import PixelsLost
from sharegrpo_rl.learners.learner import in_object_store
from sharegrpo_rl.models.policy import Policy
from sharegrpo_rl.ops.advantages import local_advantages
from sharegrpo_rl.rewards.stages import RewardStage, group_stages
from sharegrpo_rl.rollouts.collector import PrefetchedBatch, RolloutClient
from sharegrpo_rl.rollouts.groups import completion_metrics, group_metrics, native_packs, plan_requests
from sharegrpo_rl.rollouts.selection import ReplayBuffer, RolloutBatch, select_groups

T = TypeVar("T")
logger = logging.getLogger(__name__)


@register_algorithm("GRPO")
class GRPO(RunAlgorithm):
    """Group Relative Policy Optimization, and the loop of its whole family.

    >>> config = GRPO.Config().environment("DrawnShapes-v0").training(num_generations=12, lr=2e-4).debugging(seed=0)
    >>> config.num_generations, config.num_variants
    (12, 1)
    """

    Options: TypeAlias = GRPOOptions
    options: GRPOOptions

    @override(RunAlgorithm)
    def setup(self, config: Any) -> None:
        super().setup(config)
        if self.config.one_process():
            self.env_runner.share_module(self.rl_module)
        self.rollouts = RolloutClient(self.env_runner_group, self.learner_group, self.options)
        self.rollouts.push_weights(everything=True)
        self.rollouts.check_engines()
        self.replay = ReplayBuffer(self.options.replay_size)
        self._select = SELECTIONS.load(self.options.selection)
        self._prefetched: PrefetchedBatch | None = None
        self._generation_batches = 0
        self._groups: list[Group] = []  # of this iteration: as sampled,
        self._rewarded: list[Group] = []  # with the rewards that credit is taken from,
        self._packs: list[PromptPack] = []  # and with their credit

    # ---- one iteration

    @recovering
    @override(Algorithm)
    def training_step(self) -> None:
        """Sample groups, assign credit, update, and hand the new weights to every runner before the next iteration."""
        started = time.perf_counter()
        self._groups, self._rewarded, self._packs = [], [], []  # frees the last iteration's pixels
        with self.metrics.log_time((TIMERS, "sampling"), reduce="mean", window=1):
            batch = select_groups(self._collect_batch, self._select, self.options)
        self._groups = batch.groups
        if self.options.max_staleness:
            self._sync_weights()
            self._prefetched = PrefetchedBatch(self.rollouts, self._next_requests(self.iteration + 1))
        with self.metrics.log_time((TIMERS, "learning"), reduce="mean", window=1):
            self._rewarded = batch.trained
            for stage in self.reward_stages():
                self._rewarded = stage(self._rewarded)
            self._packs = self.build_packs(self._rewarded)
            packs = self.resample(self._packs)
            update = self._with_pixels(packs, self.learner_group.update)
            if self.options.replays:
                self.replay.add(packs, batch.trained, self.learner_group.sampled_logprobs(), self.iteration)
        if not self.options.max_staleness:
            self._sync_weights()
        self._log(batch, update, time.perf_counter() - started)

    def advantages(self, rewards: Tensor) -> Tensor:
        """The credit of a group's completions (S1: each relative to those of its own variant). [V, N] float64 -> [V, N]."""
        return local_advantages(rewards, self.options.scale_rewards, self.options.advantage_eps)

    def build_packs(self, groups: Sequence[Group]) -> list[PromptPack]:
        """What to train: here every completion under the prompt that it was sampled from."""
        return [pack for group in groups for pack in native_packs(group, self._credit(group))]

    def reward_stages(self) -> list[RewardStage]:
        """What changes the rewards of the groups that are trained on, in order; each stage maps groups to groups."""
        reference_kl = self._reference_kl if self.options.uses_reference else None
        return group_stages(self.options, derive_seed(self.seed, self.iteration), reference_kl)

    def resample(self, packs: Sequence[PromptPack]) -> list[PromptPack]:
        """With replay: completions of earlier iterations replace groups without any advantage, and those that selection
        lacked."""
        if not self.options.replays:
            return list(packs)
        return self.replay.fill(packs, self.options, self.seed, self.iteration, self.render)

    def _credit(self, group: Group) -> NDArray[np.float64]:
        advantages = torch.as_tensor(self.advantages(torch.from_numpy(group.rewards))).double().numpy()
        if advantages.shape != group.rewards.shape:
            raise ValueError(
                f"{type(self).__name__}.advantages returned shape {advantages.shape} for rewards of {group.rewards.shape}"
            )
        return advantages

    def _reference_kl(self, groups: Sequence[Group]) -> tuple[float, list[NDArray[np.float64]]]:
        no_credit = [np.zeros_like(g.rewards) for g in groups]
        packs = [pack for group, zeros in zip(groups, no_credit, strict=True) for pack in native_packs(group, zeros)]
        kl: tuple[float, list[NDArray[np.float64]]] = self._with_pixels(packs, self.learner_group.reference_kl)
        return kl

    def _with_pixels(self, packs: Sequence[PromptPack], action: Callable[[Sequence[PromptPack]], T]) -> T:
        """What the learners make of the packs. Pixels that went with the runner that held them are rendered again, here."""
        try:
            return action(packs)
        except PixelsLost as lost:
            logger.warning("pictures of an env runner that has ended are rendered again (%s)", lost)
        requests = {
            (group.group, slot.slot): SlotRequest(group.group, group.question_index, slot, 1, 0)
            for group in (*self._groups, *self._rewarded)
            for slot in group.slots
        }
        prompts = dict(zip(requests, self.render(list(requests.values())), strict=True))
        return action([replace(p, prompt=prompts[p.group, p.slot]) if in_object_store(p.prompt) else p for p in packs])

    def _collect_batch(self, first_group: int) -> RolloutBatch:
        """All groups of the next `num_questions` questions, numbered from `first_group`."""
        if self._prefetched is not None:
            batch, self._prefetched = self._prefetched.batch(), None
        else:
            batch = self.rollouts.collect_batch(self._next_requests(self.iteration, first_group))
        self.metrics.aggregate(self.rollouts.take_metrics(), key=ENV_RUNNER_RESULTS)
        self._generation_batches += 1
        return batch

    def _next_requests(self, iteration: int, first_group: int = 0) -> list[SlotRequest]:
        return plan_requests(self.bank, self.pick_questions(), self.options, self.seed, iteration, first_group)

    def _sync_weights(self) -> None:
        with self.metrics.log_time((TIMERS, "weight_sync"), reduce="mean", window=1):
            self.rollouts.push_weights()

    def _log(self, batch: RolloutBatch, update: dict[str, float], seconds: float) -> None:
        options = self.options
        slots = options.num_questions * options.num_variants * batch.batches
        completions = completion_metrics(batch.groups, batch.errors)
        groups = group_metrics(batch.groups, options.num_variants) | {"missing_slots": slots - batch.requests}
        self.metrics.log_dict(completions, key=ENV_RUNNER_RESULTS, reduce="mean", window=1)
        self.metrics.log_dict(groups, key="groups", reduce="mean", window=1)
        if options.selection != "none":
            planned = (self.iteration + 1) * options.optimizer_steps_per_iteration
            missing = planned - update["optimizer_steps"] - update["skipped_steps"]
            selected = batch.metrics() | {"steps_missing": missing}
            self.metrics.log_dict(selected, key="selection", reduce="mean", window=1)
        if options.replay_size:
            self.metrics.log_dict(self.replay.metrics(self.iteration), key="replay", reduce="mean", window=1)
        values = {
            "generation_batches": self._generation_batches,
            "tokens_per_second": completions["sampled_tokens"] / seconds,
        }
        if options.max_staleness:
            version = self.learner_group.weights_version - 1  # that this update began with
            values["staleness"] = float(np.mean([version - g.weights_version for g in batch.groups]))
        if options.num_env_runners:
            values["env_runner_losses"] = self.rollouts.losses
        self.metrics.log_dict(values, reduce="mean", window=1)
        self.log_update(update)

    @override(RunAlgorithm)
    def sampled_groups(self) -> list[Group]:
        return self._groups

    @override(RunAlgorithm)
    def sampled_packs(self) -> list[PromptPack]:
        return self._packs

    @override(RunAlgorithm)
    def plain_packs(self) -> list[PromptPack]:
        return GRPO.build_packs(self, self._rewarded)

    # ---- env runners, evaluation

    @override(Algorithm)
    def restore_env_runners(self, env_runner_group: Any) -> list[int]:
        """Called by RLlib before each iteration. Runners at work are restored when they are called again."""
        return [] if self._prefetched is not None else self.rollouts.restore()

    @override(RunAlgorithm)
    def push_weights(self, everything: bool = False) -> None:
        if self._prefetched is not None:
            self._prefetched.batch()  # with the weights that runners have now
        self.rollouts.push_weights(everything)

    @override(RunAlgorithm)
    def make_generator(self, policy: Policy) -> Generator:
        """The run's engine where it lives in this process, else the policy itself."""
        if self.options.engine == "vllm" and self.options.num_env_runners == 0:
            return self.env_runner.make_generator()
        return super().make_generator(policy)

    @override(RunAlgorithm)
    def evaluated_generator(self) -> Generator:
        """The env runners where the driver has no model, or where their engines are faster than it."""
        if self.options.num_env_runners and (self.options.num_learners or self.options.engine == "vllm"):
            self.push_weights()
            return self.rollouts
        return super().evaluated_generator()

    # ---- state

    @override(RunAlgorithm)
    def driver_state(self) -> dict[str, Any]:
        return {
            **super().driver_state(),
            "generation_batches": self._generation_batches,
            "replay": self.replay.get_state(),
            "prefetched": self._prefetched,
        }

    @override(RunAlgorithm)
    def return_to(self, state: dict[str, Any]) -> None:
        super().return_to(state)
        self._generation_batches = state.get("generation_batches", 0)
        self.replay.set_state(state.get("replay", []))
        batch = state.get("prefetched")  # itself, or a table from a checkpoint
        self._prefetched = (
            PrefetchedBatch.from_state(batch, self.rollouts, self.render) if isinstance(batch, dict) else batch
        )
        self.rollouts.metrics = list(state.get("runner_metrics", []))

    @override(RunAlgorithm)
    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        state = super().get_state(*args, **kwargs)
        batch = self._prefetched.get_state() if self._prefetched is not None else None
        return {**state, "prefetched": batch, "runner_metrics": self.rollouts.metrics}

    @override(Algorithm)
    def restore_from_path(self, path: Any, *args: Any, **kwargs: Any) -> None:
        """Continue from a checkpoint; every runner has its weights before this returns."""
        super().restore_from_path(path, *args, **kwargs)
        self.recovery.run(lambda: self.push_weights(everything=True))


@register_algorithm("GRPOD")
class GRPOD(GRPO):
    """GRPO-D (OThink-MR1): GRPO whose KL weight follows a schedule, low while it explores and higher later (O3).

    The reward is R_acc + alpha R_format (O1): `rewards: {accuracy: 1.0, format: alpha}`. The loss is GRPO's with the mean
    over each sequence and a k3 KL (O4). The schedule is in `ops/schedules.py`, driven by optimizer steps.

    >>> GRPOD.Config().training(kl_min=0.0, kl_max=0.02, total_steps=120).kl_schedule
    'v_shape'
    """

    Options: TypeAlias = GRPODOptions


@register_algorithm("StepGRPO")
class StepGRPO(GRPO):
    """StepGRPO (R1-VL): GRPO with rewards for the steps of the reasoning, not only for its answer.

    StepRAR is accuracy + 0.1 x the share of key steps that the reasoning contains, StepRVR is 1 where the reasoning is
    complete and in order: `rewards: {accuracy: 1.0, key_steps: 0.1, step_validity: 1.0}` (`rewards/steps.py`). The layout
    of a completion is `answer_format: steps`.

    >>> StepGRPO.Config().training(warm_start={"rows": 2000, "steps": 500}).answer_format
    'steps'
    """

    Options: TypeAlias = StepGRPOOptions
